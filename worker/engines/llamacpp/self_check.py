"""Proof, on the loaded model, that llama.cpp hands out every id: run once at start, takes a few tokens.

The adapter relies on details of a server that changes weekly. A break shows here, not in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.worker.engine_interface import Chunk, EngineError, EngineRequest, Finish, FinishReason, Sampling
from qwenserve.worker.engines.llamacpp import memory_files
from qwenserve.worker.engines.llamacpp.drive import drive
from qwenserve.worker.engines.llamacpp.generation import Generation
from qwenserve.worker.engines.llamacpp.gguf_files import ModelFacts
from qwenserve.worker.engines.llamacpp.native import NativeServer
from qwenserve.worker.engines.llamacpp.slot_calls import SlotCallError

# Far above any logit: the token is taken whatever the model thinks.
_FORCE = 1e6
_FORCED_TOKENS = 3
_REMEDY = (
    "install the xllamacpp that qwenserve pins (pip install --force-reinstall qwenserve); "
    "if it is the one, delete the prepared model file so that it is made again"
)


class _Answer(NamedTuple):
    token_ids: list[int]
    scored_ids: list[int]
    finish: Finish | None


def check_ids(server: NativeServer, facts: ModelFacts, end_token_ids: frozenset[int], max_model_len: int) -> None:
    """Generates with and without forced tokens. Raises EngineError where an id or its log-probability is lost."""

    def generate(sampling: Sampling) -> _Answer:
        return _generate(server, sampling, end_token_ids, max_model_len)

    for token in _spread(facts.replaced_token_ids, _FORCED_TOKENS):
        forced = Sampling(max_tokens=2, logit_bias={token: _FORCE}, top_logprobs=0, ignore_eos=True)
        try:
            got = generate(forced)
        except EngineError as error:
            raise EngineError(f"llama.cpp loses tokens that end inside a character ({error}); {_REMEDY}") from error
        if got.token_ids != [token, token] or got.scored_ids != got.token_ids:
            raise EngineError(
                f"llama.cpp loses tokens that end inside a character ({got.token_ids} came where twice {token} "
                f"belongs); {_REMEDY}"
            )
    got = generate(Sampling(temperature=0.0, max_tokens=4, ignore_eos=True, top_logprobs=1))
    if len(got.token_ids) != 4 or got.scored_ids != got.token_ids:
        raise EngineError(f"llama.cpp gave ids {got.token_ids}, scored {got.scored_ids}, of 4; {_REMEDY}")
    end = min(end_token_ids)
    got = generate(Sampling(max_tokens=4, logit_bias={end: _FORCE}))
    if got.token_ids != [end] or got.finish is None or got.finish.reason != FinishReason.STOP:
        raise EngineError(f"llama.cpp gave {got.token_ids} where end token {end} alone belongs; {_REMEDY}")


def keeps_states(server: NativeServer) -> bool:
    """Tells whether a slot's state can be copied and read back. The first slot must hold something."""
    file = memory_files.create()
    if file is None:
        return False
    try:
        works = server.slots.save(0, file) and server.slots.restore(0, file)
    except SlotCallError:
        return False  # and the file stays open: it may be written yet
    memory_files.close(file)
    return works


def _generate(server: NativeServer, sampling: Sampling, end_token_ids: frozenset[int], max_model_len: int) -> _Answer:
    """Answers a one-token prompt."""
    request = EngineRequest(0, [0], sampling)
    generation = Generation(request, end_token_ids, max_model_len)
    chunks: list[Chunk] = []
    last = drive(server, request, generation, 0, reuse_prefix=False, cancelled=lambda: False, emit=chunks.append)
    chunks.append(last)
    if last.finish is not None and last.finish.error:
        raise EngineError(f"llama.cpp refuses to generate: {last.finish.error}")
    ids = [token for chunk in chunks for token in chunk.token_ids]
    scored = [row.token_id for chunk in chunks for row in chunk.logprobs or ()]
    return _Answer(ids, scored, last.finish)


def _spread(ids: Sequence[int], count: int) -> list[int]:
    """Returns up to `count` ids, evenly from the list."""
    return [ids[i * (len(ids) - 1) // max(1, count - 1)] for i in range(min(count, len(ids)))]
