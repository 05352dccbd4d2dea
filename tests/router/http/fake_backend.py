"""A router without engines, small enough to predict by hand.

Its tokenizer is byte level: ids 0 to 255 are the bytes of UTF-8. The prompt is the message contents, joined by
line breaks. An answer is what `script` returns for the request; each word leaves as one event, which accounts for
the word's bytes. `max_tokens` cuts after that many bytes, at a character.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.interface import EventSink
from qwenserve.runtime.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServiceError,
)
from qwenserve.tokenizer.v1 import tokenizer_pb2
from qwenserve.type.v1 import sampling_pb2

MODEL = "fake-model"
MAX_MODEL_LEN = 4096
CREATED = 1_700_000_000

Request = chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest


class Script(NamedTuple):
    """What to answer. Tool calls are (name, arguments) pairs and come after the content."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()
    stop_string: str = ""


def echo(request: Request) -> Script:
    """Answers with what was said last."""
    if isinstance(request, chat_pb2.CompletionRequest):
        return Script("and so on")
    return Script("You said: " + request.conversation.messages[-1].content)


class FakeAnswer:
    """One answer under way: a task that sends its events."""

    def __init__(self, backend: FakeBackend, events: Iterator[list[chat_pb2.ChatEvent]], sink: EventSink) -> None:
        self._backend = backend
        self._events = events
        self._sink = sink
        backend.running.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Stops it."""
        self._backend.running.discard(self)
        self._task.cancel()

    async def _run(self) -> None:
        backend = self._backend
        for step, events in enumerate(self._events):
            if backend.fail_at_step == step:
                self._sink.failed(backend.failure)
                break
            if backend.gate is not None and step == backend.gate_at_step:
                backend.waiting.set()
                await backend.gate.wait()
            _send(self._sink, events)
            await asyncio.sleep(0)
        backend.running.discard(self)


def _send(sink: EventSink, events: list[chat_pb2.ChatEvent]) -> None:
    """A lone plain delta goes without an event, as the router sends it."""
    only = events[0]
    plain = len(events) == 1 and not only.logprobs and not only.token_ids
    text = only.content_delta or only.reasoning_delta
    write = sink.text_writer(only.choice_index, bool(only.reasoning_delta)) if plain and text else None
    if write is None:
        sink.events(events)
    else:
        write(text)


class FakeBackend:
    """Implements `router.chat.interface.Backend`."""

    def __init__(self, script: Callable[[Request], Script] = echo) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.calls: list[Call] = []
        self.running: set[FakeAnswer] = set()
        self.refusal: Exception | None = None
        self.fail_at_step = -1
        self.failure: ServiceError = InvalidRequest("told to fail")
        self.gate: asyncio.Event | None = None
        self.gate_at_step = 2
        self.waiting = asyncio.Event()
        self.ignored: list[str] = []
        self.not_ready = ""
        self.tool_template = ""
        self.key_limits: dict[str, str] = {}

    async def stream_chat(self, request: chat_pb2.ChatCompletionRequest, call: Call, sink: EventSink) -> FakeAnswer:
        messages = request.conversation.messages
        prompt = "\n".join(message.content for message in messages)
        self._check(request, call, [list(prompt.encode())])
        return FakeAnswer(self, self._events("chatcmpl-1", request, [list(prompt.encode())]), sink)

    async def stream_completion(self, request: chat_pb2.CompletionRequest, call: Call, sink: EventSink) -> FakeAnswer:
        prompts = [
            list(prompt.text.encode()) if prompt.HasField("text") else list(prompt.token_ids.ids)
            for prompt in request.prompts
        ]
        self._check(request, call, prompts)
        return FakeAnswer(self, self._events("cmpl-1", request, prompts), sink)

    async def explain(self, request: chat_pb2.ExplainRequest, call: Call) -> chat_pb2.ExplainResponse:
        asked: Request = request.chat if request.HasField("chat") else request.completion
        prompt = asked.conversation.messages[0].content if isinstance(asked, chat_pb2.ChatCompletionRequest) else "text"
        self._check(asked, call, [list(prompt.encode())])
        return chat_pb2.ExplainResponse(
            model=MODEL,
            prompt=prompt,
            token_ids=list(prompt.encode()),
            sampling=asked.sampling,
            defaulted_fields=["top_p"],
            candidates=[chat_pb2.CandidateWorker(name="worker-0", score=0.5, ready=True)],
            max_model_len=MAX_MODEL_LEN,
        )

    async def tokenize(self, request: tokenizer_pb2.TokenizeRequest, call: Call) -> tokenizer_pb2.TokenizeResponse:
        self._check_model(request.model)
        results = [_token_ids(text, with_tokens=request.return_tokens) for text in request.texts]
        return tokenizer_pb2.TokenizeResponse(results=results, max_model_len=MAX_MODEL_LEN)

    async def tokenize_chat(
        self, request: tokenizer_pb2.TokenizeChatRequest, call: Call
    ) -> tokenizer_pb2.TokenizeChatResponse:
        self._check_model(request.model)
        results = []
        for conversation in request.conversations:
            prompt = "\n".join(message.content for message in conversation.messages)
            ids = _token_ids(prompt, with_tokens=request.return_tokens)
            results.append(tokenizer_pb2.TokenizedChat(token_ids=ids, prompt=prompt if request.return_prompt else ""))
        return tokenizer_pb2.TokenizeChatResponse(results=results, max_model_len=MAX_MODEL_LEN)

    async def detokenize(
        self, request: tokenizer_pb2.DetokenizeRequest, call: Call
    ) -> tokenizer_pb2.DetokenizeResponse:
        self._check_model(request.model)
        if any(token_id > 255 for batch in request.batches for token_id in batch.ids):
            raise InvalidRequest("ids go from 0 to 255", param="tokens")
        texts = [bytes(batch.ids).decode("utf-8", "replace") for batch in request.batches]
        return tokenizer_pb2.DetokenizeResponse(texts=texts)

    async def tokenizer_info(
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, call: Call
    ) -> tokenizer_pb2.TokenizerInfo:
        self._check_model(request.model)
        end = tokenizer_pb2.AddedToken(id=0, content="<end>", special=True)
        return tokenizer_pb2.TokenizerInfo(
            model=MODEL,
            vocab_size=256,
            max_model_len=MAX_MODEL_LEN,
            chat_template="{{ messages }}",
            tool_chat_template=self.tool_template,
            special_tokens={"eos_token": "<end>"},
            eos_token_ids=[0],
            added_tokens=[end],
        )

    async def list_models(self, call: Call) -> chat_pb2.ListModelsResponse:
        return chat_pb2.ListModelsResponse(models=[await self.get_model(MODEL, call)])

    async def get_model(self, name: str, call: Call) -> chat_pb2.Model:
        self._check_model(name)
        defaults = sampling_pb2.SamplingParams(temperature=0.7, top_p=0.8)
        return chat_pb2.Model(
            name=MODEL, created=CREATED, max_model_len=MAX_MODEL_LEN, vocab_size=256, thinking_defaults=defaults
        )

    def ready(self) -> str:
        return self.not_ready

    def _check_model(self, name: str) -> None:
        if name and name.lower() != MODEL:
            raise ModelNotFound(f"the model {name!r} does not exist; this router serves {MODEL!r}", param="model")

    def _check(self, request: Request, call: Call, prompts: Sequence[Sequence[int]]) -> None:
        self.requests.append(request)
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal
        if call.remaining_s() == 0:
            raise DeadlineExceeded("the deadline has passed")
        self._check_model(request.model)
        if not prompts:
            raise InvalidRequest("send a prompt", param="prompt")
        longest = max(len(prompt) for prompt in prompts)
        if longest > MAX_MODEL_LEN:
            raise ContextLengthExceeded(
                f"the prompt has {longest} tokens; the window is {MAX_MODEL_LEN}", param="messages"
            )
        if request.n > 16 or request.sampling.temperature > 2:
            raise InvalidRequest("n or temperature is out of range", param="n")
        if any(not 0 <= token_id < 256 for prompt in prompts for token_id in prompt):
            raise InvalidRequest("ids go from 0 to 255", param="prompt")

    def _events(
        self, answer_id: str, request: Request, prompts: Sequence[Sequence[int]]
    ) -> Iterator[list[chat_pb2.ChatEvent]]:
        ids = [chat_pb2.TokenIdList(ids=prompt) for prompt in prompts] if request.return_token_ids else []
        start = chat_pb2.StreamStart(
            id=answer_id,
            created=CREATED,
            model=MODEL,
            prompt_token_ids=ids,
            ignored_params=self.ignored,
            key_limits=self.key_limits,
            prompt_tokens=sum(map(len, prompts)),
        )
        first = [chat_pb2.ChatEvent(start=start)]
        per_prompt = max(1, request.n)
        counts = [0, 0]
        for index in range(per_prompt * len(prompts)):
            for event in self._choice(index, request, counts):
                yield [*first, event]
                first = []
        usage = sampling_pb2.Usage(
            prompt_tokens=sum(map(len, prompts)),
            completion_tokens=counts[0],
            reasoning_tokens=counts[1],
            cached_tokens=1,
        )
        yield [chat_pb2.ChatEvent(usage=usage)]

    def _choice(self, index: int, request: Request, counts: list[int]) -> Iterator[chat_pb2.ChatEvent]:
        script = self.script(request)
        sampling = request.sampling
        budget = sampling.max_tokens if sampling.HasField("max_tokens") else 10**9
        reason = sampling_pb2.FINISH_REASON_STOP
        if isinstance(request, chat_pb2.CompletionRequest) and request.echo:
            yield chat_pb2.ChatEvent(choice_index=index, content_delta=request.prompts[0].text)
        pieces = [("reasoning_delta", word) for word in _words(script.reasoning)]
        pieces += [("content_delta", word) for word in _words(script.content)]
        for kind, word in pieces:
            kept = word.encode()[:budget].decode(errors="ignore")
            budget -= len(kept.encode())
            counts[0] += len(kept.encode())
            counts[1] += len(kept.encode()) if kind == "reasoning_delta" else 0
            event = chat_pb2.ChatEvent(choice_index=index)
            setattr(event, kind, kept)
            yield _reported(event, kept, request)
            if kept != word:
                reason = sampling_pb2.FINISH_REASON_LENGTH
                break
        else:
            for number, (name, arguments) in enumerate(script.tool_calls):
                reason = sampling_pb2.FINISH_REASON_TOOL_CALLS
                call = chat_pb2.ToolCallStart(index=number, id=f"call_{index}_{number}", name=name)
                yield chat_pb2.ChatEvent(choice_index=index, tool_call_start=call)
                for piece in _words(arguments):
                    delta = chat_pb2.ToolCallArguments(index=number, delta=piece)
                    yield chat_pb2.ChatEvent(choice_index=index, tool_call_arguments=delta)
        finish = chat_pb2.ChoiceFinish(reason=reason)
        if script.stop_string:
            finish.stop_string = script.stop_string
        yield chat_pb2.ChatEvent(choice_index=index, finish=finish)


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def _token_ids(text: str, *, with_tokens: bool) -> tokenizer_pb2.TokenIds:
    ids = list(text.encode())
    return tokenizer_pb2.TokenIds(ids=ids, tokens=[_piece(i) for i in ids] if with_tokens else [])


def _piece(byte: int) -> str:
    return chr(byte) if byte < 128 else hex(byte)


def _token(byte: int) -> str:
    return bytes([byte]).decode("utf-8", "replace")


def _reported(event: chat_pb2.ChatEvent, text: str, request: Request) -> chat_pb2.ChatEvent:
    if request.return_token_ids:
        event.token_ids.extend(text.encode())
    if request.sampling.HasField("top_logprobs"):
        for byte in text.encode():
            item = event.logprobs.add(token_id=byte, logprob=-0.5, token=_token(byte), token_bytes=bytes([byte]))
            for rank in range(request.sampling.top_logprobs):
                logprob = -0.5 if rank == 0 else float("-inf")
                token_id = (byte + rank) % 128
                item.top_logprobs.add(
                    token_id=token_id, logprob=logprob, token=_token(token_id), token_bytes=bytes([token_id])
                )
    return event
