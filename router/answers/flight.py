"""One generation shared by all requests that ask the same at the same time ("single flight")."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from qwenserve.router.answers.record import Recording
from qwenserve.router.answers.tape import Tape
from qwenserve.router.generation.generation import Generation
from qwenserve.router.generation.leg import LegGuide, NextLeg, Placement
from qwenserve.runtime.errors import InternalError, ServiceError
from qwenserve.runtime.logs import EventLog
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

_log = EventLog("answers")


class Flight(Tape):
    """A tape that a generation of its own writes. Implements `router.generation.generation.Receiver`.

    The generation belongs to nobody who reads: it goes on while anybody does, whoever came first, and is stopped when
    the last reader has left or has all it wants. Readers do not notice when a worker is lost and another continues.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: sampling_pb2.SamplingParams,
        end_ids: frozenset[int],
        placement: Placement,
        on_end: Callable[[Flight, Recording | None], None],
        *,
        guide: LegGuide | None = None,
    ) -> None:
        """`on_end` gets what can be kept, or None; it is called once, before the readers hear of the end."""
        super().__init__("", kept=False)
        # Whether a new reader would get the whole answer. Not while it is being stopped: it may stop anywhere.
        self.joinable = True
        self._on_end: Callable[[Flight, Recording | None], None] | None = on_end
        self._sampling = sampling
        self._generation = Generation(prompt, sampling, end_ids, placement, self, guide=guide)

    @property
    def name(self) -> str:
        """The name of the worker that has it."""
        return self._generation.worker

    def begin(self) -> None:
        """Starts the generation. Raises Unavailable, and has then ended."""
        try:
            self._generation.begin()
        except BaseException:
            self._over(None)
            self._generation.close()
            raise

    def take(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Takes new ids from the generation."""
        self.write(ids, logprobs, self._generation.last_token)

    def ending(self) -> None:
        """The end comes together with the ids of this step."""
        self.hold()

    def paused(self) -> NextLeg:
        """No leg ends early: answers whose thinking has a budget are not shared."""
        return NextLeg()

    def keeps(self, token_id: int) -> bool:
        """As above: nobody asks."""
        return False

    def ended(self, finish: worker_pb2.Finish) -> None:
        """Takes the generation's end."""
        # An engine reports an abort also where something other than a reader caused it.
        complete = finish.reason != sampling_pb2.FINISH_REASON_ABORTED or self.stopped_early
        # Continued on a second worker, a sampled answer cannot be repeated: it drew from two seeds.
        repeatable = self._sampling.temperature == 0 or not self._generation.continued
        told = worker_pb2.Finish()
        told.CopyFrom(finish)
        told.cached_tokens = self._generation.cached_tokens
        self._over(
            Recording(self.ids, self.logprobs, told, time.time()) if complete and repeatable and self.ids else None
        )
        self.end(told)
        self._generation.close()

    def failed(self, error: ServiceError) -> None:
        """The generation cannot be continued: every reader gets its error."""
        self._over(None)
        self.fail(error)
        self._generation.close()

    def defect(self, error: Exception) -> None:
        """Something here raised."""
        _log.error("flight_failed", exc_info=error)
        self.failed(InternalError("internal error; the router's log has the details"))

    def _all_stopped(self) -> None:
        self.joinable = False
        self._generation.stop()

    def _all_left(self) -> None:
        self._over(None)
        self._generation.close()

    def _over(self, recording: Recording | None) -> None:
        self.joinable = False
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, recording)
