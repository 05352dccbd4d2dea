"""What an answer is bound to: read from a request, checked and compiled off the event loop, and kept for the next one
that asks for the same.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.chat.tool_guides import is_guided, must_call, tools_guide
from qwenserve.router.guides.checks import Guide, GuideError, GuideKind, check_grammar_length, checked
from qwenserve.runtime.errors import InvalidRequest, QueueFull
from qwenserve.runtime.guide_grammar import available, lark_of, why_not
from qwenserve.type.v1 import guide_pb2

# Characters of guides, as they were asked for, whose outcome is kept.
_MOST_KEPT = 4_000_000
_ENTRY = 1_000
# Guides are compiled in threads of their own: those in which prompts are tokenized never wait for them.
_THREADS = 2
# Requests that wait for a guide; others are refused. A guide takes 10 to 100 ms, at most a second.
_MOST_WAITING = 256

_Outcome = Guide | GuideError
T = TypeVar("T")


class Guidance:
    """Guides for answers of one model. Its methods raise InvalidRequest or Unsupported, naming the field at fault, and
    QueueFull where too many wait for theirs.
    """

    def __init__(self, model: ServedModel, *, strict_tools: bool = False) -> None:
        """`strict_tools`: all functions' calls follow their schemas, whether or not a request says strict."""
        self._special = model.assets.tokenizer.added_ids
        self._ends = sorted(model.assets.eos_token_ids)
        self._form = model.assets.template.tool_call_format
        self._strict_tools = strict_tools
        self._kept: OrderedDict[tuple[int, str], _Outcome] = OrderedDict()
        self._kept_characters = 0
        self._threads = ThreadPoolExecutor(_THREADS, "guides")
        self._waiting = 0
        # Guides that are being compiled, for all who ask for the same.
        self._under_way: dict[tuple[int, str], asyncio.Future[_Outcome]] = {}

    def binds(self, request: chat_pb2.ChatCompletionRequest, tools: Sequence[Mapping[str, Any]] | None) -> bool:
        """Whether `of_chat` has anything to do for a chat."""
        if request.HasField("guide"):
            return True
        if not tools and not request.HasField("tool_choice"):
            return False
        return is_guided(request.tool_choice, tools, strict=self._strict_tools)

    async def of_chat(
        self, request: chat_pb2.ChatCompletionRequest, tools: Sequence[Mapping[str, Any]] | None
    ) -> guide_pb2.Guide:
        """Returns what binds a chat's answer, where `binds` says that something does."""
        choice = request.tool_choice
        instead = None
        # An answer that must call a function has no text that a form of its own could bind.
        if request.HasField("guide") and not must_call(choice):
            instead = await self._asked(request)
            callable_tools = tools and self._form and choice.mode != chat_pb2.ToolChoice.MODE_NONE
            if not callable_tools or instead.kind is GuideKind.REGIONS:
                return _wire(instead)
        compose = partial(tools_guide, choice, tools, self._form, strict=self._strict_tools, instead=instead)
        guide = await self._apart(compose)
        return _wire(await self._outcome(guide.kind, guide.text, "tools"))

    async def of_request(
        self, request: chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest
    ) -> guide_pb2.Guide | None:
        """Returns the guide that a request has; None where it has none."""
        return _wire(await self._asked(request)) if request.HasField("guide") else None

    async def _asked(self, request: chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest) -> Guide:
        try:
            kind = GuideKind(request.guide.kind)
        except ValueError:
            raise InvalidRequest(f"guide.kind: {request.guide.kind} is no kind of guide", param="guide.kind") from None
        return await self._outcome(kind, request.guide.text, "guide")

    async def _outcome(self, kind: GuideKind, text: str, param: str) -> Guide:
        key = (int(kind), text)
        outcome = self._kept.get(key)
        if outcome is None:
            outcome = await self._shared(key, partial(self._compiled, kind, text))
        else:
            self._kept.move_to_end(key)
        if isinstance(outcome, GuideError):
            where = f"{param}.{outcome.path}" if outcome.path else param
            raise InvalidRequest(f"{where}: {outcome.message}", param=where)
        return outcome

    async def _shared(self, key: tuple[int, str], compile_it: Callable[[], _Outcome]) -> _Outcome:
        """Returns a guide's outcome; whoever asks for the same meanwhile waits for the same."""
        under_way = self._under_way.get(key)
        if under_way is None:
            under_way = self._under_way[key] = asyncio.ensure_future(self._apart(compile_it))
            under_way.add_done_callback(partial(self._compiled_for_all, key))
        # One who leaves takes nothing away from the others.
        return await asyncio.shield(under_way)

    def _compiled_for_all(self, key: tuple[int, str], done: asyncio.Future[_Outcome]) -> None:
        del self._under_way[key]
        if not done.cancelled() and done.exception() is None:
            self._keep(key, done.result())

    async def _apart(self, work: Callable[[], T]) -> T:
        """Runs work in a thread for guides. Raises QueueFull."""
        if self._waiting >= _MOST_WAITING:
            raise QueueFull(f"{_MOST_WAITING} requests wait for their forms to be checked", retry_after_s=1.0)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def _compiled(self, kind: GuideKind, text: str) -> _Outcome:
        try:
            if kind is GuideKind.GRAMMAR and available():
                check_grammar_length(text)  # translating takes time too
                text = lark_of(text)
            guide = checked(kind, text)
        except GuideError as error:
            return error
        except ValueError as error:
            return GuideError(str(error))
        if available() and (wrong := why_not(guide.kind, guide.text, self._special, self._ends)):
            return GuideError(wrong[:1_000])
        return guide

    def _keep(self, key: tuple[int, str], outcome: _Outcome) -> None:
        if key in self._kept:
            return
        self._kept[key] = outcome
        self._kept_characters += len(key[1]) + _ENTRY
        while self._kept_characters > _MOST_KEPT:
            (_, old), _ = self._kept.popitem(last=False)
            self._kept_characters -= len(old) + _ENTRY


def _wire(guide: Guide) -> guide_pb2.Guide:
    return guide_pb2.Guide(kind=int(guide.kind), text=guide.text)  # type: ignore[arg-type]  # equal numbers by contract
