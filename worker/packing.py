"""Packs what happened to a session's requests into as few messages as possible. Pure: no tasks, no I/O.

While a message is being written, later steps merge behind it: a request occurs once in a message, its ids add up.
What waits is kept per request, so a reader that falls behind costs memory per request, and the one that grows too
large can be ended alone (`overfull`, `largest`, `drop`). A message takes about MESSAGE_IDS ids, whatever waits, so no
message nears the transport's size limit or keeps its reader busy for long.

In a message, requests with a first token come before all others: the router writes one answer after the other, and an
engine's steps have their newest requests last. Behind hundreds of others those would wait for milliseconds.

Requests with log-probabilities have a queue of their own, and a share of each message of their own: a token with 20
alternatives is as heavy as 60 plain ones, and plain answers must not wait behind them. They take turns in that share.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain, islice

from qwenserve.worker.engine_interface import TokenLogprob
from qwenserve.worker.v1 import worker_pb2

# 1024 ids are 5 kB or less; 128 requests fill that in 8 steps.
MESSAGE_IDS = 1024

# Log-probabilities in one message, alternatives included: a router needs some 10 ms for them.
MESSAGE_LOGPROBS = 2048
# What a request gets of them at least where many wait; a little less if its last token does not fit.
_LEAST_SHARE = 128

# What waiting costs in memory: a number in a list, and a log-probability with its id in packed arrays.
ID_BYTES = 36
LOGPROB_BYTES = 8


class _Run(list[int]):
    """Ids of one request from more than one step: a list of ours, unlike the engine's, which must not grow."""


