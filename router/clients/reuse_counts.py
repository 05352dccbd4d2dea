"""Counts what was expected of the workers' prefix caches, and what turned out."""

from __future__ import annotations

from qwenserve.runtime.counting import Counters
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

# Engines without blocks also find the part of a block with which what is known of a prompt ends.
_BLOCK = 32


class ReuseCounts:
    """Prompt tokens of the submissions for which a worker was chosen by its cache."""

    def __init__(self) -> None:
        self.tokens = Counters(
            "qwenserve_prefix_tokens",
            "Prompt tokens that were to be computed, by what was known of the chosen worker's prefix cache: all, "
            "expected there, found there, expected and missing, found and unexpected.",
            ["kind"],
        )
        self.requests = Counters(
            "qwenserve_prefix_requests",
            "Submissions by whether the worker's prefix cache held what was expected: as_expected (to a block), "
            "less, or more.",
            ["outcome"],
        )
        labels = self.tokens.labels
        self._prompt, self._expected, self._found = labels("prompt"), labels("expected"), labels("found")
        self._missing, self._surprising = labels("missing"), labels("unexpected")
        outcomes = self.requests.labels
        self._as_expected, self._less, self._more = outcomes("as_expected"), outcomes("less"), outcomes("more")

    def note(self, expected: int, prompt_tokens: int, finish: worker_pb2.Finish) -> None:
        """Counts a submission that has ended; not one that failed, or ended before its prompt was looked at."""
        found = finish.cached_tokens
        if finish.error_reason or (finish.reason == sampling_pb2.FINISH_REASON_ABORTED and not found):
            return
        self._prompt.inc(prompt_tokens)
        self._expected.inc(expected)
        self._found.inc(found)
        if found < expected:
            self._missing.inc(expected - found)
            self._less.inc()
        elif found - expected >= _BLOCK:
            self._surprising.inc(found - expected)
            self._more.inc()
        else:
            self._as_expected.inc()
