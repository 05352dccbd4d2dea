"""Log-probabilities of a prompt's ids: llama.cpp's server gives none, but it scores any id that it is made to take.

One call for each id: the ids before it are the prompt, and a bias forces it. What an earlier call computed is still in
the slot, so that a call computes one id; a prompt takes as long as generating as many ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwenserve.worker.engine_interface import Chunk, EngineError, EngineRequest, TokenLogprob
from qwenserve.worker.engines.llamacpp.chunks import Failed, Generated, read_chunk
from qwenserve.worker.engines.llamacpp.native import NativeServer

# Far above any logit.
_FORCE = 1e6
# As many are handed over at a time.
_BATCH = 64


def score_prompt(
    server: NativeServer,
    request: EngineRequest,
    slot: int,
    *,
    reuse_prefix: bool,
    cancelled: Callable[[], bool],
    emit: Callable[[Chunk], None],
) -> str:
    """Blocks until all of the prompt is scored; `emit` gets the log-probabilities. Returns why not; mostly empty."""
    scored: list[TokenLogprob] = []
    for place in range(1, len(request.prompt_token_ids)):
        if cancelled():
            return ""
        call = _Call(request.prompt_logprobs or 0)
        server.complete(_body(request, place, slot, reuse_prefix=reuse_prefix or place > 1), call.on_chunk)
        token = request.prompt_token_ids[place]
        if call.failed is not None:
            return call.failed.message
        if call.logprob is None or call.logprob.token_id != token:
            raise EngineError(f"llama.cpp gave {call.logprob} where id {token} of the prompt was to be scored")
        scored.append(call.logprob)
        if len(scored) == _BATCH:
            emit(Chunk(request.key, (), prompt_logprobs=scored))
            scored = []
    if scored:
        emit(Chunk(request.key, (), prompt_logprobs=scored))
    return ""


def _body(request: EngineRequest, place: int, slot: int, *, reuse_prefix: bool) -> Mapping[str, Any]:
    return {
        "stream": True,
        "verbose": True,
        "prompt": list(request.prompt_token_ids[:place]),
        "max_tokens": 1,
        "temperature": 0.0,
        "samplers": ["temperature"],
        "logit_bias": [[request.prompt_token_ids[place], _FORCE]],
        "n_probs": max(1, request.prompt_logprobs or 0),
        "id_slot": slot,
        "cache_prompt": reuse_prefix,
    }


class _Call:
    """The callback of one call."""

    def __init__(self, alternatives: int) -> None:
        self._alternatives = alternatives
        self.logprob: TokenLogprob | None = None
        self.failed: Failed | None = None

    def on_chunk(self, raw: Mapping[str, Any]) -> bool:
        """Never aborts: a call is one step."""
        event = read_chunk(raw, self._alternatives)
        if isinstance(event, Generated) and event.logprobs:
            self.logprob = event.logprobs[0]
        elif isinstance(event, Failed):
            self.failed = event
        return False
