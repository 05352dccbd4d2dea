"""The token side of a choice: a prompt, the ids generated so far, and the leg that generates more of them.

A leg is one submission to one worker. The first one begins with the prompt; a further one has `prompt + ids so far`
as its prompt and says where in it the answer began, so that any worker can go on with any answer. A generation knows
no text: what it brings goes to its receiver, the text side.

The fast path
-------------
Goal: most ids of most answers stand for a piece of text that is certain as it is. Such an id becomes bytes on the
socket without passing the pipeline, without an event object, and without touching more of a stream's memory than it
must: between two engine steps a stream falls out of the processor's caches.

How: the receiver opens it with a table of texts by id and a function that takes a text. `token` looks the id up and
calls that function. The receiver is not called; from `len(ids)` it knows how many ids went past it.

Invariant: what the caller gets is the same whether the path is open or not. An id that is not in the table goes to the
receiver, after everything that went past it.

What closes it: every new leg, the end, and the receiver: after each id that it is given it looks at its own state and
opens or closes. It is never open while text is held back (half a character, a possible stop string, white space before
a marker), inside a tool call, or where ids or log-probabilities are reported.

Guarded by: tests/text/test_pipeline_properties.py (pipeline with and without it, on any answer and split) and
tests/router/chat/test_legs.py (the same answers with the sink's writer withheld).

Gain: 16 to 11 µs of CPU for a streamed token in steady state, 1.7 to 0.64 in a loop without sockets
(docs/performance.md).

It may be deleted when a token through the pipeline costs about the same, for instance with a pipeline in compiled code.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from qwenserve.router.clients.worker_session import PromptLogprobStream
from qwenserve.router.generation.held_back import HeldBack
from qwenserve.router.generation.leg import (
    Choose,
    Excluded,
    Leg,
    LegGuide,
    LegSource,
    LegStream,
    NextLeg,
    Placement,
    free_sampling,
    leg_sampling,
    penalizes,
)
from qwenserve.runtime.errors import InvalidRequest, QueueFull, ServiceError, SlowReader, WorkerLost, by_reason
from qwenserve.runtime.logs import EventLog
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

_log = EventLog("generation")
_NONE_EXCLUDED: frozenset[str] = frozenset()

# The worker's reasons after which another worker may do better.
_WORTH_ANOTHER_WORKER = frozenset({"DRAINING", "QUEUE_FULL", "SLOW_READER", "WORKER_LOST"})
# Legs in a row that ended with the worker's loss before their first id. More of them, and it may be the request itself
# that ends workers: it must not end them all, again and again.
_MOST_FRUITLESS = 4


class Receiver(Protocol):
    """The text side of a choice. What its methods raise is a defect; it ends with `defect` and nothing else."""

    def take(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Takes new ids, and their log-probabilities if asked for. `Generation.ids` has them already."""

    def ending(self) -> None:
        """The message being read ends the generation: `ended` follows what it brings now."""

    def paused(self) -> NextLeg:
        """A leg ended where it was to end. Returns how the generation goes on; what is appended comes by `take`."""

    def keeps(self, token_id: int) -> bool:
        """Whether the id that an engine gave after the end of such a leg is taken, before `paused` is asked."""

    def ended(self, finish: worker_pb2.Finish) -> None:
        """The generation is complete; nothing follows."""

    def failed(self, error: ServiceError) -> None:
        """The generation cannot go on; nothing follows."""

    def defect(self, error: Exception) -> None:
        """One of these methods, or what takes the texts of the fast path, raised. Must not raise."""


