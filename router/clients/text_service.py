"""Where a router gets its token ids: the text library in this process, or the tokenizer tier."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from qwenserve.chat.v1 import message_pb2
from qwenserve.router.clients.tokenizer_session import TokenizerLost, TokenizerSession
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import InvalidRequest, Unavailable
from qwenserve.runtime.trust import OPEN, Trust
from qwenserve.runtime.values import frozen_value
from qwenserve.text.assets import ModelAssets
from qwenserve.text.chat_template import TemplateError
from qwenserve.text.content_guard import ContentGuard, render_prompt
from qwenserve.text.conversation import TemplateInput
from qwenserve.tokenizer.v1 import tokenizer_pb2

_RETRY_AFTER_S = 2.0
# How often all tokenizers are asked, and the pause between two rounds: in all, the time that a process takes to
# restart.
_TURNS = 40
_AGAIN_S = 0.25


@frozen_value
class RenderedChat:
    """A conversation as the model sees it. `prompt` is empty where only the ids were needed."""

    token_ids: Sequence[int]
    prompt: str


class TextService(Protocol):
    """Renders and tokenizes. Raises ServiceError naming the field."""

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders a conversation and tokenizes it. `given` is the same conversation as the template takes it, with
        the deployment's defaults filled in, and without tools where they must not be shown."""

    async def tokenize(self, text: str) -> Sequence[int]:
        """Tokenizes a text as it stands."""

    async def tokenize_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Tokenizes several texts at once. The caller bounds how many."""

    def processes(self) -> Sequence[TokenizerSession]:
        """Returns the sessions to other processes; none where it is all done in this one."""

    async def close(self) -> None:
        """Releases connections."""


class LocalTextService:
    """The text library in this process."""

    def __init__(self, assets: ModelAssets, *, guard: bool = True) -> None:
        """With `guard`, added tokens that contents spell are text; without, they are those tokens."""
        self._assets = assets
        self._guard = ContentGuard(assets.tokenizer.added_ids) if guard else None

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders here; large conversations are rendered, and long texts tokenized, off the event loop."""
        template, guard = self._assets.template, self._guard
        try:
            if given.large:
                prompt = await asyncio.to_thread(render_prompt, template, given, guard)
            else:
                prompt = render_prompt(template, given, guard)
        except TemplateError as error:
            where = "messages" if error.message_index is None else f"messages[{error.message_index}]"
            raise InvalidRequest(f"{where}: the chat template cannot render it: {error}", param=where) from None
        return RenderedChat(await self._assets.tokenizer.encode_async(prompt.text, prompt.mark), prompt.shown)

    async def tokenize(self, text: str) -> Sequence[int]:
        """Tokenizes; long texts off the event loop."""
        return await self._assets.tokenizer.encode_async(text)

    async def tokenize_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Tokenizes; what is long in all, off the event loop."""
        return await self._assets.tokenizer.encode_batch_async(texts)

    def processes(self) -> Sequence[TokenizerSession]:
        """Returns none."""
        return ()

    async def close(self) -> None:
        """Nothing to release."""


class RemoteTextService:
    """The tokenizer tier: one stream to each of its processes carries all prompts, packed both ways."""

    def __init__(
        self,
        addresses: Sequence[str],
        model: str,
        config: GrpcConfig,
        *,
        silence_limit_s: float = 5.0,
        trust: Trust = OPEN,
    ) -> None:
        """A process that says nothing for `silence_limit_s` is given up, and another one asked."""
        # Among equally busy processes requests go round, so that each gets its share.
        self._processes = deque(
            TokenizerSession(address, model, config, silence_limit_s, trust) for address in addresses
        )

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders and tokenizes in the tier."""
        prompt = tokenizer_pb2.Prompt(conversation=conversation, return_text=need_prompt)
        # A copy that says what `given` says; the caller's message stays as it was.
        prompt.conversation.enable_thinking = bool(given.variables["enable_thinking"])
        prompt.conversation.prefix_stable = bool(given.prefix_stable)
        if given.tools is None:
            del prompt.conversation.tools[:]
        answer = await self._ask(prompt)
        return RenderedChat(answer.token_ids, answer.text)

    async def tokenize(self, text: str) -> Sequence[int]:
        """Tokenizes in the tier."""
        return (await self._ask(tokenizer_pb2.Prompt(text=text))).token_ids

    async def tokenize_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Tokenizes in the tier: the texts travel together, spread over its processes."""
        return await asyncio.gather(*map(self.tokenize, texts))

    def processes(self) -> Sequence[TokenizerSession]:
        """Returns the session to each process of the tier."""
        return tuple(self._processes)

    async def close(self) -> None:
        """Ends the streams; whoever still waits is told."""
        await asyncio.gather(*(process.close() for process in self._processes))

    async def _ask(self, prompt: tokenizer_pb2.Prompt) -> tokenizer_pb2.PromptAnswer:
        """Asks the least busy process, and the others where it is not there. Raises ServiceError.

        Where none can be reached it waits a while: one that died is restarted under the same address.
        """
        self._processes.rotate(-1)
        failure = "none is configured"
        for turn in range(_TURNS if self._processes else 0):
            if turn:
                await asyncio.sleep(_AGAIN_S)
            for process in sorted(self._processes, key=TokenizerSession.burden):
                try:
                    return await process.ask(prompt)
                except TokenizerLost as error:  # noqa: PERF203  # seldom more than one turn
                    failure = error.message
        raise Unavailable(f"no tokenizer answers: {failure}", retry_after_s=_RETRY_AFTER_S)
