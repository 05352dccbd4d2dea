"""The LlamaIndex `OpenAILike` function agent against a deployment."""

from __future__ import annotations

import pytest

from tests.router.http.target import Target


async def check_agent(target: Target) -> None:
    """The agent calls the function that the model asks for, sends the result back, and ends with a text."""
    workflow = pytest.importorskip("llama_index.core.agent.workflow", reason="llama-index is not installed")
    clients = pytest.importorskip("llama_index.llms.openai_like", reason="llama-index is not installed")
    asked: list[str] = []

    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        asked.append(city)
        return f"It is sunny in {city}."

    model = clients.OpenAILike(
        model=target.model,
        api_base=f"{target.base_url}/v1",
        api_key=target.api_key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=target.max_model_len,
        max_retries=0,
        timeout=60,
    )
    agent = workflow.FunctionAgent(tools=[get_weather], llm=model, system_prompt="Use the tool for weather.")
    answer = await agent.run(target.one_call)

    assert len(asked) == 1
    assert asked[0]
    assert str(answer).strip()
