"""Agent frameworks and command lines, as people use them. Runs in environments of their own, which
`scripts/test-clients` makes; here, without them, nothing is run.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

URL = os.environ.get("QWENSERVE_URL", "")
pytestmark = pytest.mark.skipif(not URL, reason="no deployment is named by QWENSERVE_URL; run scripts/test-clients")
MODEL = "qwen3-tiny"
QUESTION = "Extract kind and size as JSON: kind is town, size is large."
WEATHER = "What's the weather like in Boston today?"
REPORT = '{"temperature": 22, "unit": "celsius", "description": "sunny"}'
MISSING = "is not installed; run scripts/test-clients"


class Place(BaseModel):
    """A place."""

    kind: Literal["town", "city"]
    size: Literal["large", "small"]


def get_current_weather(location: str) -> str:
    """Get the current weather in a given location."""
    return REPORT


@pytest.mark.parametrize("over", ["chat", "responses"])
def test_openai_agents(over: str) -> None:
    """Tools, a typed result, and a handoff, over both model classes."""
    agents = pytest.importorskip("agents", reason=f"openai-agents {MISSING}")
    openai = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    kind = agents.OpenAIChatCompletionsModel if over == "chat" else agents.OpenAIResponsesModel
    model = kind(model=MODEL, openai_client=client)
    settings = agents.ModelSettings(max_tokens=600, temperature=0)
    asked: list[str] = []

    def weather(location: str) -> str:
        """Get the current weather in a given location."""
        asked.append(location)
        return REPORT

    tool = agents.function_tool(weather, name_override="get_current_weather")

    async def run() -> None:
        helper = agents.Agent("helper", instructions="", model=model, model_settings=settings, tools=[tool])
        result = await agents.Runner.run(helper, WEATHER, max_turns=4)
        assert asked
        assert str(result.final_output).strip()
        typed = agents.Agent("typed", model=model, model_settings=settings, output_type=Place)
        assert isinstance((await agents.Runner.run(typed, QUESTION)).final_output, Place)
        must = agents.ModelSettings(max_tokens=600, temperature=0, tool_choice="required")
        first = agents.Agent("first", model=model, model_settings=must, handoffs=[typed])
        handed = await agents.Runner.run(first, QUESTION, max_turns=4)
        assert (handed.last_agent.name, type(handed.final_output)) == ("typed", Place)

    asyncio.run(run())


def test_llama_index() -> None:
    """A typed model, and an agent that calls a function."""
    clients = pytest.importorskip("llama_index.llms.openai_like", reason=f"llama-index {MISSING}")
    workflow = pytest.importorskip("llama_index.core.agent.workflow")
    model = clients.OpenAILike(
        model=MODEL,
        api_base=f"{URL}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        context_window=8192,
        max_tokens=600,
        max_retries=0,
        temperature=0,
    )
    assert isinstance(model.as_structured_llm(Place).complete(QUESTION).raw, Place)
    called = clients.OpenAILike(**{**model.model_dump(exclude={"class_name"}), "should_use_structured_outputs": False})
    assert isinstance(called.as_structured_llm(Place).complete(QUESTION).raw, Place)

    async def run() -> None:
        agent = workflow.FunctionAgent(tools=[get_current_weather], llm=model)
        answer = await agent.run(WEATHER)
        assert [call.tool_name for call in answer.tool_calls] == ["get_current_weather"]
        assert str(answer).strip()

    asyncio.run(run())


def test_haystack() -> None:
    """A typed reply, and a tool's call."""
    generators = pytest.importorskip("haystack.components.generators.chat", reason=f"haystack-ai {MISSING}")
    message = pytest.importorskip("haystack.dataclasses").ChatMessage
    agents = pytest.importorskip("haystack.components.agents")
    tools = pytest.importorskip("haystack.tools")
    utils = pytest.importorskip("haystack.utils")

    def generator(**kwargs: Any) -> Any:
        return generators.OpenAIChatGenerator(
            api_key=utils.Secret.from_token("none"),
            model=MODEL,
            api_base_url=f"{URL}/v1",
            generation_kwargs={"max_completion_tokens": 600, "temperature": 0, **kwargs},
            max_retries=0,
        )

    (reply,) = generator(response_format=Place).run([message.from_user(QUESTION)])["replies"]
    assert Place.model_validate_json(reply.text)
    agent = agents.Agent(chat_generator=generator(), tools=[tools.create_tool_from_function(get_current_weather)])
    messages = agent.run(messages=[message.from_user(WEATHER)])["messages"]
    assert [call.tool_name for each in messages for call in each.tool_calls] == ["get_current_weather"]
    assert messages[-1].text


def test_dspy(tmp_path: Path) -> None:
    """A signature with typed fields. dspy asks for a schema only of models that LiteLLM's table says can have one."""
    os.environ.setdefault("DSPY_CACHEDIR", str(tmp_path))
    dspy = pytest.importorskip("dspy", reason=f"dspy {MISSING}")
    litellm = pytest.importorskip("litellm")
    model = f"hosted_vllm/{MODEL}"
    litellm.register_model(
        {model: {"litellm_provider": "hosted_vllm", "mode": "chat", "supports_response_schema": True}}
    )

    class Extract(dspy.Signature):  # type: ignore[misc,name-defined,unused-ignore]
        """Extract kind and size."""

        text: str = dspy.InputField()
        place: Place = dspy.OutputField()

    asked = {"max_tokens": 600, "temperature": 0, "cache": False}
    here = dspy.LM(model, engine="litellm", api_base=f"{URL}/v1", api_key="none", **asked)
    with dspy.context(lm=here, adapter=dspy.JSONAdapter()):
        assert isinstance(dspy.Predict(Extract)(text="kind is town, size is large").place, Place)


def test_llm_schema(tmp_path: Path) -> None:
    """The command line `llm`, with a schema in its short form."""
    pytest.importorskip("llm", reason=f"llm {MISSING}")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: here\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  supports_schema: true\n"
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", "-m", "here", "--no-log", "--schema", "kind, size int"]
    for streamed in ([], ["--no-stream"]):
        told = subprocess.run(
            [*command, *streamed, "Extract kind and size as JSON: kind is town, size is 7."],
            env=environment,
            stdout=subprocess.PIPE,
            timeout=120,
            check=True,
            text=True,
        )
        assert set(json.loads(told.stdout)) == {"kind", "size"}
