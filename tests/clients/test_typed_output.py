"""Typed output and forced tools, as client libraries ask for them. Runs in an environment of its own, which
`scripts/test-clients` makes; here, without it, nothing is run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

URL = os.environ.get("QWENSERVE_URL", "")
pytestmark = pytest.mark.skipif(not URL, reason="no deployment is named by QWENSERVE_URL; run scripts/test-clients")
MODEL = "qwen3-tiny"
QUESTION = "Extract kind and size as JSON: kind is town, size is large."


class Weather(BaseModel):
    """Get the current weather in a given location."""

    location: str


class Place(BaseModel):
    """A place."""

    kind: Literal["town", "city"]
    size: Literal["large", "small"]


MODES = ("TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON", "RESPONSES_TOOLS")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("thinking", [False, True])
def test_instructor(mode: str, thinking: bool) -> None:
    instructor = pytest.importorskip("instructor", reason="instructor is not installed; run scripts/test-clients")
    openai = pytest.importorskip("openai")
    raw = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
    client = instructor.from_openai(raw, mode=getattr(instructor.Mode, mode))
    got = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        response_model=Place,
        max_retries=0 if mode != "MD_JSON" else 3,
        **(
            {"max_output_tokens": 600, "reasoning": {"effort": "medium" if thinking else "none"}}
            if mode == "RESPONSES_TOOLS"
            else {"max_tokens": 600, "extra_body": {"enable_thinking": thinking}}
        ),
    )
    assert isinstance(got, Place)


def test_instructor_parallel_tools() -> None:
    instructor = pytest.importorskip("instructor", reason="instructor is not installed; run scripts/test-clients")
    openai = pytest.importorskip("openai")
    raw = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
    client = instructor.from_openai(raw, mode=instructor.Mode.PARALLEL_TOOLS)
    got = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What's the weather like in Boston today?"}],
        response_model=Iterable[Weather],
        max_tokens=600,
        max_retries=0,
    )
    assert [each.location for each in got]


def chat(**more: Any) -> Any:
    langchain_openai = pytest.importorskip(
        "langchain_openai", reason="langchain-openai is not installed; run scripts/test-clients"
    )
    return langchain_openai.ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_tokens=600, **more)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(method: str) -> None:
    got = chat().with_structured_output(Place, method=method).invoke(QUESTION)
    assert isinstance(got, Place)


def test_langchain_json_mode() -> None:
    got = chat().with_structured_output(None, method="json_mode").invoke(QUESTION)
    assert isinstance(got, dict)


def test_langchain_any_tool() -> None:
    got = chat().bind_tools([Place], tool_choice="any").invoke("Hello.")
    assert [call["name"] for call in got.tool_calls] == ["Place"] * len(got.tool_calls)
    assert Place(**got.tool_calls[0]["args"])


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm(provider: str) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed; run scripts/test-clients")
    got = litellm.completion(
        model=f"{provider}/{MODEL}",
        api_base=f"{URL}/v1",
        api_key="none",
        messages=[{"role": "user", "content": QUESTION}],
        response_format=Place,
        max_tokens=600,
    )
    assert Place.model_validate_json(got.choices[0].message.content)


def test_litellm_responses() -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed; run scripts/test-clients")
    got = litellm.responses(
        model=f"openai/{MODEL}", api_base=f"{URL}/v1", api_key="none", input=QUESTION, max_output_tokens=600
    )
    assert got.status == "completed"
    assert got.output[-1].content[0].text


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_litellm_anthropic_messages(provider: str) -> None:
    """Messages as they stand, and translated into chats or responses by the client."""
    litellm = pytest.importorskip("litellm", reason="litellm is not installed; run scripts/test-clients")
    got = asyncio.run(
        litellm.anthropic.messages.acreate(
            model=f"{provider}/{MODEL}",
            api_base=URL if provider == "anthropic" else f"{URL}/v1",
            api_key="none",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=300,
        )
    )
    text = "".join(block["text"] for block in got["content"] if block["type"] == "text")
    assert "Paris" in text
