"""Log-probabilities as a worker packs them, made into messages of the public API."""

from __future__ import annotations

from collections.abc import Sequence

from qwenserve.runtime.errors import WorkerLost
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2


def unpacked_run(token_ids: Sequence[int], run: worker_pb2.LogprobRun) -> list[sampling_pb2.TokenLogprob]:
    """Returns those of new tokens. Raises WorkerLost where the arrays do not fit together."""
    return unpacked(token_ids, run.logprobs, run.top_counts, run.top_token_ids, run.top_logprobs)


def unpacked(
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    top_counts: Sequence[int],
    top_token_ids: Sequence[int],
    top_logprobs: Sequence[float],
) -> list[sampling_pb2.TokenLogprob]:
    """Returns a log-probability for each of `token_ids`, without texts. No `top_counts`: all have as many alternatives.

    Raises WorkerLost where the arrays do not fit together.
    """
    tokens = len(logprobs)
    top_ids, top_values = list(top_token_ids), list(top_logprobs)
    counts = list(top_counts) or [len(top_ids) // tokens if tokens else 0] * tokens
    if tokens != len(token_ids) or len(counts) != tokens or not sum(counts) == len(top_ids) == len(top_values):
        raise WorkerLost("the worker sent log-probabilities that do not fit together")
    made = []
    position = 0
    top_logprob = sampling_pb2.TopLogprob
    for token_id, value, count in zip(token_ids, logprobs, counts, strict=True):
        end = position + count
        made.append(
            sampling_pb2.TokenLogprob(
                token_id=token_id,
                logprob=value,
                top_logprobs=[
                    top_logprob(token_id=top_id, logprob=top_value)
                    for top_id, top_value in zip(top_ids[position:end], top_values[position:end], strict=True)
                ],
            )
        )
        position = end
    return made
