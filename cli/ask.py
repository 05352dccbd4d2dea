"""One question to a running deployment, through its public gRPC API."""

from __future__ import annotations

from qwenserve.cli.chat.answer import AnswerPrinter, AnswerText, stream_answer
from qwenserve.cli.chat.memory import ChatMemory
from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.runtime.client_channel import router_channel
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import ConfigError

# A small model may not stop by itself; what `up --ask` shows should fit a screen.
_MOST_TOKENS = "256"


async def ask_once(
    address: str, question: str, output: Output, *, api_key: str = "", tls: ClientTls | None = None
) -> None:
    """Asks, and prints question, answer and speed. An error is printed too: the deployment goes on."""
    memory = ChatMemory()
    memory.ask(question)
    memory.set_parameter("max_tokens", _MOST_TOKENS)
    output.line()
    output.line(f"> {question}", "bold")
    answer = AnswerText()
    try:
        async with await router_channel(address, tls) as channel:
            printer = AnswerPrinter(output.console, show_thinking=True)
            await stream_answer(channel, memory.request(""), printer, answer, api_key=api_key)
    except (CommandError, ConfigError, OSError) as error:
        output.line(f"no answer: {error}", "red")
    else:
        output.line(answer.stats(), "dim")
    output.line()
