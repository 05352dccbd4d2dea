"""A deployment that checks with official clients run against."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    import openai


class Target(NamedTuple):
    """A deployment, and questions that it is known to answer in a certain way."""

    base_url: str
    model: str
    one_call: str
    two_calls: str
    api_key: str = "none"
    max_model_len: int = 4096

    @contextlib.asynccontextmanager
    async def client(self, *, strict: bool = True) -> AsyncIterator[openai.AsyncOpenAI]:
        """The official client; retries off, so that every error shows. Skips the test where it is not installed."""
        openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")
        async with openai.AsyncOpenAI(
            base_url=f"{self.base_url}/v1",
            api_key=self.api_key,
            max_retries=0,
            timeout=60,
            _strict_response_validation=strict,
        ) as client:
            yield client