class _Scores:
    """Log-probabilities with their alternatives, as the wire has them."""

    __slots__ = ("_start", "_top_start", "top_counts", "top_ids", "top_logprobs", "values")

    def __init__(self) -> None:
        self.values = array("f")
        self.top_counts: list[int] = []
        self.top_ids = array("i")
        self.top_logprobs = array("f")
        # Where what has not been taken begins.
        self._start = self._top_start = 0

    def __len__(self) -> int:
        """Tokens."""
        return len(self.values) - self._start

    @property
    def weight(self) -> int:
        """Log-probabilities, alternatives included."""
        return len(self.values) - self._start + len(self.top_ids) - self._top_start

    def extend(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Adds tokens."""
        for _, value, top in logprobs:
            self.values.append(value)
            self.top_counts.append(len(top))
            for token_id, logprob in top:
                self.top_ids.append(token_id)
                self.top_logprobs.append(logprob)

    def take(self, most: int) -> _Scores:
        """Takes out the first tokens, one at least where there is one, with no more than `most` log-probabilities."""
        start, top_start = self._start, self._top_start
        end, top_end = start, top_start
        for count in islice(self.top_counts, start, None):
            if end > start and end - start + 1 + top_end - top_start + count > most:
                break
            end += 1
            top_end += count
        part = _Scores()
        part.values = self.values[start:end]
        part.top_counts = self.top_counts[start:end]
        part.top_ids = self.top_ids[top_start:top_end]
        part.top_logprobs = self.top_logprobs[top_start:top_end]
        self._start, self._top_start = end, top_end
        # Not in every call: it moves all that is left.
        if end > len(self.values) // 2:
            del self.values[:end], self.top_counts[:end]
            del self.top_ids[:top_end], self.top_logprobs[:top_end]
            self._start = self._top_start = 0
        return part


class _Scored:
    """What waits of one request with log-probabilities: its prompt's, then its ids with theirs, then its end."""

    __slots__ = ("finish", "ids", "prompt", "scores")

    def __init__(self) -> None:
        self.prompt = _Scores()
        self.ids: list[int] = []
        self.scores = _Scores()
        self.finish: worker_pb2.Finish | None = None

    @property
    def size(self) -> int:
        """Bytes of memory, about, without the prompt's share, which no slow reader makes larger."""
        return ID_BYTES * len(self.ids) + LOGPROB_BYTES * self.scores.weight

    @property
    def size_in_all(self) -> int:
        """Bytes of memory, about."""
        return self.size + LOGPROB_BYTES * self.prompt.weight


class Packer:
    """Collects tokens and finishes of one session; `take` gives them as messages, oldest first."""

    def __init__(self, request_bytes: int = 1 << 30) -> None:
        """A request for which more than `request_bytes` wait is in `overfull`."""
        self._request_bytes = request_bytes
        self._most_ids = request_bytes // ID_BYTES
        self._ids: dict[int, Sequence[int]] = {}
        # Handles that got nothing before.
        self._firsts: list[int] = []
        self._finishes: list[worker_pb2.Finish] = []
        # Ids in `_ids` and finishes in `_finishes`.
        self._weight = 0
        self._scored: dict[int, _Scored] = {}
        self._scored_bytes = 0
        # Handles whose prompts' log-probabilities have begun to come, with the place of the next one to take.
        self._prompt_places: dict[int, int] = {}
        self._pings = 0
        # Requests for which too much waits; whoever ends them takes them out with `drop`.
        self.overfull: set[int] = set()

    @property
    def waiting_bytes(self) -> int:
        """Memory that waits for the reader, about."""
        return ID_BYTES * self._weight + self._scored_bytes

    @property
    def waiting_finishes(self) -> int:
        """Ends that have not been taken."""
        return len(self._finishes)

    def largest(self) -> int | None:
        """Returns the request for which most waits; None where no request waits for more than its end."""
        sizes = chain(
            ((ID_BYTES * len(ids), handle) for handle, ids in self._ids.items()),
            ((scored.size_in_all, handle) for handle, scored in self._scored.items()),
        )
        return max(sizes, default=(0, None))[1]

    def first(self, handle: int) -> None:
        """The tokens that are added next are this request's first."""
        self._firsts.append(handle)

    def tokens(self, handle: int, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Adds what a step gave a request. One that has log-probabilities has them for each of its tokens."""
        if logprobs or (self._scored and handle in self._scored):
            self._add_scored(handle, token_ids, logprobs or ())
            return
        ids = self._ids
        known = ids.get(handle)
        if known is None:
            ids[handle] = token_ids
        elif type(known) is _Run:
            known.extend(token_ids)
            if len(known) > self._most_ids:
                self.overfull.add(handle)
        else:
            merged = ids[handle] = _Run(known)
            merged.extend(token_ids)
        self._weight += len(token_ids)

    def step(self, plain: dict[int, Sequence[int]]) -> None:
        """Adds what a step gave requests that have no log-probabilities in it, by handle. `plain` is then ours."""
        if self._ids or self._scored:
            for handle, token_ids in plain.items():
                self.tokens(handle, token_ids, None)
        else:  # the reader keeps up: nothing to merge with
            self._ids = plain
            self._weight += sum(map(len, plain.values()))

    def prompt_logprobs(self, handle: int, logprobs: Sequence[TokenLogprob]) -> None:
        """Adds the next log-probabilities of a request's prompt, before its first token."""
        self._prompt_places.setdefault(handle, 1)
        scores = self._scored.setdefault(handle, _Scored()).prompt
        before = scores.weight
        scores.extend(logprobs)
        self._scored_bytes += LOGPROB_BYTES * (scores.weight - before)

    def finish(self, finish: worker_pb2.Finish) -> None:
        """Adds the end of a request, after its tokens."""
        scored = self._scored.get(finish.handle)
        if scored is not None:
            scored.finish = finish
        else:
            self._end(finish)

    def drop(self, handle: int) -> None:
        """Forgets the tokens, and the end, of a request that have not been taken."""
        self.overfull.discard(handle)
        self._prompt_places.pop(handle, None)
        scored = self._scored.pop(handle, None)
        if scored is not None:
            self._scored_bytes -= scored.size_in_all
        ids = self._ids.pop(handle, None)
        if ids is not None:
            self._weight -= len(ids)
        if handle in self._firsts:
            self._firsts.remove(handle)
        kept = [finish for finish in self._finishes if finish.handle != handle]
        self._weight -= len(self._finishes) - len(kept)
        self._finishes = kept

    def ping(self) -> None:
        """Asks for an empty message after all that is here."""
        self._pings += 1

    def clear(self) -> None:
        """Forgets everything."""
        self._ids, self._firsts, self._finishes, self._weight = {}, [], [], 0
        self._scored, self._scored_bytes = {}, 0
        self._prompt_places = {}
        self._pings = 0
        self.overfull = set()

    def take(self) -> worker_pb2.SessionResponse | None:
        """Returns the next message without its load, or None."""
        if not self._weight and not self._scored:
            if not self._pings:
                return None
            self._pings -= 1
            return worker_pb2.SessionResponse()
        if self._firsts:
            self._firsts_to_front()
        if self._weight <= MESSAGE_IDS:
            if self.overfull:
                self.overfull.difference_update(self._ids)
            ids, self._ids = self._ids, {}
            finishes, self._finishes = self._finishes, []
            # The usual case, one token for each request, has a shorter form that is cheaper to make and to read.
            one_each = self._weight == len(ids) + len(finishes)
            self._weight = 0
        else:
            ids, finishes = self._first_part()
            one_each = False
        message = worker_pb2.SessionResponse()
        if self._scored:
            self._take_scored(message, ids, finishes)
            one_each = False
        runs = ids.values()
        message.handles.extend(ids)
        if not one_each:
            message.counts.extend(map(len, runs))
        message.token_ids.extend(chain.from_iterable(runs))
        message.finishes.extend(finishes)
        return message

    def _add_scored(self, handle: int, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        scored = self._scored.get(handle)
        if scored is None:
            scored = self._scored[handle] = _Scored()
        before = scored.size
        scored.ids.extend(token_ids)
        scored.scores.extend(logprobs)
        size = scored.size
        self._scored_bytes += size - before
        if size > self._request_bytes:
            self.overfull.add(handle)

    def _end(self, finish: worker_pb2.Finish) -> None:
        if self._prompt_places:
            self._prompt_places.pop(finish.handle, None)
        self._finishes.append(finish)
        self._weight += 1

    def _firsts_to_front(self) -> None:
        firsts, self._firsts = self._firsts, []
        plain = {handle: self._ids.pop(handle) for handle in firsts if handle in self._ids}
        if plain:
            self._ids = plain | self._ids
        scored = {handle: self._scored.pop(handle) for handle in firsts if handle in self._scored}
        if scored:
            self._scored = scored | self._scored

    def _first_part(self) -> tuple[dict[int, Sequence[int]], list[worker_pb2.Finish]]:
        """Takes about MESSAGE_IDS ids from the front, and the ends of those of whom nothing is left."""
        part: dict[int, Sequence[int]] = {}
        room = MESSAGE_IDS
        while room and self._ids:
            handle = next(iter(self._ids))
            ids = self._ids[handle]
            if len(ids) <= room:
                part[handle] = self._ids.pop(handle)
                self.overfull.discard(handle)
            else:
                part[handle] = ids[:room]
                rest = self._ids[handle] = _Run(ids[room:])
                if len(rest) <= self._most_ids:
                    self.overfull.discard(handle)
            room -= len(part[handle])
        ready = (finish for finish in self._finishes if finish.handle not in self._ids)
        # At least one end goes with each message: one of ids only would keep refused callers waiting.
        finishes = list(islice(ready, max(1, room)))
        taken = {id(finish) for finish in finishes}
        self._finishes = [finish for finish in self._finishes if id(finish) not in taken]
        self._weight -= MESSAGE_IDS - room + len(finishes)
        return part, finishes

    def _take_scored(
        self,
        message: worker_pb2.SessionResponse,
        ids: dict[int, Sequence[int]],
        finishes: list[worker_pb2.Finish],
    ) -> None:
        """Takes about MESSAGE_LOGPROBS log-probabilities from the front, with their ids and ends."""
        room = MESSAGE_LOGPROBS
        share = max(_LEAST_SHARE, room // len(self._scored))
        for handle in list(self._scored):
            scored = self._scored.pop(handle)
            before = scored.size_in_all
            weight = self._take_part(message, ids, handle, scored, share)
            self._scored_bytes -= before - scored.size_in_all
            if scored.size <= self._request_bytes:
                self.overfull.discard(handle)
            if scored.prompt or scored.ids:
                self._scored[handle] = scored  # the others have their turn before the rest
            elif scored.finish is not None:
                self._prompt_places.pop(handle, None)
                finishes.append(scored.finish)
            room -= weight
            if room <= 0:
                return

    def _take_part(
        self,
        message: worker_pb2.SessionResponse,
        ids: dict[int, Sequence[int]],
        handle: int,
        scored: _Scored,
        share: int,
    ) -> int:
        """Takes about `share` log-probabilities of one request. Returns how many they are."""
        taken = 0
        if scored.prompt:
            part = scored.prompt.take(share)
            place = self._prompt_places[handle]
            self._prompt_places[handle] = place + len(part)
            message.prompt_logprobs.add(
                handle=handle,
                start=place,
                logprobs=part.values,
                top_token_ids=part.top_ids,
                top_logprobs=part.top_logprobs,
            )
            taken = part.weight
            if scored.prompt:
                return taken
        if not scored.scores:  # only its prompt has log-probabilities
            if scored.ids:
                ids[handle], scored.ids = scored.ids, []
            return max(taken, 1)
        part = scored.scores.take(share)
        tokens = len(part)
        ids[handle] = scored.ids[:tokens]
        del scored.ids[:tokens]
        counts = part.top_counts
        message.logprobs.add(
            handle=handle,
            logprobs=part.values,
            # Less to make and to read where all have the same number, as nearly always.
            top_counts=counts if counts.count(counts[0]) < tokens else (),
            top_token_ids=part.top_ids,
            top_logprobs=part.top_logprobs,
        )
        return taken + part.weight
