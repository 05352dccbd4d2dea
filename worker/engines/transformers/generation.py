"""One request's way: which pass it needs next, and what becomes of the logits. No torch, no threads."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from qwenserve.worker.engine_interface import Chunk, EngineRequest, Finish, FinishReason, TokenLogprob
from qwenserve.worker.engines.transformers.choice import Seen, choose, scored
from qwenserve.worker.engines.transformers.network import Pass
from qwenserve.worker.guides.matcher import GuideError, GuideMatcher

_NOTHING: frozenset[int] = frozenset()


class Generation:
    """The state of a request that is computed. `cache` holds the first `computed` of its ids."""

    def __init__(
        self,
        request: EngineRequest,
        ends: frozenset[int],
        window: int,
        cache: int,
        cached: int,
        guide: GuideMatcher | None,
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.cache = cache
        self.computed = cached
        self.ids = list(request.prompt_token_ids)
        self.aborted = False
        self._cached = cached
        self._guide = guide
        self._stops = sampling.stop_token_ids | (_NOTHING if sampling.ignore_eos else ends)
        self._limit = min(sampling.max_tokens, window - len(self.ids))
        self._everywhere = set(self.ids)
        self._in_answer = Counter(self.ids[request.answer_start :])
        self._made = 0
        self._prompt_logprobs: list[TokenLogprob] = []

    def next_pass(self, most: int) -> Pass:
        """Returns what is to be computed next, `most` ids of it."""
        return Pass(self.cache, self.computed, self.ids[self.computed : self.computed + most])

    def take(self, logits: NDArray[np.float64]) -> Chunk | None:
        """Takes a pass's logits; returns what there is to deliver. Raises GuideError."""
        start = self.computed
        self.computed += len(logits)
        alternatives = self.request.prompt_logprobs
        if alternatives is not None and self._made == 0:
            following = self.ids[start + 1 : self.computed + 1]
            self._prompt_logprobs += [
                scored(row, token, alternatives) for row, token in zip(logits, following, strict=False)
            ]
        return self._advance(logits[-1]) if self.computed == len(self.ids) else None

    def _advance(self, logits: NDArray[np.float64]) -> Chunk:
        sampling = self.request.sampling
        allowed = self._allowed()
        banned = self._stops if self._made < sampling.min_tokens else _NOTHING
        if allowed is not None and not allowed - banned:
            if self._guide is None or not self._guide.may_end:
                raise GuideError("no id is left that allowed_token_ids, min_tokens and the guide all allow")
            return self._last(FinishReason.STOP)._replace(prompt_logprobs=self._scores())
        token = choose(
            logits,
            sampling,
            Seen(self._everywhere, self._in_answer),
            allowed=allowed,
            banned=banned,
            place=len(self.ids),
        )
        if self._guide is not None and not self._guide.take(token):
            raise GuideError(f"guide: id {token} was allowed and is refused")
        self.ids.append(token)
        self._everywhere.add(token)
        self._in_answer[token] += 1
        self._made += 1
        logprobs = None
        if sampling.top_logprobs is not None:
            logprobs = (scored(logits, token, sampling.top_logprobs),)
        finish = None
        if token in self._stops:
            finish = Finish(FinishReason.STOP, token, self._cached)
        elif self._guide is not None and self._guide.complete:
            finish = Finish(FinishReason.STOP, None, self._cached)
        elif self._made >= self._limit:
            finish = Finish(FinishReason.LENGTH, None, self._cached)
        return Chunk(self.request.key, (token,), logprobs, finish, self._scores())

    def _allowed(self) -> frozenset[int] | None:
        own = self.request.sampling.allowed_token_ids
        if self._guide is None:
            return own or None
        allowed = self._guide.allowed()
        return allowed & own if own else allowed

    def _scores(self) -> list[TokenLogprob] | None:
        if self.request.prompt_logprobs is None or self._made > 1:
            return None
        return self._prompt_logprobs

    def _last(self, reason: FinishReason, error: str = "") -> Chunk:
        return Chunk(self.request.key, (), None, Finish(reason, None, self._cached, error))

    @property
    def over(self) -> bool:
        """Whether its guide leaves nothing to generate."""
        return self._guide is not None and self._guide.complete

    def ended(self) -> Chunk:
        """Returns the only chunk of a request that is over before it began."""
        return self._last(FinishReason.STOP)

    def aborted_chunk(self, error: str = "") -> Chunk:
        """Returns the last chunk of a request that was aborted, or could not be done."""
        return self._last(FinishReason.ABORTED, error)
