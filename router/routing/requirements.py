"""What a request needs of the worker that answers it, and which workers have that. Pure.

Workers of one model may differ: in engine, window, sampling fields, guides. A request goes to those that can serve it
as it stands, however poor the others are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from qwenserve.runtime.values import frozen_value


@frozen_value
class Capabilities:
    """What one worker can do. `max_model_len` is its window in tokens, `unsupported` has the fields that its engine
    cannot honour, `guide_kinds` the values of `type.v1.GuideKind` that it can follow.
    """

    engine: str
    max_model_len: int
    max_top_logprobs: int
    unsupported: frozenset[str] = frozenset()
    guide_kinds: frozenset[int] = frozenset()


@frozen_value
class Requirements:
    """What a worker must have to be given a request.

    `fields` are names that its engine must honour, `tokens` those of prompt and answer together, `guide_kind` a value
    of `type.v1.GuideKind` (0: no guide).
    """

    fields: frozenset[str] = frozenset()
    tokens: int = 0
    top_logprobs: int = 0
    guide_kind: int = 0

    def lacking(self, worker: Capabilities) -> frozenset[str]:
        """Returns the fields of the request that a worker cannot serve; empty where it can serve all."""
        lacking = self.fields & worker.unsupported
        if self.tokens > worker.max_model_len:
            lacking |= {"max_tokens"}
        if self.top_logprobs > worker.max_top_logprobs and "top_logprobs" not in worker.unsupported:
            lacking |= {"top_logprobs"}
        if self.guide_kind and self.guide_kind not in worker.guide_kinds:
            lacking |= {"guide"}
        return lacking

    def met_by(self, worker: Capabilities) -> bool:
        """Returns whether a worker lacks nothing: `lacking` in a third of its time, for each worker of each request."""
        return (
            self.tokens <= worker.max_model_len
            and self.fields.isdisjoint(worker.unsupported)
            and (self.top_logprobs <= worker.max_top_logprobs or "top_logprobs" in worker.unsupported)
            and (not self.guide_kind or self.guide_kind in worker.guide_kinds)
        )


NO_REQUIREMENTS = Requirements()


@frozen_value
class Common:
    """What some workers have together: the largest window and number of alternatives (0: of none), and every field that
    some of them cannot serve.
    """

    max_model_len: int
    max_top_logprobs: int
    unsupported: frozenset[str]


def common_to(workers: Collection[Capabilities]) -> Common:
    """Returns what workers have together."""
    return Common(
        max((worker.max_model_len for worker in workers), default=0),
        max((worker.max_top_logprobs for worker in workers), default=0),
        frozenset().union(*(worker.unsupported for worker in workers)),
    )


def best_suited(workers: Sequence[Capabilities], needs: Requirements) -> Sequence[Capabilities]:
    """Returns the workers that can serve a request: the very sequence where all can; where none can, all those that
    lack the same fewest fields.
    """
    able = [worker for worker in workers if needs.met_by(worker)]
    if len(able) == len(workers):
        return workers
    if able:
        return able
    by_lack: dict[frozenset[str], list[Capabilities]] = {}
    for worker in workers:
        by_lack.setdefault(needs.lacking(worker), []).append(worker)
    return by_lack[min(by_lack, key=lambda lack: (len(lack), sorted(lack)))]
