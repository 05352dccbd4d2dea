"""The terminal chat's loop: question, answer, question."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import grpc

from qwenserve.cli.chat.answer import AnswerPrinter, AnswerText, stream_answer
from qwenserve.cli.chat.commands import ChatSettings, is_command, run_command
from qwenserve.cli.chat.lines import Questions
from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.runtime.lifecycle import on_signals
from qwenserve.type.v1 import sampling_pb2


class ChatLoop:
    """Talks until the questions end."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        settings: ChatSettings,
        questions: Questions,
        output: Output,
        *,
        api_key: str = "",
        interactive: bool = False,
    ) -> None:
        """`interactive`: ctrl-C stops an answer, and the chat goes on. In a script it ends everything."""
        self._channel = channel
        self._settings = settings
        self._questions = questions
        self._output = output
        self._api_key = api_key
        self._interactive = interactive
        self.failures = 0

    async def run(self) -> None:
        """Runs until the questions end or the user leaves."""
        while not self._settings.leaving:
            try:
                text = await self._questions.next()
            except KeyboardInterrupt:
                self._output.line("ctrl-D leaves; /help shows commands", "dim")
                continue
            if text is None:
                return
            if not text.strip():
                continue
            try:
                if is_command(text.strip()):
                    self._show(run_command(self._settings, text.strip()))
                else:
                    await self._answer(text)
            except CommandError as error:
                self.failures += 1
                self._output.line(f"error: {error}", "red")

    def _show(self, text: str) -> None:
        for line in text.splitlines():
            self._output.line(line, "dim")

    async def _answer(self, text: str) -> None:
        memory = self._settings.memory
        memory.ask(text)
        answer = AnswerText()
        printer = AnswerPrinter(self._output.console, show_thinking=self._settings.show_thinking)
        work = stream_answer(self._channel, memory.request(""), printer, answer, api_key=self._api_key)
        try:
            if self._interactive:
                answer.stopped = await _until_interrupted(asyncio.ensure_future(work))
            else:
                await work
        except CommandError:
            # The question can be sent again, perhaps after /clear or /params.
            memory.take_back()
            raise
        if answer.stopped:
            self._output.line("(stopped)", "dim")
        memory.answered(answer.content, answer.reasoning)
        if answer.finish == sampling_pb2.FINISH_REASON_LENGTH:
            self._output.line("(the answer reached its length limit)", "dim")
        if self._settings.show_stats:
            self._output.line(answer.stats(), "dim")


async def _until_interrupted(task: asyncio.Task[None]) -> bool:
    """Waits for a task that ctrl-C cancels. Returns whether it did; raises what the task raises."""
    with _on_interrupt(task.cancel):
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    if task.cancelled():
        return True
    task.result()
    return False


@contextlib.contextmanager
def _on_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Makes ctrl-C call `stop`, and do nothing else, inside the block."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with on_signals(lambda _: stop(), signal.SIGINT):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
