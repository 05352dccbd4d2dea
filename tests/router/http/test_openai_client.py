"""The official client, and an agent framework on top of it, against the shim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from qwenserve.runtime.errors import DeadlineExceeded, InternalError, QueueFull, ServiceError, Unavailable
from tests.router.http.agent_check import check_agent
from tests.router.http.conftest import Served, serve
from tests.router.http.fake_backend import MODEL
from tests.router.http.fake_target import target
from tests.router.http.openai_checks import CHECKS, check_chat_whole
from tests.router.http.target import Target

if TYPE_CHECKING:
    import openai
else:
    openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_official_client(check: Callable[[Target], Awaitable[None]], either: Served) -> None:
    await check(target(either))

    assert [call.request_id for call in either.backend.calls] or check.__name__ == "check_models"


# llama-index reads pydantic's model fields in a way that pydantic will drop.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")
async def test_llama_index_function_agent(either: Served) -> None:
    await check_agent(target(either))


@pytest.mark.parametrize("apart", [False, True], ids=["router", "shim"])
async def test_official_client_with_a_key(apart: bool) -> None:
    async with serve(keys=("right",), apart=apart) as either:
        with pytest.raises(openai.AuthenticationError) as wrong:
            await check_chat_whole(target(either)._replace(api_key="wrong"))
        await check_chat_whole(target(either)._replace(api_key="right"))
    assert wrong.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QueueFull("full", retry_after_s=1), openai.RateLimitError),
        (Unavailable("no worker"), openai.InternalServerError),
        (DeadlineExceeded("late"), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_are_typed(
    error: ServiceError, expected: type[openai.APIStatusError], stream: bool, either: Served
) -> None:
    either.backend.refusal = error
    async with target(either).client() as client:
        with pytest.raises(expected) as refused:
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=stream
            )
    assert refused.value.code == error.code


async def test_an_error_in_a_stream_is_raised_by_the_client(either: Served) -> None:
    aimed = target(either)
    either.backend.fail_at_step = 2
    either.backend.failure = InternalError("the engine broke")
    async with aimed.client() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="the engine broke"):
            async for _ in stream:
                pass


async def test_the_client_retries_when_told_so(either: Served) -> None:
    aimed = target(either)
    either.backend.refusal = QueueFull("full", retry_after_s=0.01)
    async with aimed.client() as client:
        with pytest.raises(openai.RateLimitError):
            await client.with_options(max_retries=2).chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}]
            )
    assert len(either.backend.requests) == 3