class Generation:
    """The ids of one choice. A `router.clients.worker_session.TokenStream` for whichever session has its leg."""

    __slots__ = (
        "_cache_told",
        "_choose",
        "_end_ids",
        "_ending",
        "_excluded",
        "_fruitless",
        "_guide",
        "_guide_from",
        "_leg",
        "_may_pause",
        "_pause_at",
        "_placement",
        "_prompt_logprobs",
        "_receiver",
        "_resuming",
        "_sampling",
        "_texts",
        "_write",
        "cached_tokens",
        "continued",
        "ids",
        "last_token",
        "penalties_approximate",
        "prompt",
        "queue_s",
        "stopped",
        "worker",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: sampling_pb2.SamplingParams,
        end_ids: frozenset[int],
        placement: Placement,
        receiver: Receiver,
        *,
        pause_at: int | None = None,
        prompt_logprobs: PromptLogprobStream | None = None,
        guide: LegGuide | None = None,
        choose: Choose | None = None,
    ) -> None:
        """`sampling` is complete and not changed by anybody from now on. An engine gives no id after one of
        `end_ids`. After `pause_at` ids, 1 or more, the receiver is asked how to go on. `choose` is used instead of the
        placement's.
        """
        self.prompt = prompt
        self.ids = array("i")
        # Name of the worker that has it.
        self.worker = ""
        # Prompt tokens that the first worker to tell had cached.
        self.cached_tokens = 0
        self._cache_told = False
        # The longest time that one of its legs waited in a worker's queue.
        self.queue_s = 0.0
        # When the last id came, on `time.monotonic()`'s clock; 0 before.
        self.last_token = 0.0
        self._sampling = sampling
        self._end_ids = end_ids
        self._placement = placement
        self._choose = placement.choose if choose is None else choose
        self._receiver = receiver
        self._leg: Leg | None = None
        self._prompt_logprobs = prompt_logprobs
        self._guide = guide
        # The number of ids after which the leg is to end; None: not before the generation does.
        self._pause_at: int | None = None
        # Whether a leg may end before the generation does.
        self._may_pause = guide is not None
        if pause_at is not None:
            self._set_pause(pause_at)
        # After how many ids the guide begins; None: that is not known yet.
        self._guide_from: int | None = None if guide is not None and guide.behind else 0
        # Legs that went on with what another had begun.
        self.continued = 0
        # Whether a leg went on where penalties cannot be counted from the answer's beginning.
        self.penalties_approximate = False
        # Workers that failed it since it last got an id.
        self._excluded: tuple[Excluded, ...] = ()
        self._fruitless = 0
        # Between a break and the next id.
        self._resuming = False
        # The receiver wants no more ids: those that still come before the end are dropped. To be read.
        self.stopped = False
        # Between `finishing` and `finished`.
        self._ending = False
        self._texts: Mapping[int, str | None] = _NO_TEXTS
        self._write: Callable[[str], None] = _NOBODY.write

    def begin(self) -> None:
        """Starts the first leg. Raises Unavailable."""
        self.start_leg()

    def next_leg(self, appended: Sequence[int] = ()) -> None:
        """Ends the current leg and goes on with another, after `ids` and then `appended`, which count as generated.

        A generation that needs no other leg, because its last id or its length ends it, ends. Where no worker is
        ready it waits for one, as after a loss. One without a leg stays as it is: it has ended, or waits for its next.
        """
        if self._leg is None:
            return
        self._drop_leg()
        self.ids.extend(appended)
        finish = self._own_finish()
        if finish is not None:
            self._end(finish)
            return
        try:
            self.start_leg()
        except ServiceError as error:
            self._go_on(error)

    def stop(self) -> None:
        """Stops the engine's work: the text has ended before the engine knows. `ended` still follows."""
        self.stopped = True
        self.close_fast_path()
        if self._leg is not None and not self._ending:
            self._leg.session.abort(self._leg.handle)

    def close(self) -> None:
        """Stops the engine's work and drops its receiver, which is not called again. Safe at any time."""
        self._drop_leg()
        self._receiver = _NOBODY

    def pass_to(self, receiver: Receiver) -> None:
        """Gives what comes from now on to another receiver."""
        self.close_fast_path()
        self._receiver = receiver

    def again(self, receiver: Receiver) -> Generation:
        """Returns a generation with everything that this one has, for another receiver; it has no leg yet."""
        other = Generation(self.prompt, self._sampling, self._end_ids, self._placement, receiver)
        other.ids.extend(self.ids)
        other.worker, other.last_token, other.queue_s = self.worker, self.last_token, self.queue_s
        other.continued, other.penalties_approximate = self.continued, self.penalties_approximate
        return other

    def read_on(self, source: LegSource, handle: int) -> None:
        """Takes a leg that is under way, from where the ids of this generation end."""
        self._leg = Leg(source, handle, source.connection, len(self.ids))

    def open_fast_path(self, texts: Mapping[int, str | None], write: Callable[[str], None]) -> None:
        """Lets ids that have a text in `texts` go to `write` as that text, until closed or opened anew."""
        self._texts, self._write = texts, write

    def close_fast_path(self) -> None:
        """Lets every id go to the receiver."""
        self._texts, self._write = _NO_TEXTS, _NOBODY.write

    @property
    def fast_path_open(self) -> bool:
        """Whether some ids do not go to the receiver."""
        return self._texts is not _NO_TEXTS

    def token(self, token_id: int, now: float) -> None:
        """Takes one new id. The hot path of the whole tier; see above."""
        text = self._texts[token_id]
        if text is None:
            self.tokens((token_id,), (), now)
            return
        self.ids.append(token_id)
        self.last_token = now
        try:
            self._write(text)
        except Exception as defect:  # one stream's defect must not end its neighbours in the reader
            self._receiver.defect(defect)

    def tokens(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        """Takes new ids."""
        if self.stopped:
            return
        if self._resuming:
            self._resuming = False
            self._placement.continuations.resumed(self, now)
        self.ids.extend(ids)
        self.last_token = now
        try:
            if self._texts is not _NO_TEXTS:
                plain = [text for token_id in ids if (text := self._texts[token_id]) is not None]
                if len(plain) == len(ids):
                    self._write("".join(plain))
                    return
            self._receiver.take(ids, logprobs)
        except Exception as defect:  # as above
            self._receiver.defect(defect)

    def keeps(self, token_id: int) -> bool:
        """Whether the id after the last one of a leg that was to end there belongs to the answer."""
        return self._leg is not None and not self.stopped and self._receiver.keeps(token_id)

    def finishing(self, finish: worker_pb2.Finish) -> None:
        """Tells the receiver of the coming end, where it is one of the generation and not of a leg alone."""
        if not self.stopped and (finish.error_reason or (self._may_pause and self._pauses(finish))):
            return
        self._ending = True
        try:
            self._receiver.ending()
        except Exception as defect:  # as above
            self._receiver.defect(defect)

    def finished(self, finish: worker_pb2.Finish) -> None:
        """Takes the worker's end of the leg."""
        leg, self._leg = self._leg, None
        if leg is None:
            return
        if leg.trace is not None:
            error = "" if self.stopped else finish.error_reason.lower()
            leg.trace.end(len(self.ids) - leg.first, queue_s=finish.queue_us / 1e6, error=error)
        # Where the text has ended, whatever became of the engine's work afterwards is no failure of the answer.
        if finish.error_reason and not self.stopped:
            self._leg_failed(leg, _error_of(finish))
            return
        if not self._cache_told:
            self._cache_told = True
            self.cached_tokens = min(max(0, finish.cached_tokens), len(self.prompt))
        self.queue_s = max(self.queue_s, finish.queue_us / 1e6)
        # The leg brought fewer ids than asked for: the engine has no more, and every further leg would end the same.
        if self._may_pause and not self.stopped and self._pauses(finish) and self._at_pause():
            self._pause()
        else:
            self._end(finish)

    def lost(self, error: ServiceError) -> None:
        """The session broke."""
        leg, self._leg = self._leg, None
        if leg is None:  # closed while the session was telling others
            return
        if leg.trace is not None:
            leg.trace.end(len(self.ids) - leg.first, error="" if self.stopped else error.code)
        if self.stopped:
            self._end(worker_pb2.Finish(reason=sampling_pb2.FINISH_REASON_ABORTED))
        else:
            self._leg_failed(leg, error)

    @property
    def tokens_so_far(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.ids)

    def give_up(self, error: ServiceError) -> None:
        """Tells the receiver that it cannot go on."""
        self._resuming = False
        try:
            self._receiver.failed(error)
        except Exception as defect:  # as above
            self._receiver.defect(defect)

    def defect(self, error: Exception) -> None:
        """Tells the receiver of a defect that kept it from going on."""
        self._resuming = False
        self._receiver.defect(error)

    def start_leg(self) -> None:
        """Starts a leg after `ids`. Raises ServiceError where no worker takes it now."""
        placement, begun = self._placement, len(self.ids)
        prompt = self.prompt
        if begun:
            prompt = array("i", prompt)
            prompt.extend(self.ids)
        try:
            session = self._choose(prompt, self._excluded_addresses() if self._excluded else _NONE_EXCLUDED)
        except ServiceError:
            # Those that had no room may have some when it is tried again.
            self._excluded = tuple(each for each in self._excluded if not each.full)
            raise
        wanted = self._prompt_logprobs
        if wanted is not None:
            if wanted.complete:
                wanted = None
            else:
                wanted.restart()
        sampling = leg_sampling(self._sampling, begun, self._pause_at)
        stream: LegStream = self if self._pause_at is None else HeldBack(self, self._pause_at - begun)
        guide = guide_offset = None
        if self._guide is not None:
            if self._guide_from is None:
                sampling = free_sampling(sampling, self._guide.behind, self._end_ids, bias=placement.knows_bias)
            else:
                guide = self._guide.guide
                guide_offset = len(self.prompt) + self._guide_from if begun else None
        if begun and not session.counts_from_offset and penalizes(sampling):
            self.penalties_approximate = True
        trace = None if placement.trace is None else placement.trace.leg(session.name, len(prompt))
        handle = session.submit(
            stream,
            prompt,
            sampling,
            request_id=placement.request_id,
            priority=placement.priority,
            deadline=placement.deadline,
            cache_salt=placement.cache_salt,
            answer_offset=len(self.prompt) if begun else None,
            prompt_logprobs=wanted,
            guide=guide,
            guide_offset=guide_offset,
            traceparent=placement.traceparent if trace is None else trace.context.header,
        )
        if self._resuming and begun:
            self.continued += 1
            _log.info(
                "answer_continued",
                request_id=placement.request_id,
                worker=session.name,
                before=self.worker,
                completion_tokens=begun,
                leg=self.continued,
            )
        self.worker = session.name
        self._leg = Leg(session, handle, session.connection, begun, trace)

    def _excluded_addresses(self) -> frozenset[str]:
        return frozenset(each.session.address for each in self._excluded if each.holds)

    def _drop_leg(self) -> None:
        leg, self._leg = self._leg, None
        self.close_fast_path()
        self._leave_continuations()
        if leg is not None:
            if leg.trace is not None:
                leg.trace.end(len(self.ids) - leg.first)
            leg.session.abort(leg.handle)
            leg.session.forget(leg.handle)

    def _own_finish(self) -> worker_pb2.Finish | None:
        """Returns the finish that follows from the ids alone, where one does: a worker lost after the last id of an
        answer and before its finish leaves nothing to generate."""
        ids, limit = self.ids, self._sampling.max_tokens
        if ids and ids[-1] in self._end_ids:
            return worker_pb2.Finish(reason=sampling_pb2.FINISH_REASON_STOP, stop_token_id=ids[-1])
        if limit and len(ids) >= limit:
            return worker_pb2.Finish(reason=sampling_pb2.FINISH_REASON_LENGTH)
        return None

    def _set_pause(self, after: int | None) -> None:
        """Lets the next leg end after so many ids of the answer, where that is not its end anyway."""
        limit = self._sampling.max_tokens
        self._pause_at = after if after is not None and (not limit or after < limit) else None
        self._may_pause = self._pause_at is not None or self._guide is not None

    def _pauses(self, finish: worker_pb2.Finish) -> bool:
        if finish.reason == sampling_pb2.FINISH_REASON_STOP:
            return self._guide is not None and self._guide_from is None and finish.stop_token_id in self._guide.behind
        return self._pause_at is not None and finish.reason == sampling_pb2.FINISH_REASON_LENGTH

    def _at_pause(self, *, known: bool = True) -> bool:
        """Whether the ids have come to where a leg was to end. `known`: and what would have followed was told."""
        ids, guide = self.ids, self._guide
        if guide is not None and self._guide_from is None and ids and ids[-1] in guide.behind:
            return True
        return self._pause_at is not None and len(ids) + known > self._pause_at

    def _pause(self) -> None:
        """Asks the receiver how to go on, and does."""
        self.close_fast_path()
        self._leave_continuations()
        try:
            appended, more, guided = self._receiver.paused()
            limit = self._sampling.max_tokens
            if limit and len(self.ids) + len(appended) >= limit:
                # No room for what is to be appended and one id more.
                self._end(worker_pb2.Finish(reason=sampling_pb2.FINISH_REASON_LENGTH))
                return
            if appended:
                self.ids.extend(appended)
                self._receiver.take(appended, ())
            if self._receiver is _NOBODY:  # the caller left when it heard of them
                return
            self._set_pause(None if more is None else len(self.ids) + more)
            if guided:
                self._guide_from = len(self.ids)
            try:
                self.start_leg()
            except ServiceError as error:
                self._go_on(error)
        except Exception as defect:  # as above
            self._receiver.defect(defect)

    def _leave_continuations(self) -> None:
        if self._resuming:
            self._resuming = False
            self._placement.continuations.forget(self)

    def _leg_failed(self, leg: Leg, error: ServiceError) -> None:
        """Continues on another worker where that may help and is allowed; else fails."""
        self.close_fast_path()
        elsewhere = self._resuming and bool(self.ids)
        self._leave_continuations()
        if error.reason not in _WORTH_ANOTHER_WORKER:
            if elsewhere and isinstance(error, InvalidRequest):
                # Its caller asked for nothing wrong: one worker took the request, and was lost.
                error = WorkerLost(
                    f"a worker was lost, and the next one cannot go on with the answer: {error.message}; ask again",
                    retry_after_s=1.0,
                )
            self.give_up(error)
            return
        finish = self._own_finish()
        if finish is not None:
            self._end(finish)
            return
        if self._at_pause(known=False):
            self._pause()
            return
        here = Excluded(leg.session, leg.connection, isinstance(error, (QueueFull, SlowReader)))
        if len(self.ids) > leg.first:
            self._excluded, self._fruitless = (here,), 0
        else:
            self._excluded += (here,)
            self._fruitless += isinstance(error, WorkerLost)
        self._go_on(error)

    def _go_on(self, error: ServiceError) -> None:
        self.close_fast_path()
        most = self._placement.continuations.limits.legs
        if self.ids and self.continued >= most:
            often = f"the answer went on {most} times, the most that router.continuation_legs allows" if most else ""
            self.give_up(WorkerLost(f"{error.message}; {often}", retry_after_s=1.0) if often else error)
        elif self._fruitless > _MOST_FRUITLESS:
            self.give_up(WorkerLost(f"{error.message}; {self._fruitless} workers in a row were lost with this request"))
        else:
            self._resuming = True
            # A request that nothing was generated for may be refused; an answer that has begun is worth a wait.
            self._placement.continuations.go_on(self, error, patient=bool(self.ids) or not isinstance(error, QueueFull))

    def _end(self, finish: worker_pb2.Finish) -> None:
        if self._resuming:
            self._leave_continuations()
        try:
            self._receiver.ended(finish)
        except Exception as defect:  # as above
            self._receiver.defect(defect)
        finally:
            self.close_fast_path()  # the function that it writes to may refer to this object


def _error_of(finish: worker_pb2.Finish) -> ServiceError:
    kind = by_reason(finish.error_reason)
    retry_after_s = finish.retry_after_ms / 1000 or 1.0
    return kind(finish.error_message, retry_after_s=retry_after_s if kind.http_status in (429, 503) else None)


class _NoTexts(dict[int, str | None]):
    """The table of the closed fast path: every id goes to the receiver."""

    def __missing__(self, token_id: int) -> None:
        return None


_NO_TEXTS: Mapping[int, str | None] = _NoTexts()


class _Nobody:
    """The receiver of a closed generation. It stands in for the text side, which would otherwise form a reference cycle
    with its generation and stay in memory until the garbage collector ran, fragmenting the heap meanwhile.
    """

    def take(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Drops ids."""

    def write(self, text: str) -> None:
        """Drops a text."""

    def ending(self) -> None:
        """Nobody waits for it."""

    def paused(self) -> NextLeg:
        """Nobody asks."""
        return NextLeg()

    def keeps(self, token_id: int) -> bool:
        """Nobody asks."""
        return False

    def ended(self, finish: worker_pb2.Finish) -> None:
        """Nobody waits for it."""

    def failed(self, error: ServiceError) -> None:
        """Nobody waits for it."""

    def defect(self, error: Exception) -> None:
        """Nothing above raises."""


_NOBODY = _Nobody()
