"""One streamed answer: from the public gRPC API to the terminal."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
from rich.console import Console

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.cli.errors import CommandError
from qwenserve.runtime.grpc_setup import from_rpc_error
from qwenserve.type.v1 import sampling_pb2

_CONNECT_S = 10.0

# A model's text must not move the cursor or retitle the window.
_CONTROLS = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}


@dataclass
class AnswerText:
    """What has come so far. `stopped` says that the user ended it."""

    content: str = ""
    reasoning: str = ""
    usage: sampling_pb2.Usage | None = None
    finish: int = 0
    first_token_s: float = 0.0
    total_s: float = 0.0
    stopped: bool = False

    def stats(self) -> str:
        """Tokens and speed in one line."""
        if self.usage is None:
            return f"stopped after {self.total_s:.1f} s"
        tokens = self.usage.completion_tokens
        decode_s = max(self.total_s - self.first_token_s, 1e-6)
        rate = f", {(tokens - 1) / decode_s:.1f} tokens/s" if tokens > 1 else ""
        cached = f" ({self.usage.cached_tokens} cached)" if self.usage.cached_tokens else ""
        return (
            f"{self.usage.prompt_tokens} prompt tokens{cached}, {tokens} answer tokens, "
            f"first after {1000 * self.first_token_s:.0f} ms{rate}"
        )


class AnswerPrinter:
    """Prints deltas as they come: thoughts dimmed, then a blank line, then the answer."""

    def __init__(self, console: Console, *, show_thinking: bool) -> None:
        self._console = console
        self._show_thinking = show_thinking
        self._in_thoughts = False
        self._open_line = False

    def reasoning(self, text: str) -> None:
        """Prints more of the thoughts."""
        if self._show_thinking:
            self._in_thoughts = True
            self._print(text, "dim italic")

    def content(self, text: str) -> None:
        """Prints more of the answer."""
        if self._in_thoughts:
            self._in_thoughts = False
            self._print("\n\n" if self._open_line else "\n", None)
        self._print(text, None)

    def end(self) -> None:
        """Ends the last line."""
        if self._open_line:
            self._print("\n", None)

    def _print(self, text: str, style: str | None) -> None:
        text = text.translate(_CONTROLS)
        if text:
            self._console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True)
            self._console.file.flush()
            self._open_line = not text.endswith("\n")


async def stream_answer(
    channel: grpc.aio.Channel,
    request: chat_pb2.ChatCompletionRequest,
    printer: AnswerPrinter,
    answer: AnswerText,
    *,
    api_key: str = "",
) -> None:
    """Asks, prints and collects into `answer`. Cancelling the task stops the engine's work. Raises CommandError."""
    began = time.monotonic()
    try:
        async for event in _events(channel, request, api_key):
            kind = event.WhichOneof("event")
            if kind == "content_delta":
                answer.content += event.content_delta
                printer.content(event.content_delta)
            elif kind == "reasoning_delta":
                answer.reasoning += event.reasoning_delta
                printer.reasoning(event.reasoning_delta)
            elif kind == "usage":
                answer.usage = event.usage
            elif kind == "finish":
                answer.finish = event.finish.reason
            if kind in ("content_delta", "reasoning_delta") and not answer.first_token_s:
                answer.first_token_s = time.monotonic() - began
    except grpc.aio.AioRpcError as error:
        raise CommandError(from_rpc_error(error).message) from None
    finally:
        answer.total_s = time.monotonic() - began
        printer.end()


async def _events(
    channel: grpc.aio.Channel, request: chat_pb2.ChatCompletionRequest, api_key: str
) -> AsyncIterator[chat_pb2.ChatEvent]:
    metadata = (("authorization", f"Bearer {api_key}"),) if api_key else None
    call = chat_pb2_grpc.ChatServiceStub(channel).StreamChatCompletion(request, metadata=metadata)
    try:
        async for event in call:
            yield event
    finally:
        call.cancel()  # leaving a gRPC stream early does not end it
