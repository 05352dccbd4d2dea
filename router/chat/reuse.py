"""Kept answers as the use case sees them: which choices of a request may come from the store, and which do."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.answers.cache import AnswerCache, Source, Wanted
from qwenserve.router.answers.policy import (
    OFF,
    CacheUse,
    Request,
    SimilarUse,
    answer_key,
    answer_scope,
    cache_use,
    framed,
    is_repeatable,
    request_identity,
)
from qwenserve.router.answers.question import Question, question
from qwenserve.router.answers.record import Recording
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import ChoicePlan
from qwenserve.router.chat.prepare import Prepared
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import CacheConfig
from qwenserve.runtime.errors import NotCached
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.worker.v1 import worker_pb2

_HIT, _JOINED, _MISS = chat_pb2.CACHE_STATUS_HIT, chat_pb2.CACHE_STATUS_JOINED, chat_pb2.CACHE_STATUS_MISS


# Where an answer's choices come from (nothing where kept answers do not count), what that is to be called, and the
# earlier prompt whose answer it is, if another one.
Reused: TypeAlias = tuple[Sequence[Source], chat_pb2.CacheStatus, chat_pb2.SimilarPrompt | None]


class Reuse:
    """Decides for each request. `fingerprint` says what the workers compute with; empty while none is known. `keys` may
    say what holds for a key's requests.
    """

    def __init__(
        self, answers: AnswerCache, config: CacheConfig, fingerprint: Callable[[], str], keys: KeyRing | None = None
    ) -> None:
        self._answers = answers
        self._config = config
        self._fingerprint = fingerprint
        self._keys = keys
        similar = config.similar
        self._similar = SimilarUse(answers.similar is not None, similar.mode == "on", similar.threshold)
        self._usual = cache_use(chat_pb2.CachePolicy(), config.mode, config.max_age_s, self._similar)

    def use(self, request: Request, key_id: str = "") -> CacheUse:
        """Returns what a request of a key may do with kept answers. Raises InvalidRequest."""
        mode, similar = self._config.mode, self._similar
        record = self._keys.record(key_id) if self._keys is not None and key_id else None
        if record is not None:
            mode = record.cache or mode
            if record.similar is not None:
                similar = similar._replace(wanted=record.similar)
        if mode == "off" and not request.HasField("cache"):
            return OFF
        if request.HasField("prompt_logprobs"):
            return OFF  # they are not kept
        if record is None and not request.HasField("cache"):
            return self._usual
        return cache_use(request.cache, mode, self._config.max_age_s, similar)

    async def sources(
        self,
        use: CacheUse,
        request: Request,
        call: Call,
        prepared: Prepared,
        plans: Sequence[ChoicePlan],
        answer_id: str = "",
    ) -> Reused:
        """Returns where the choices come from, and what is to be told of it.

        Waits for the store once, no longer than it may take; where similar prompts count and none is equal, for the
        store twice more and for the embedder. Raises NotCached.
        """
        wanted = self._wanted(use, request, call, prepared, plans, answer_id)
        answers = self._answers
        sources: Sequence[Source] = ()
        status = _MISS
        if len(wanted) == 1:
            # Most answers have one choice, which needs no task of its own and no lists.
            [each] = wanted
            found = await answers.kept(each) if answers.asks(each) else None
            status = _HIT if found is not None else _JOINED if answers.running(each) is not None else _MISS
            sources = [Source(answers, each, found, status == _MISS)]
        elif wanted:
            kept = await answers.look_up(wanted)
            status = self._status(wanted, kept)
            sources = [Source(answers, each, found) for each, found in zip(wanted, kept, strict=True)]
        if status == _MISS and use.similar and wanted:
            like = await answers.look_for_similar(wanted[0])
            if like is not None:
                told = chat_pb2.SimilarPrompt(id=like.match.answer_id, score=like.match.score)
                return (
                    [Source(answers, wanted[0], like.recording, result="similar")],
                    chat_pb2.CACHE_STATUS_SIMILAR,
                    told,
                )
        if use.only_if_cached and status != _HIT:
            raise NotCached("no answer is kept for this request; send it without only-if-cached", param="cache")
        return sources, status, None

    def _status(self, wanted: Sequence[Wanted], kept: Sequence[Recording | None]) -> chat_pb2.CacheStatus:
        """Says what is there of what is wanted: all of it, all of it on its way, or not all."""
        missing = [each for each, found in zip(wanted, kept, strict=True) if found is None]
        if not missing:
            return _HIT
        return _JOINED if all(map(self._answers.running, missing)) else _MISS

    def _wanted(
        self,
        use: CacheUse,
        request: Request,
        call: Call,
        prepared: Prepared,
        plans: Sequence[ChoicePlan],
        answer_id: str,
    ) -> Sequence[Wanted]:
        """Returns what to look for, one for each choice, or nothing where the answer would not come out the same."""
        fingerprint = self._fingerprint()
        if not fingerprint or not is_repeatable(plans[0].sampling, request.sampling, prepared.unsupported):
            return ()
        identity, alone = request_identity(request), False
        thinking, guide = prepared.thinking, prepared.guide
        if thinking is not None or guide is not None:
            # A thought that is closed at its budget, and one that a guide begins behind, make legs of their own.
            alone = thinking is not None or (guide is not None and bool(guide.behind))
            identity = legs_identity(identity, prepared)
        # A cache salt that the caller chose must not give access to what was kept for another key.
        tenant = f"{call.key_id}\n{prepared.cache_salt or request.cache_salt}"
        scope = answer_scope(fingerprint, tenant, identity)
        asked = self._question(request, plans, scope) if use.similar else None
        return [
            Wanted(
                answer_key(scope, plan.sampling, packed_ids(plan.prompt_token_ids)),
                plan.prompt_token_ids,
                plan.sampling,
                use,
                alone,
                asked,
                answer_id,
            )
            for plan in plans
        ]

    def _question(self, request: Request, plans: Sequence[ChoicePlan], scope: bytes) -> Question | None:
        similar = self._answers.similar
        if similar is None or len(plans) != 1 or isinstance(request, chat_pb2.CompletionRequest):
            return None
        return question(
            request.conversation,
            scope=scope,
            sampling=plans[0].sampling,
            max_tokens_given=request.sampling.HasField("max_tokens"),
            any_turn=self._config.similar.turns == "any",
            space=similar.space,
        )


def legs_identity(identity: bytes, prepared: Prepared) -> bytes:
    """Returns a request's identity with what decides, besides its fields, how its answer is made of legs: the guide,
    which may follow from something else, such as the schemas of tools, and what is appended where a thought ends. It
    has 32 bytes.
    """
    thinking, guide = prepared.thinking, prepared.guide
    parts = [identity]
    if guide is not None:
        parts.append(guide.guide.SerializeToString(deterministic=True))
    if thinking is not None or (guide is not None and guide.behind):
        # Where engines know of no biases, a thought may end otherwise.
        parts.append(b"unbiased" if "logit_bias" in prepared.unsupported else b"biased")
        parts.append(b"" if guide is None else array("i", sorted(guide.behind)).tobytes())
        parts.append(array("i", prepared.behind_thought).tobytes())
    if thinking is not None:
        parts.append(array("q", (thinking.tokens,)).tobytes())
        parts.append(array("i", thinking.closing).tobytes())
        parts.append(array("i", sorted(thinking.ends)).tobytes())
    return hashlib.sha256(framed(parts)).digest()


def fleet_fingerprint(infos: Iterable[worker_pb2.WorkerInfo]) -> str:
    """Returns what changes when a worker computes with something else: model, weights, engine, release.

    Where workers differ, any of them may have answered, and the key says so. Empty without workers.
    """
    return " ".join(
        sorted({f"{info.model.lower()}/{info.model_fingerprint}/{info.engine}/{info.engine_version}" for info in infos})
    )
