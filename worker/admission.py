"""Which request is computed next. Pure decisions: no engine, no clock, no tasks.

Requests that find a free slot start at once. Others wait: higher priority first; among equals the sessions
take turns, and within a session it is first come first served, so that one busy router cannot starve another. For the
same reason a full queue makes room for a session that has fewer waiting: the newest request of the session
with the most is displaced.

Priorities age: with every AGE_S seconds a request has waited, it counts as one higher, and with it all of its priority.
So nothing waits for ever, whatever comes after it.

There is always either a free slot or an empty queue once `next_to_start` has been called until it returns None.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter, OrderedDict
from typing import NamedTuple

# Waiting so long is worth one step of priority.
AGE_S = 1.0

# Below this many, outdated deadlines are not worth cleaning up.
_SPARE_DEADLINES = 64


class Ticket(NamedTuple):
    """A request as admission sees it. `arrived` and `deadline` are on the caller's clock; None: no deadline."""

    key: int
    owner: int
    priority: int
    prompt_tokens: int
    deadline: float | None = None
    arrived: float = 0.0


class Verdict(enum.Enum):
    """What became of an offered request."""

    START = enum.auto()
    WAIT = enum.auto()
    REFUSE = enum.auto()


class Offered(NamedTuple):
    """The verdict, and the waiting request that lost its place, if one did."""

    verdict: Verdict
    displaced: Ticket | None = None


class Admission:
    """Slots and the queue in front of them."""

    def __init__(self, max_running: int, max_queued: int, max_queued_tokens: int = 0) -> None:
        """`max_queued_tokens` are of the prompts that wait; 0: any number. One request may wait however long it is."""
        self.max_running = max_running
        self.max_queued = max_queued
        self.max_queued_tokens = max_queued_tokens
        self.queued_prompt_tokens = 0
        self._running: dict[int, Ticket] = {}
        self._waiting: dict[int, Ticket] = {}
        self._waiting_by_owner: Counter[int] = Counter()
        # Priority to owners in the order of their turns, each with its tickets in the order they came.
        self._queue: dict[int, OrderedDict[int, OrderedDict[int, Ticket]]] = {}
        self._deadlines: list[tuple[float, int]] = []

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    def offer(self, ticket: Ticket) -> Offered:
        """Decides on a new request."""
        if len(self._running) < self.max_running and not self._waiting:
            self._running[ticket.key] = ticket
            self._watch(ticket)
            return Offered(Verdict.START)
        displaced = None
        if len(self._waiting) >= self.max_queued or not self._has_room(ticket.prompt_tokens):
            displaced = self._displaceable(ticket.owner)
            if displaced is None or not self._has_room(ticket.prompt_tokens - displaced.prompt_tokens):
                return Offered(Verdict.REFUSE)
            self._leave(displaced)
        self._join(ticket)
        self._watch(ticket)
        return Offered(Verdict.WAIT, displaced)

    def next_to_start(self, now: float) -> Ticket | None:
        """Gives a free slot to the request whose turn it is; None without either."""
        if not self._waiting or len(self._running) >= self.max_running:
            return None
        owners = self._queue[max(self._queue, key=lambda priority: self._aged(priority, now))]
        owner, tickets = next(iter(owners.items()))
        ticket = next(iter(tickets.values()))
        owners.move_to_end(owner)
        self._leave(ticket)
        self._running[ticket.key] = ticket
        return ticket

    def remove(self, key: int) -> None:
        """Forgets a request, wherever it is. Unknown keys are ignored."""
        if self._running.pop(key, None) is None:
            ticket = self._waiting.get(key)
            if ticket is not None:
                self._leave(ticket)

    def next_deadline(self) -> float | None:
        """Returns the earliest deadline of those here, or None."""
        while self._deadlines:
            deadline, key = self._deadlines[0]
            ticket = self._running.get(key) or self._waiting.get(key)
            if ticket is not None and ticket.deadline == deadline:
                return deadline
            heapq.heappop(self._deadlines)
        return None

    def expired(self, now: float) -> list[Ticket]:
        """Returns those whose deadline has passed, each once. They keep their place until `remove`."""
        found = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, key = heapq.heappop(self._deadlines)
            found.append(self._running.get(key) or self._waiting[key])
        return found

    def _has_room(self, tokens: int) -> bool:
        limit = self.max_queued_tokens
        return not limit or not self._waiting or self.queued_prompt_tokens + tokens <= limit

    def _aged(self, priority: int, now: float) -> tuple[int, int]:
        """Returns what a priority has come to by the wait of its oldest request; among equals the asked one decides."""
        if len(self._queue) == 1:
            return priority, priority
        oldest = min(next(iter(tickets.values())).arrived for tickets in self._queue[priority].values())
        return priority + int((now - oldest) / AGE_S), priority

    def _watch(self, ticket: Ticket) -> None:
        if ticket.deadline is None:
            return
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.key))
        # Entries of requests that have gone stay until they reach the heap's top; an hour's worth must not pile up.
        if len(self._deadlines) > 2 * (len(self._running) + len(self._waiting)) + _SPARE_DEADLINES:
            here = (*self._running.values(), *self._waiting.values())
            self._deadlines = [(found.deadline, found.key) for found in here if found.deadline is not None]
            heapq.heapify(self._deadlines)

    def _join(self, ticket: Ticket) -> None:
        owners = self._queue.setdefault(ticket.priority, OrderedDict())
        owners.setdefault(ticket.owner, OrderedDict())[ticket.key] = ticket
        self._waiting[ticket.key] = ticket
        self._waiting_by_owner[ticket.owner] += 1
        self.queued_prompt_tokens += ticket.prompt_tokens

    def _leave(self, ticket: Ticket) -> None:
        owners = self._queue[ticket.priority]
        tickets = owners[ticket.owner]
        del tickets[ticket.key]
        if not tickets:
            del owners[ticket.owner]
        if not owners:
            del self._queue[ticket.priority]
        del self._waiting[ticket.key]
        self._waiting_by_owner[ticket.owner] -= 1
        if not self._waiting_by_owner[ticket.owner]:
            del self._waiting_by_owner[ticket.owner]
        self.queued_prompt_tokens -= ticket.prompt_tokens

    def _displaceable(self, owner: int) -> Ticket | None:
        """Returns the newest, least urgent request of the owner with most waiting, if `owner` will still have fewer."""
        if not self._waiting_by_owner:
            return None
        greediest, most = self._waiting_by_owner.most_common(1)[0]
        if self._waiting_by_owner[owner] + 1 >= most:
            return None
        lowest = min(priority for priority, owners in self._queue.items() if greediest in owners)
        return next(reversed(self._queue[lowest][greediest].values()))
