"""One request's way through llama.cpp: which calls to make, which ids to take, when it is over. No I/O.

A request is nearly always one call. It becomes several, each with the ids so far as part of its prompt (which
the slot still holds, so that one token is computed again), where llama.cpp's own rules differ from ours:

- It knows nothing of `min_tokens`. The first `min_tokens` ids come from a call in which end and stop tokens are
  banned, the rest from a second one.
- It ends at every token that it takes for an end token, by the text of the token: also at ones that are not the
  model's, and at those that `ignore_eos` wants to pass. The answer then goes on in another call.

It has no stop token ids: ids are watched here and the call is aborted.

It knows grammars, of texts that are not quite the model's (`gguf_files.vocabulary`), so guides are followed here. The
model generates freely and every id is checked. One that the guide does not allow is not taken, and its place is
generated again among those that it allows; what can only be one id is not generated at all. So an answer that keeps to
its guide by itself costs nothing more, and the ids have the distribution that a mask on the logits gives where no
filter (`top_k`, `top_p`, `min_p`) applies; with one, ids that it leaves are preferred to those that only the mask does.

Penalties look at the whole context, the prompt included: for `repetition_penalty` that is what other engines
do, while for presence and frequency OpenAI counts the answer only, so that here they weigh more. Every call has
a seed of its own, derived from the request's, so that a request repeats with its seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import Chunk, EngineError, EngineRequest, Finish, FinishReason, TokenLogprob
from qwenserve.worker.engines.llamacpp.chunks import Generated, Prefilled
from qwenserve.worker.guides.matcher import GuideError, GuideMatcher

# The order of transformers and vLLM; llama.cpp's own has the temperature last.
_SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
# After the temperature 0 sampler one token is left.
_GREEDY_SAMPLERS = ("penalties", "temperature")
# Lifts allowed ids above all others, whatever their logits and biases. At this height a float32 logit has steps of
# 1/16384. A grammar of ids would not need it, but lets every end token pass as soon as it lets one.
ALLOWED = 512.0
# So many allowed ids are lifted; of more, the refused ones are banned one by one, and after some tries all of them.
_MOST_LIFTED = 512
_MOST_TRIES = 8
_WORD = (1 << 64) - 1


class Taken(NamedTuple):
    """What became of new ids. `chunk` is None while the last ones are held for the finish that follows."""

    chunk: Chunk | None
    leave: bool


class _Place(NamedTuple):
    """The ids that are left for one place: all of `lifted`, or where that is empty, those that are not `banned`."""

    lifted: frozenset[int]
    banned: frozenset[int]


class Generation:
    """The state of one request. Methods are called in turn by the one thread that drives it."""

    def __init__(
        self,
        request: EngineRequest,
        end_token_ids: frozenset[int],
        max_model_len: int,
        vocab_size: int = 0,
    ) -> None:
        sampling = request.sampling
        self._request = request
        self._stops = sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else end_token_ids)
        self._limit = min(sampling.max_tokens, max_model_len - len(request.prompt_token_ids))
        self._banned_until = min(sampling.min_tokens, self._limit) if self._stops else 0
        self._window = max_model_len
        self._calls = 0
        self._call_began_at = 0
        # After so many ids the current call ends by itself.
        self._call_target = 0
        self._vocab_size = vocab_size
        self._guide: GuideMatcher | None = None
        # Ids that the model wanted at the place that comes next, and the guide did not allow.
        self._refused: set[int] = set()
        self._held: tuple[tuple[int, ...], tuple[TokenLogprob, ...] | None] = ((), None)
        self._finish: FinishReason | None = None
        self._cached: int | None = None
        # What is left of the prompt to compute. Written by the thread, read by the loop.
        self.unread = len(request.prompt_token_ids)
        self.produced: list[int] = []

    def follow(self, guide: GuideMatcher) -> None:
        """Binds what comes to a guide, from where the request's ids have come in it on. Raises GuideError."""
        guide.replay(self._request.guided_so_far)
        self._guide = guide
        if guide.complete:
            self._finish = FinishReason.STOP

    def forced(self) -> Chunk | None:
        """Takes the ids that can only come next, before a call; None where there are none. Raises GuideError."""
        guide = self._guide
        if (
            guide is None
            or self._finish is not None
            or self._refused
            or self._request.sampling.top_logprobs is not None
        ):
            return None
        ids = [token for token in guide.forced()[: self._limit - len(self.produced)] if token not in self._stops]
        return self.take(Generated(tuple(ids), None)).chunk if ids else None

    def next_call(self, slot: int, *, reuse_prefix: bool) -> Mapping[str, Any] | None:
        """Returns the body of the next call, None where the request is over. Raises GuideError."""
        if self._finish is not None:
            return None
        repeated = None
        if self._refused and self._guide is not None:
            repeated = self._repeated_place(self._guide)
            if repeated is None:
                return None
        body = _sampling_body(self._request, self._calls)
        bias = dict(self._request.sampling.logit_bias)
        banning = len(self.produced) < self._banned_until
        target = self._banned_until if banning else self._limit
        lifted = self._request.sampling.allowed_token_ids
        forbidden = self._stops if banning else frozenset()
        if repeated is not None:
            target = len(self.produced) + 1
            lifted = repeated.lifted or lifted
            forbidden |= repeated.banned
        for token in lifted:
            bias[token] = bias.get(token, 0.0) + ALLOWED
        banned = [[token, False] for token in sorted(forbidden)]
        body |= {
            "prompt": [*self._request.prompt_token_ids, *self.produced],
            "max_tokens": target - len(self.produced),
            "logit_bias": [[t, b] for t, b in bias.items() if t not in forbidden] + banned,
            # The whole context; the server refuses the -1 that would say so.
            "repeat_last_n": self._window,
            "id_slot": slot,
            # What an earlier call of this request left in the slot is its own.
            "cache_prompt": reuse_prefix or self._calls > 0,
        }
        self._calls += 1
        self._call_began_at = len(self.produced)
        self._call_target = target
        return body

    def _repeated_place(self, guide: GuideMatcher) -> _Place | None:
        """Returns what may come where the guide has refused something; None, with a finish, where nothing may."""
        sampling = self._request.sampling
        allowed = guide.allowed()
        if sampling.allowed_token_ids:
            allowed &= sampling.allowed_token_ids
        left = allowed - self._stops if len(self.produced) < self._banned_until else allowed
        if not left:
            if not guide.may_end:
                raise GuideError("guide: no id that it allows is among allowed_token_ids")
            self._finish = FinishReason.STOP
            return None
        if len(left) <= _MOST_LIFTED and sampling.repetition_penalty == 1:
            return _Place(left, frozenset())
        if len(self._refused) <= _MOST_TRIES:
            return _Place(frozenset(), frozenset(self._refused))
        return _Place(frozenset(), frozenset(range(self._vocab_size)) - left)

    def computes_whole_prompt(self) -> None:
        """Notes that nothing of the prompt is taken from the cache, whatever a later call finds there."""
        self._cached = 0

    def prefilled(self, new: Prefilled) -> None:
        """Notes how much of the prompt was cached, where the first call's number counts, and what is left of it."""
        if self._cached is None:
            self._cached = new.cached
        self.unread = new.unread

    def take(self, new: Generated) -> Taken:
        """Takes new ids. With `leave` the call has done its work and is to be aborted. Raises GuideError."""
        self.unread = 0
        guide = self._guide
        for position, token in enumerate(new.token_ids):
            if guide is not None and not guide.take(token):
                self._refused.add(token)
                logprobs = None if new.logprobs is None else new.logprobs[:position]
                kept_ids = new.token_ids[:position]
                return Taken(Chunk(self._request.key, kept_ids, logprobs) if kept_ids else None, True)
            self._refused.clear()
            self.produced.append(token)
            if token in self._stops or (guide is not None and guide.complete):
                self._finish = FinishReason.STOP
            elif len(self.produced) >= self._limit:
                self._finish = FinishReason.LENGTH
            if self._finish is not None:
                kept = position + 1
                self._held = (new.token_ids[:kept], None if new.logprobs is None else new.logprobs[:kept])
                # At the limit llama.cpp ends by itself, and in better order than by an abort.
                return Taken(None, self._finish == FinishReason.STOP)
        return Taken(Chunk(self._request.key, new.token_ids, new.logprobs), False)

    def call_ended(self, *, at_end_token: bool) -> None:
        """Notes that a call ended by itself. Raises EngineError where it did so without a token."""
        if self._finish is not None or self._refused:
            return
        if len(self.produced) == self._call_began_at:
            raise EngineError("llama.cpp ended a call without a token")
        if not at_end_token and len(self.produced) != self._call_target:
            # Nothing of ours ended it: the slot is full.
            self._finish = FinishReason.LENGTH

    def finished(self) -> Chunk:
        """Returns the last chunk of a request whose calls are over."""
        ids, logprobs = self._held
        reason = FinishReason.ABORTED if self._finish is None else self._finish
        stop = ids[-1] if reason == FinishReason.STOP and ids and ids[-1] in self._stops else None
        return Chunk(self._request.key, ids, logprobs, Finish(reason, stop, self._cached or 0))

    def failed(self, message: str) -> Chunk:
        """Returns the last chunk of a request that the engine could not do."""
        return Chunk(self._request.key, (), None, Finish(FinishReason.ABORTED, None, self._cached or 0, message))


def _sampling_body(request: EngineRequest, call: int) -> dict[str, Any]:
    """Every parameter is sent: the server's own defaults are 0.8, 40, 0.95 and 0.05."""
    s = request.sampling
    body: dict[str, Any] = {
        "stream": True,
        "verbose": True,
        "return_progress": True,
        "temperature": s.temperature,
        "top_k": s.top_k,
        "top_p": s.top_p,
        "min_p": s.min_p,
        "seed": call_seed(s.seed, call),
        "presence_penalty": s.presence_penalty,
        "frequency_penalty": s.frequency_penalty,
        "repeat_penalty": s.repetition_penalty,
        "samplers": list(_SAMPLERS if s.temperature > 0 else _GREEDY_SAMPLERS),
    }
    if s.top_logprobs is not None:
        body["n_probs"] = max(1, s.top_logprobs)
    return body


def call_seed(seed: int, call: int) -> int:
    """Spreads a 64-bit seed and the number of the call over the 32 bits that llama.cpp has (splitmix64).

    Its largest value means "draw one" there and is never returned.
    """
    mixed = (seed + (call + 1) * 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return (mixed ^ (mixed >> 31)) % 0xFFFFFFFF
