"""One generation shared by all requests that ask the same at the same time ("single flight")."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from qwenserve.router.answers.record import Recording
from qwenserve.router.answers.tape import Tape
from qwenserve.router.generation.generation import Generation, Receiver
from qwenserve.router.generation.leg import NextLeg
from qwenserve.runtime.errors import InternalError, ServiceError
from qwenserve.runtime.logs import EventLog
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

_log = EventLog("answers")
_ABORTED = sampling_pb2.FINISH_REASON_ABORTED


class Flight(Tape):
    """A tape that a generation writes. Implements `router.generation.generation.Receiver`.

    The generation belongs to nobody who reads: it goes on while anybody does, whoever came first, and is stopped when
    the last reader has left or has all it wants. Readers do not notice when a worker is lost and another continues.
    """

    def __init__(
        self,
        generation: Generation,
        sampling: sampling_pb2.SamplingParams,
        on_end: Callable[[Flight, Recording | None], None],
        logprobs: Sequence[sampling_pb2.TokenLogprob] = (),
    ) -> None:
        """Takes a generation over; `logprobs` are those of its ids so far. `on_end` gets what can be kept, or None; it
        is called once, before the readers hear of the end.
        """
        super().__init__("")
        # Whether a new reader would get the whole answer. Not while it is being stopped: it may stop anywhere.
        self.joinable = True
        self._on_end: Callable[[Flight, Recording | None], None] | None = on_end
        self._sampling = sampling
        self._generation = generation
        self.ids.extend(generation.ids)
        self.logprobs.extend(logprobs)
        generation.pass_to(self)

    @property
    def name(self) -> str:
        """The name of the worker that has it."""
        return self._generation.worker

    def lead(self, reader: Receiver) -> Generation:
        """Returns a generation that goes on for the receiver that the shared one had before, where that was."""
        generation = self._generation.again(reader)
        generation.read_on(self, self.follow(generation, len(self._generation.prompt)))
        return generation

    def take(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Takes new ids from the generation."""
        self.write(ids, logprobs, self._generation.last_token)

    def ending(self) -> None:
        """The end comes together with the ids of this step."""
        self.hold()

    def paused(self) -> NextLeg:
        """No leg ends early: answers that pause are not shared."""
        return NextLeg()

    def keeps(self, token_id: int) -> bool:
        """As above: nobody asks."""
        return False

    def ended(self, finish: worker_pb2.Finish) -> None:
        """Takes the generation's end."""
        told = worker_pb2.Finish()
        told.CopyFrom(finish)
        told.cached_tokens = self._generation.cached_tokens
        self._over(recorded(self._generation, self._sampling, finish, self.logprobs, self.stopped_early))
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


def recorded(
    generation: Generation,
    sampling: sampling_pb2.SamplingParams,
    finish: worker_pb2.Finish,
    logprobs: Sequence[sampling_pb2.TokenLogprob],
    stopped: bool,
    thinking_cut: bool = False,
) -> Recording | None:
    """Returns what of an ended generation can be kept, None where it would not come out the same again. `stopped`: by
    somebody who had all that was wanted.
    """
    ids = generation.ids
    # An engine reports an abort also where something other than a reader caused it.
    if not ids or (not stopped and finish.reason == _ABORTED):
        return None
    # Continued on a second worker, a sampled answer cannot be repeated: it drew from two seeds.
    if generation.continued and sampling.temperature != 0:
        return None
    # What was appended behind a thought has none.
    if len(logprobs) != len(ids) and sampling.HasField("top_logprobs"):
        return None
    return Recording(ids, logprobs, finish, time.time(), thinking_cut)
