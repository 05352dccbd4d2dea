"""A few generated schemas with the small model; `python -m tests.system.guided_answers` takes all of them."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.system.guided_answers import run
from tests.system.stack import TINY, running_stack, stack_config


@pytest.mark.timeout(300)
async def test_answers_that_end_fit_their_schema(tmp_path: Path) -> None:
    config = stack_config(worker__engine="llamacpp", cache_dir=str(tmp_path))
    async with (
        running_stack(config, model_path=TINY) as stack,
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=280) as client,
    ):
        answers = await run(client, range(6))
    assert [answer.wrong for answer in answers if answer.wrong] == []
    assert sum(answer.ended for answer in answers) >= 8
