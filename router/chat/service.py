"""The use case: a request comes in, is checked, rendered, routed, answered. All faces call this.

`stream_chat` and `stream_completion` are the only ways to generate; whole answers are a fold over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, TypeVar, cast

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.answers.cache import AnswerCache, Source
from qwenserve.router.answers.policy import CacheUse, Request
from qwenserve.router.chat.answer import Answer, AnswerOutcome, refused
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import ChoicePlan
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.interface import EventSink
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.chat.prepare import Preparation, Prepared
from qwenserve.router.chat.prompt_scores import PromptScores
from qwenserve.router.chat.reuse import Reuse, fleet_fingerprint
from qwenserve.router.chat.sampling import check_characters, check_ids_in_all, check_prompt_ids, filled_fields, seeds
from qwenserve.router.chat.whole import chat_completion, completion
from qwenserve.router.clients.directory import WorkerDirectory
from qwenserve.router.clients.text_service import TextService
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.router.limits.limiter import Limiter
from qwenserve.router.routing.requirements import Capabilities, Requirements
from qwenserve.router.tracing.spans import request_attributes
from qwenserve.router.tracing.tracing import Tracing
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import CacheConfig, RouterConfig
from qwenserve.runtime.drain_rate import DrainRate
from qwenserve.runtime.errors import Draining, InvalidRequest, QueueFull, ServiceError
from qwenserve.runtime.ids import new_id
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.runtime.token_ids import ids_message, in_turns
from qwenserve.text.assets import tokenizer_facts
from qwenserve.text.markers import starts_in_reasoning
from qwenserve.tokenizer.v1 import tokenizer_pb2
from qwenserve.type.v1 import sampling_pb2

# Seconds between looks at the deadlines of answers.
_LOOK_S = 1.0
_SHUT_DOWN = "the router is shutting down; try another one"

# Answers that are there already, or on their way.
_WITHOUT_WORKER = (chat_pb2.CACHE_STATUS_HIT, chat_pb2.CACHE_STATUS_JOINED, chat_pb2.CACHE_STATUS_SIMILAR)


Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


def _within_limits(method: Method) -> Method:
    """Makes a method that generates nothing count among the requests of its caller's key. It may raise RateLimited."""

    @wraps(method)
    async def limited(core: ChatCore, request: Any, call: Call) -> Any:
        if core._limiter is None or not call.key_id:
            return await method(core, request, call)
        core._limiter.check(call)
        async with core._limiter.counted(call):
            return await method(core, request, call)

    return cast(Method, limited)


