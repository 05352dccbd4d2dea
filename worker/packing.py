"""Packs what happened to a session's requests into as few messages as possible. Pure: no tasks, no I/O.

While a message is being written, later steps merge into the next one: a handle occurs once, its counts add up. A
message takes about MESSAGE_IDS ids; what comes after starts another. So memory for a slow reader is
bounded by the number of messages, and no message nears the transport's size limit.

Who gets a first token comes before all others in a message: the router writes one answer after the other, and an
engine's steps have their newest requests last. Behind hundreds of others they would wait for milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain

from qwenserve.worker.convert import logprob_to_wire, prompt_logprobs_to_wire
from qwenserve.worker.engine_interface import TokenLogprob
from qwenserve.worker.v1 import worker_pb2

# 1024 ids are 5 kB or less; 128 requests fill that in 8 steps.
MESSAGE_IDS = 1024

# A log-probability with its alternatives weighs on a message like this many ids for each of them.
_LOGPROB_WEIGHT = 4


class _Run(list[int]):
    """Ids of one request from more than one step: a list of ours, unlike the engine's, which must not grow."""


class _Page:
    """The parts of one message."""

    __slots__ = ("finishes", "firsts", "ids", "logprobs", "prompt_logprobs", "weight")

    def __init__(self) -> None:
        self.ids: dict[int, Sequence[int]] = {}
        # Handles in `ids` that got nothing before.
        self.firsts: list[int] = []
        self.finishes: list[worker_pb2.Finish] = []
        self.logprobs: dict[int, list[TokenLogprob]] = {}
        self.prompt_logprobs: list[worker_pb2.PromptLogprobRun] = []
        self.weight = 0


class Packer:
    """Collects tokens and finishes of one session; `take` gives them as messages, oldest first."""

    def __init__(self) -> None:
        self._page = _Page()
        self._full: deque[_Page] = deque()
        self._pings = 0
        # Handles whose prompts' log-probabilities have begun to come, with the place of the next one.
        self._prompt_places: dict[int, int] = {}

    @property
    def full_messages(self) -> int:
        """Complete messages that wait, besides the one being filled."""
        return len(self._full)

    def first(self, handle: int) -> None:
        """The tokens that are added next are this request's first."""
        self._page.firsts.append(handle)

    def tokens(self, handle: int, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Adds what a step gave a request."""
        page = self._page
        known = page.ids.get(handle)
        if known is None:
            page.ids[handle] = token_ids
        elif type(known) is _Run:
            known.extend(token_ids)
        else:
            run = page.ids[handle] = _Run(known)
            run.extend(token_ids)
        page.weight += len(token_ids)
        if logprobs:
            page.logprobs.setdefault(handle, []).extend(logprobs)
            page.weight += _LOGPROB_WEIGHT * sum(1 + len(logprob.top) for logprob in logprobs)
        if page.weight >= MESSAGE_IDS:
            self._turn()

    def prompt_logprobs(self, handle: int, logprobs: Sequence[TokenLogprob]) -> None:
        """Adds the next log-probabilities of a request's prompt, in as many messages as they need."""
        each = 1 + 2 * len(logprobs[0].top)
        most = max(1, MESSAGE_IDS // each)
        place = self._prompt_places.get(handle, 1)
        for begin in range(0, len(logprobs), most):
            part = logprobs[begin : begin + most]
            self._page.prompt_logprobs.append(prompt_logprobs_to_wire(handle, place + begin, part))
            self._page.weight += each * len(part)
            if self._page.weight >= MESSAGE_IDS:
                self._turn()
        self._prompt_places[handle] = place + len(logprobs)

    def finish(self, finish: worker_pb2.Finish) -> None:
        """Adds the end of a request, after its tokens."""
        page = self._page
        page.finishes.append(finish)
        self._prompt_places.pop(finish.handle, None)
        page.weight += 1
        if page.weight >= MESSAGE_IDS:
            self._turn()

    def ping(self) -> None:
        """Asks for an empty message after all that is here."""
        self._pings += 1

    def clear(self) -> None:
        """Forgets everything."""
        self._page = _Page()
        self._full.clear()
        self._pings = 0
        self._prompt_places.clear()

    def take(self) -> worker_pb2.SessionResponse | None:
        """Returns the next message without its load, or None."""
        if self._full:
            page = self._full.popleft()
        elif self._page.weight:
            page, self._page = self._page, _Page()
        elif self._pings:
            self._pings -= 1
            return worker_pb2.SessionResponse()
        else:
            return None
        ids = page.ids
        if page.firsts:
            ids = {handle: ids.pop(handle) for handle in page.firsts} | ids
        runs = ids.values()
        # Less to make and to read, in the step that nearly all are like.
        one_each = page.weight == len(ids) + len(page.finishes)
        return worker_pb2.SessionResponse(
            handles=ids,
            counts=() if one_each else map(len, runs),
            token_ids=chain.from_iterable(runs),
            finishes=page.finishes,
            logprobs=[
                worker_pb2.LogprobRun(handle=handle, tokens=map(logprob_to_wire, run))
                for handle, run in page.logprobs.items()
            ],
            prompt_logprobs=page.prompt_logprobs,
        )

    def _turn(self) -> None:
        self._full.append(self._page)
        self._page = _Page()
