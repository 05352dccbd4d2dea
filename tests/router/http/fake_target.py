"""The fake router as a target of the checks with official clients: it answers their questions as they expect."""

from __future__ import annotations

from qwenserve.chat.v1 import chat_pb2
from tests.router.http.conftest import Served
from tests.router.http.fake_backend import MAX_MODEL_LEN, MODEL, Request, Script
from tests.router.http.target import Target


def weather(request: Request) -> Script:
    """Calls the tool once for every city named, and tells the results of calls."""
    if isinstance(request, chat_pb2.CompletionRequest):
        return Script("a time there was")
    last = request.conversation.messages[-1]
    if last.tool_call_id:
        return Script(f"Known now: {last.content}")
    cities = [city for city in ("Paris", "Rome") if city in last.content]
    if request.conversation.tools and cities:
        if request.tool_choice.HasField("parallel") and not request.tool_choice.parallel:
            cities = cities[:1]
        return Script(tool_calls=tuple(("get_weather", f'{{"city": "{city}"}}') for city in cities))
    return Script("Something, as you asked.")


def target(served: Served) -> Target:
    served.backend.script = weather
    return Target(
        served.url,
        MODEL,
        one_call="How is the weather in Paris?",
        two_calls="How is the weather in Paris and in Rome?",
        max_model_len=MAX_MODEL_LEN,
    )