class ChatCore:
    """What a router does, behind all faces. Implements `router.chat.interface.Backend`."""

    def __init__(
        self,
        model: ServedModel,
        workers: WorkerDirectory,
        text: TextService,
        config: RouterConfig,
        metrics: RouterMetrics,
        answers: AnswerCache,
        cache: CacheConfig,
        on_outcome: Callable[[AnswerOutcome], None],
        tracing: Tracing | None = None,
        limiter: Limiter | None = None,
        keys: KeyRing | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = model.assets.tokenizer
        self._workers = workers
        self._text = text
        self._config = config
        self._metrics = metrics
        self._prepare = Preparation(model, workers, text, config, metrics.stage.labels("prompt"))
        self._reuse = Reuse(answers, cache, self._fleet_fingerprint, keys)
        self._on_outcome = on_outcome
        self._tracing = tracing
        self._limiter = limiter
        # What the workers can do, and what follows from what they are for the keys of kept answers.
        self._fleet: tuple[Sequence[Capabilities], str] = ((), "")
        limits = ContinuationLimits(
            config.continuation_wait_s, config.continuation_legs, config.continuation_prefill_tokens
        )
        self._continuations = Continuations(limits, metrics.continuation_pause.observe)
        metrics.waiting.set_function(lambda: self._continuations.waiting)
        self._draining = False
        self._leaving = False
        self._cut_short = False
        self._system_fingerprint = f"fp_{hashlib.sha256(str(model.fingerprint).encode()).hexdigest()[:10]}"
        # Requests that are not answers yet: a drain waits for them too.
        self._preparing = 0
        self._drain_rate = DrainRate()
        self._running: set[Answer] = set()
        # Between looks at the deadlines of those; None while there are none.
        self._look: asyncio.TimerHandle | None = None
        metrics.running.set_function(lambda: len(self._running))
        metrics.ready.set_function(lambda: not self.ready())
        metrics.token_cache.set_function(lambda: self._tokenizer.cache_bytes_used)
        # Set once nothing is under way and nothing more is let in.
        self._idle = asyncio.Event()

    def stream_chat(
        self, request: chat_pb2.ChatCompletionRequest, call: Call, sink: EventSink
    ) -> Coroutine[Any, Any, Answer]:
        """Checks, renders, tokenizes, routes and submits; events then flow to `sink`. Raises ServiceError before."""
        return self._answered("chat", request, call, sink)

    async def create_chat(self, request: chat_pb2.ChatCompletionRequest, call: Call) -> chat_pb2.ChatCompletion:
        """The fold of `stream_chat`."""
        fold = Fold()
        await _until_complete(await self.stream_chat(request, call, fold), fold)
        return chat_completion(fold)

    def stream_completion(
        self, request: chat_pb2.CompletionRequest, call: Call, sink: EventSink
    ) -> Coroutine[Any, Any, Answer]:
        """Like `stream_chat`, for texts or token ids."""
        return self._answered("completion", request, call, sink)

    async def create_completion(self, request: chat_pb2.CompletionRequest, call: Call) -> chat_pb2.Completion:
        """The fold of `stream_completion`."""
        fold = Fold()
        await _until_complete(await self.stream_completion(request, call, fold), fold)
        return completion(fold, max(1, request.n))

    @_within_limits
    async def explain(self, request: chat_pb2.ExplainRequest, call: Call) -> chat_pb2.ExplainResponse:
        """Shows what would be done; generates nothing."""
        self._check_open()
        kind = request.WhichOneof("request")
        if kind == "chat":
            prepared = await self._prepare.chat(request.chat, call, need_prompt=True)
        elif kind == "completion":
            prepared = await self._prepare.completion(request.completion, call)
        else:
            raise InvalidRequest("set either chat or completion", param="request")
        return chat_pb2.ExplainResponse(
            model=self._model.name,
            prompt=prepared.rendered or self._tokenizer.decode(prepared.prompts[0]),
            token_ids=prepared.prompts[0],
            starts_in_reasoning=prepared.starts_in_reasoning,
            sampling=prepared.sampling,
            defaulted_fields=filled_fields(request.chat.sampling if kind == "chat" else request.completion.sampling),
            ignored_params=prepared.ignored,
            candidates=[
                chat_pb2.CandidateWorker(
                    name=candidate.name,
                    score=candidate.score,
                    running=candidate.running,
                    queued=candidate.queued,
                    expected_cached_tokens=candidate.expected_cached_tokens,
                    ready=candidate.ready,
                    pending_prompt_tokens=candidate.pending_prompt_tokens,
                    free_kv_blocks=candidate.free_kv_blocks,
                    reason=reason,
                )
                for candidate, reason in self._workers.candidates(
                    prepared.prompts[0],
                    needs=prepared.needs,
                    cache_salt=prepared.cache_salt,
                    session=prepared.session,
                )
            ],
            policy=self._config.policy,
            tool_call_format=self._model.assets.template.tool_call_format,
            max_model_len=self._prepare.max_model_len,
            renderings=await self._renderings(request.chat, call, prepared) if kind == "chat" else (),
        )

    async def _renderings(
        self, request: chat_pb2.ChatCompletionRequest, call: Call, used: Prepared
    ) -> list[chat_pb2.Rendering]:
        """Both ways of rendering a chat, the one that is used first."""
        conversation = request.conversation
        stable = conversation.prefix_stable if conversation.HasField("prefix_stable") else self._model.prefix_stable
        turned = chat_pb2.ChatCompletionRequest()
        turned.CopyFrom(request)
        turned.conversation.prefix_stable = not stable
        found = [self._rendering(used, stable)]
        other = await self._prepare.chat(turned, call, need_prompt=True)
        if other.rendered != used.rendered:
            found.append(self._rendering(other, not stable))
        return found

    def _rendering(self, prepared: Prepared, stable: bool) -> chat_pb2.Rendering:
        prompt = prepared.prompts[0]
        ranked = self._workers.candidates(
            prompt, needs=prepared.needs, cache_salt=prepared.cache_salt, session=prepared.session
        )
        cached = next((each.candidate.expected_cached_tokens for each in ranked if each.candidate.ready), 0)
        return chat_pb2.Rendering(
            prefix_stable=stable, prompt=prepared.rendered, tokens=len(prompt), expected_cached_tokens=cached
        )

    @_within_limits
    async def tokenize(self, request: tokenizer_pb2.TokenizeRequest, call: Call) -> tokenizer_pb2.TokenizeResponse:
        """Texts to ids."""
        self._model.check_name(request.model)
        piece = self._tokenizer.token_piece if request.return_tokens else None
        with self._under_way():
            check_characters(request.texts, "texts")
            batch = await self._text.tokenize_batch(request.texts)
            check_ids_in_all(batch, "texts")
            results = [await ids_message(ids, piece) for ids in batch]
        return tokenizer_pb2.TokenizeResponse(results=results, max_model_len=self._prepare.max_model_len)

    @_within_limits
    async def tokenize_chat(
        self, request: tokenizer_pb2.TokenizeChatRequest, call: Call
    ) -> tokenizer_pb2.TokenizeChatResponse:
        """Conversations to rendered prompts and ids."""
        self._model.check_name(request.model)
        piece = self._tokenizer.token_piece if request.return_tokens else None
        results = []
        for conversation in request.conversations:
            with self._under_way():
                given = await self._prepare.template_input(conversation)
                rendered = await self._text.render_chat(conversation, given, need_prompt=request.return_prompt)
                check_ids_in_all([rendered.token_ids], "conversations")
            results.append(
                tokenizer_pb2.TokenizedChat(
                    token_ids=await ids_message(rendered.token_ids, piece),
                    prompt=rendered.prompt if request.return_prompt else "",
                    starts_in_reasoning=starts_in_reasoning(self._tokenizer, rendered.token_ids),
                )
            )
        return tokenizer_pb2.TokenizeChatResponse(results=results, max_model_len=self._prepare.max_model_len)

    @_within_limits
    async def detokenize(
        self, request: tokenizer_pb2.DetokenizeRequest, call: Call
    ) -> tokenizer_pb2.DetokenizeResponse:
        """Ids to texts."""
        self._model.check_name(request.model)
        check_ids_in_all([batch.ids for batch in request.batches], "batches")
        texts = []
        for index, batch in enumerate(request.batches):
            async for _, ids in in_turns(batch.ids):
                check_prompt_ids(ids, self._tokenizer.vocab_size, f"batches[{index}].ids")
            texts.append(await self._tokenizer.decode_async(batch.ids, request.skip_special_tokens))
        return tokenizer_pb2.DetokenizeResponse(texts=texts)

    async def tokenizer_info(
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, call: Call
    ) -> tokenizer_pb2.TokenizerInfo:
        """What tokenizer and chat template are. Raises ModelNotFound."""
        return tokenizer_pb2.TokenizerInfo(
            model=self._model.check_name(request.model),
            max_model_len=self._prepare.max_model_len,
            **tokenizer_facts(self._model.assets),
        )

    async def list_models(self, call: Call) -> chat_pb2.ListModelsResponse:
        """The model that this router serves, once for each name that requests may use."""
        return chat_pb2.ListModelsResponse(models=[self._described(name) for name in self._model.names])

    async def get_model(self, name: str, call: Call) -> chat_pb2.Model:
        """One model by any of its names, in any case. Raises ModelNotFound."""
        return self._described(name)

    def _described(self, name: str) -> chat_pb2.Model:
        known = self._model.check_name(name)
        ready = self._workers.ready_sessions
        return self._model.describe(
            known,
            max_model_len=self._prepare.max_model_len,
            ready_workers=len(ready),
            simulated=any(session.info is not None and session.info.simulated for session in ready),
        )

    def ready(self) -> str:
        """Empty when a worker can answer now and the router does not drain; else the reason why not."""
        if self._leaving:
            return "draining"
        return self._workers.why_not_ready()

    def announce_drain(self) -> None:
        """Says that it is not ready any more, and still takes requests: whoever sends them may not have heard yet."""
        self._leaving = True

    def drain(self) -> None:
        """Refuses new requests; running ones go on."""
        self._leaving = self._draining = True

    async def wait_idle(self) -> None:
        """Returns when no request is under way, after `drain`."""
        self._note_idle()
        await self._idle.wait()

    def cancel_all(self) -> None:
        """Ends what still runs or waits for a worker: its callers get DRAINING."""
        self._cut_short = True
        self._workers.expect_none()
        for answer in list(self._running):
            answer.fail(Draining("the router is shutting down"))

    async def _answered(self, kind: str, request: Request, call: Call, sink: EventSink) -> Answer:
        """Lets a request in, prepares it, and starts its answer. One that fails until then is an outcome, too."""
        began = time.monotonic()
        if isinstance(request, chat_pb2.ChatCompletionRequest):
            call = call.labelled(request.user, request.metadata)
        else:
            call = call.labelled(request.user, {})
        if self._tracing is not None:
            call = replace(call, trace=self._tracing.begin(call.traceparent))
        self._preparing += 1  # as in `_under_way`, whose generator would be a cost of every request
        try:
            self._check_open()
            limiter = self._limiter if call.key_id else None
            if limiter is not None:
                limiter.check(call)
            if not self._workers.met:
                await self._workers.until_met(call.remaining_s())
            use = self._reuse.use(request, call.key_id)
            if isinstance(request, chat_pb2.ChatCompletionRequest):
                work = self._prepare.chat(request, call)
            else:
                work = self._prepare.completion(request, call)
            prepared = await (work if call.trace is None else self._traced_preparation(work, call))
            if limiter is None:
                return await self._started(kind, use, request, call, prepared, sink, began)
            async with limiter.admitted(call, prepared) as (call, prepared):
                return await self._started(kind, use, request, call, prepared, sink, began)
        except ServiceError as error:
            self._on_outcome(refused(kind, call, error, began))
            raise
        except asyncio.CancelledError:
            self._on_outcome(refused(kind, call, None, began))
            raise
        finally:
            self._preparing -= 1
            self._note_idle()

    async def _started(
        self,
        kind: str,
        use: CacheUse,
        request: Request,
        call: Call,
        prepared: Prepared,
        sink: EventSink,
        began: float,
    ) -> Answer:
        return_ids = request.return_token_ids
        first = self._start("chatcmpl" if kind == "chat" else "cmpl", prepared, return_ids, call)
        leads = None
        if isinstance(request, chat_pb2.CompletionRequest) and request.echo:
            leads = await self._echoed(request, prepared)
        plans: Sequence[ChoicePlan] = self._fresh_plans(prepared, leads)
        sources: Sequence[Source] = ()
        if not use.nothing:
            start = first.start
            sources, start.cache, similar = await self._reuse.sources(use, request, call, prepared, plans, start.id)
            if similar is not None:
                start.similar.CopyFrom(similar)
        if self._workers.lost or self._cut_short:
            await self._until_placed(call, first.start.cache)
        if request.HasField("prompt_logprobs"):
            # All choices of a chat have one prompt: once is enough.
            scored = len(plans) if kind == "completion" else 1
            plans = [*(self._scored(plan, request.prompt_logprobs) for plan in plans[:scored]), *plans[scored:]]
        answer = Answer(
            kind,
            call,
            first,
            sink,
            self._tokenizer,
            began=began,
            want_token_ids=return_ids,
            on_end=self._ended,
        )
        return self._begin(answer, prepared, plans, sources)

    def _scored(self, plan: ChoicePlan, top: int) -> ChoicePlan:
        return replace(plan, prompt_scores=PromptScores(plan.prompt_token_ids, top, self._tokenizer))

    def _check_open(self) -> None:
        if self._draining:
            raise Draining(_SHUT_DOWN, retry_after_s=1.0)
        open_requests = len(self._running) + self._preparing
        if open_requests > self._config.max_open_requests:
            raise QueueFull(
                f"{self._config.max_open_requests} requests are open, the most this router takes",
                retry_after_s=self._drain_rate.wait_s(open_requests, time.monotonic()),
            )

    async def _traced_preparation(self, work: Awaitable[Prepared], call: Call) -> Prepared:
        trace = call.trace
        assert trace is not None
        began = time.monotonic()
        try:
            prepared = await work
        finally:
            trace.stage("tokenize", began)
        trace.attributes.update(request_attributes(prepared.sampling, prepared.choices))
        return prepared

    def _start(self, prefix: str, prepared: Prepared, return_ids: bool, call: Call) -> chat_pb2.ChatEvent:
        """Returns the event with which an answer begins. It is filled in where it lies: a message that is put into
        another one is copied.
        """
        first = chat_pb2.ChatEvent()
        start = first.start
        start.id = f"{prefix}-{new_id()}"
        start.created = int(time.time())
        start.model = self._model.name
        start.system_fingerprint = self._system_fingerprint
        start.prompt_tokens = sum(map(len, prepared.prompts))
        if prepared.ignored:
            start.ignored_params.extend(prepared.ignored)
        if return_ids:
            for prompt in prepared.prompts:
                start.prompt_token_ids.add(ids=prompt)
        if self._limiter is not None and call.key_id:
            start.key_limits.update(self._limiter.headers(call.key_id))
        return first

    async def _until_placed(self, call: Call, cache: chat_pb2.CacheStatus) -> None:
        """Waits for a worker that is expected back, where one is needed. Raises Draining once time is up."""
        if cache not in _WITHOUT_WORKER:
            await self._workers.until_ready(call.remaining_s())
        # One that was taken is answered, though the router drains meanwhile; but not once its time to drain is over.
        if self._cut_short:
            raise Draining(_SHUT_DOWN, retry_after_s=1.0)

    def _fresh_plans(self, prepared: Prepared, leads: Sequence[str] | None) -> list[ChoicePlan]:
        plans: list[ChoicePlan] = []
        left = prepared.choices * len(prepared.prompts)
        for index, prompt in enumerate(prepared.prompts):
            lead = leads[index] if leads else ""
            for seed in seeds(prepared.sampling, prepared.choices):
                # The last choice takes what was prepared, the others copies: most answers have one choice only.
                sampling = prepared.sampling
                left -= 1
                if left:
                    sampling = sampling_pb2.SamplingParams()
                    sampling.CopyFrom(prepared.sampling)
                if seed is not None and "seed" not in prepared.unsupported:
                    sampling.seed = seed
                plans.append(
                    ChoicePlan(
                        prompt,
                        sampling,
                        prepared.new_pipeline(prompt),
                        prepared.end_ids,
                        lead,
                        prepared.thinking,
                        guide=prepared.guide,
                        behind_thought=prepared.behind_thought,
                    )
                )
        return plans

    def _begin(
        self, answer: Answer, prepared: Prepared, plans: Sequence[ChoicePlan], sources: Sequence[Source]
    ) -> Answer:
        self._running.add(answer)
        began = 0.0 if answer.call.trace is None else time.monotonic()
        try:
            answer.begin(
                plans,
                partial(self._choose, prepared.needs, prepared.cache_salt, prepared.session),
                self._continuations,
                priority=prepared.priority,
                cache_salt=prepared.cache_salt,
                timeout_s=self._config.request_timeout_s,
                knows_bias="logit_bias" not in prepared.unsupported,
                sources=sources,
            )
        except BaseException:
            self._release(answer)
            raise
        if answer.call.trace is not None:
            answer.call.trace.stage("route", began)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._end_late_ones)
        return answer

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for answer in list(self._running):
            answer.end_if_late(now)
        again = bool(self._running)
        self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._end_late_ones) if again else None

    def _fleet_fingerprint(self) -> str:
        # Another list whenever a worker comes, goes, or connects anew.
        known = self._workers.capabilities
        if known is not self._fleet[0] or not known:
            infos = [session.info for session in self._workers.sessions if session.info is not None]
            self._fleet = known, fleet_fingerprint(infos)
        return self._fleet[1]

    def _choose(
        self, needs: Requirements, cache_salt: str, session: str, prompt: Sequence[int], tried: frozenset[str]
    ) -> WorkerSession:
        return self._workers.choose(prompt, needs=needs, cache_salt=cache_salt, session=session, excluding=tried)

    def _ended(self, answer: Answer, outcome: AnswerOutcome) -> None:
        self._drain_rate.started(time.monotonic())
        self._release(answer)
        self._on_outcome(outcome)

    def _release(self, answer: Answer) -> None:
        self._running.discard(answer)
        self._note_idle()

    def _note_idle(self) -> None:
        if self._draining and not self._running and not self._preparing:
            self._idle.set()

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """Lets a drain wait for the block."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1
            self._note_idle()

    async def _echoed(self, request: chat_pb2.CompletionRequest, prepared: Prepared) -> list[str]:
        return [
            given.text if given.WhichOneof("prompt") == "text" else await self._tokenizer.decode_async(ids)
            for given, ids in zip(request.prompts, prepared.prompts, strict=True)
        ]


async def _until_complete(answer: Answer, fold: Fold) -> None:
    try:
        await fold.ended
    finally:
        answer.cancel()
    fold.check()
