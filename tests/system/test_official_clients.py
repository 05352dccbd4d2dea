"""The official client and an agent framework against a whole deployment whose engine follows a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from qwenserve.router.chat.model import ServedModel
from qwenserve.worker.engine_choice import BuiltEngine
from tests.router.http import anthropic_checks, responses_checks
from tests.router.http.agent_check import check_agent
from tests.router.http.openai_checks import CHECKS
from tests.router.http.target import Target
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, running_stack, stack_config


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    config = stack_config(model__max_model_len=4096)
    model = ServedModel.load(TINY, config)
    assets = model.assets
    engine = ScriptedEngine(assets.tokenizer, min(assets.eos_token_ids), max_model_len=4096)
    async with running_stack(config, built=BuiltEngine(engine, "")) as stack:
        yield Target(
            stack.url,
            model.name,
            one_call="How is the weather in Paris?",
            two_calls="How is the weather in Paris and in Rome?",
            max_model_len=4096,
        )


@pytest.mark.parametrize("check", responses_checks.CHECKS, ids=lambda check: check.__name__)
async def test_official_client_over_responses(check: Callable[[Target], Awaitable[None]], target: Target) -> None:
    await check(target)


@pytest.mark.parametrize("check", anthropic_checks.CHECKS, ids=lambda check: check.__name__)
async def test_official_client_of_anthropic(check: Callable[[Target], Awaitable[None]], target: Target) -> None:
    await check(target)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_official_client(check: Callable[[Target], Awaitable[None]], target: Target) -> None:
    await check(target)


# llama-index reads pydantic's model fields in a way that pydantic will drop.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")
async def test_llama_index_function_agent(target: Target) -> None:
    await check_agent(target)
