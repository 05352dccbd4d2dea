"""The workers this router knows: one session each, and what the routing policy may see of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.router.clients.reuse_counts import ReuseCounts
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.router.clients.worker_source import WorkerSource
from qwenserve.router.routing.policy import Candidate, Policy, PolicyName, RoutedPrompt, make_policy, with_unread
from qwenserve.router.routing.prefix_index import MAX_BLOCKS
from qwenserve.router.routing.requirements import NO_REQUIREMENTS, Capabilities, Requirements
from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS, PromptBlocks
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.errors import Unavailable
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.model_fingerprint import ModelFingerprint
from qwenserve.runtime.trust import OPEN, Trust
from qwenserve.worker.v1 import worker_pb2

_RETRY_AFTER_S = 2.0


class Expectation(NamedTuple):
    """What a worker must serve to be of use: a model by name, at least the ids of its tokenizer, and the very model
    whose files the router has.
    """

    model: str
    vocab_size: int
    fingerprint: ModelFingerprint = ModelFingerprint()

    def why_not(self, info: worker_pb2.WorkerInfo) -> str:
        """Returns why a worker cannot be used; empty where it can."""
        if _last_part(info.model) != _last_part(self.model):
            return f"it serves the model {info.model!r}, this router {self.model!r}"
        if info.vocab_size < self.vocab_size:
            return f"its vocabulary has {info.vocab_size} ids, the tokenizer {self.vocab_size}"
        if info.max_model_len < 1:
            return "it has no context window"
        theirs = ModelFingerprint.parse(info.model_fingerprint)
        if different := self.fingerprint.differences(theirs):
            return f"its {' and '.join(different)} differ from this router's (here {self.fingerprint}; there {theirs})"
        return ""


def _last_part(model: str) -> str:
    # Router and worker may know the model by different paths; the fingerprint tells that it is the same one.
    return model.rsplit("/", 1)[-1].lower()


class Explained(NamedTuple):
    """A worker as the policy ranks it, and the reason for its rank in words."""

    candidate: Candidate
    reason: str


class _Member(NamedTuple):
    session: WorkerSession
    task: asyncio.Task[None]


class WorkerDirectory:
    """Keeps a session to every worker that its source names, and chooses among them. A `Membership`."""

    def __init__(
        self,
        source: WorkerSource,
        config: GrpcConfig,
        policy: PolicyName,
        expected: Expectation,
        *,
        stall_timeout_s: float = 20.0,
        return_wait_s: float = 0.0,
        trust: Trust = OPEN,
        index_blocks: int = MAX_BLOCKS,
    ) -> None:
        """`return_wait_s`: for so long after its loss the last worker is expected back. `index_blocks`: of so many KV
        blocks it remembers who has them.
        """
        self._return_wait_s = return_wait_s
        # When the last worker went that took requests; None while one does, or none ever did.
        self._lost_at: float | None = None
        self._had_ready = False
        # Set unless a worker is expected back.
        self._not_expecting = asyncio.Event()
        self._not_expecting.set()
        # Set once a worker has been ready, or every first attempt to connect has failed.
        self._met = asyncio.Event()
        self._source = source
        self._config = config
        self._trust = trust
        self._expected = expected
        self._stall_timeout_s = stall_timeout_s
        self._changed = asyncio.Event()
        # By address. Those that leave stay until their last answer has ended.
        self._members: dict[str, _Member] = {}
        self._leaving: dict[str, _Member] = {}
        # Process ids by address: another one means an empty cache.
        self._pids: dict[str, int] = {}
        # Routers begin at different workers, so that they do not all give their first request to the same one.
        self._policy: Policy = make_policy(policy, random.getrandbits(16), index_blocks)
        # What was expected of the workers' caches, and what turned out.
        self.reuse = ReuseCounts()
        self._tasks = TaskOwner()
        self._capabilities: Sequence[Capabilities] | None = None

    def start(self) -> None:
        """Begins to connect, and to follow who comes and goes."""
        for address in self._source.known():
            self.join(address)
        self._note_met()
        self._tasks.start(self._source.follow(self), name="worker source")

    async def close(self) -> None:
        """Ends all sessions, which aborts what they submitted."""
        await self._tasks.close()

    def join(self, address: str) -> None:
        """Takes a worker in. Known ones stay as they are; one that was leaving stays."""
        if address in self._members:
            return
        member = self._leaving.pop(address, None)
        if member is None or member.task.done():
            session = WorkerSession(
                address,
                self._config,
                self._on_change,
                why_not=self._why_not,
                stall_timeout_s=self._stall_timeout_s,
                trust=self._trust,
                on_cache_news=self._on_cache_news if self._policy.index is not None else None,
                reuse=self.reuse,
            )
            task = self._tasks.start(session.run(), name=f"session {address}")
            member = _Member(session, task)
            task.add_done_callback(lambda _: self._session_ended(address, session))
        member.session.leaving = False
        self._members[address] = member
        self._on_change()

    def leave(self, address: str) -> None:
        """Gives a worker no more requests and forgets it once those it has are answered. Unknown ones are ignored."""
        member = self._members.pop(address, None)
        if member is None:
            return
        member.session.leaving = True
        if member.session.active:
            self._leaving[address] = member
        else:
            member.task.cancel()
        self._pids.pop(address, None)
        self._policy.forget(address)
        self._on_change()

    async def changed(self) -> None:
        """Returns at the next time that a worker comes, drains or goes. For one waiter."""
        await self._changed.wait()
        self._changed.clear()

    def expect_none(self) -> None:
        """Lets nobody wait for a worker any longer: the router ends."""
        self._return_wait_s = 0.0
        self._met.set()
        self._not_expecting.set()

    async def until_met(self, limit_s: float | None) -> None:
        """Waits, after `start`, until a worker takes requests or every first attempt to connect has failed: whoever
        comes to a router that has just begun to listen must not be told that there is no worker. `limit_s` at most, and
        no longer than for one that was lost.
        """
        if self._met.is_set():
            return
        left = self._return_wait_s if limit_s is None else min(limit_s, self._return_wait_s)
        with contextlib.suppress(asyncio.TimeoutError):
            await within(left, self._met.wait())

    @property
    def met(self) -> bool:
        """Whether `until_met` has nothing to wait for."""
        return self._met.is_set()

    @property
    def lost(self) -> bool:
        """Whether no worker takes requests, and one did: there may be something to wait for."""
        return self._lost_at is not None

    async def until_ready(self, limit_s: float | None) -> bool:
        """Waits where no worker takes requests and one is expected back: until it does, or no longer is, `limit_s` at
        most. Returns whether there was anything to wait for.

        None is expected where none ever took any, where all have left, and `return_wait_s` after the last one's loss.
        """
        if self._lost_at is None or self._not_expecting.is_set():
            return False
        left = self._lost_at + self._return_wait_s - time.monotonic()
        if limit_s is not None:
            left = min(left, limit_s)
        if left <= 0:
            return False
        with contextlib.suppress(asyncio.TimeoutError):
            await within(left, self._not_expecting.wait())
        return True

    @property
    def sessions(self) -> Sequence[WorkerSession]:
        """The session of every worker, connected or not; those that leave are no longer among them."""
        return [member.session for member in self._members.values()]

    @property
    def ready_sessions(self) -> list[WorkerSession]:
        """Sessions that take requests now."""
        return [session for session in self.sessions if session.ready]

    @property
    def capabilities(self) -> Sequence[Capabilities]:
        """What the ready workers can do, each kind once. Where none is ready, what was known last is the best guess."""
        if self._capabilities is None:
            known = [session for session in self.sessions if session.info is not None]
            able = [s.capabilities for s in known if s.ready] or [s.capabilities for s in known]
            self._capabilities = tuple(dict.fromkeys(able))
        return self._capabilities

    def why_not_ready(self) -> str:
        """Returns why no worker takes requests, worker by worker; empty where one does."""
        sessions = self.sessions
        if any(session.ready for session in sessions):
            return ""
        reasons = [f"{session.name}: {session.why_not_ready}" for session in sessions]
        return f"no worker is ready ({'; '.join(reasons) or 'none is known'})"

    def candidates(
        self,
        prompt_token_ids: Sequence[int],
        *,
        needs: Requirements = NO_REQUIREMENTS,
        cache_salt: str = "",
        session: str = "",
    ) -> list[Explained]:
        """All workers as the policy sees them for this prompt, best first, those that cannot serve it last."""
        prompt = RoutedPrompt(PromptBlocks(prompt_token_ids, cache_salt), session)
        lacking = {
            s.address: needs.lacking(s.capabilities) if s.info is not None else frozenset[str]() for s in self.sessions
        }
        ranked = self._policy.rank([self._candidate(s, able=not lacking[s.address]) for s in self.sessions], prompt)
        explained = []
        for candidate in ranked:
            if missing := lacking[candidate.address]:
                reason = f"cannot apply {', '.join(sorted(missing))}"
            elif not candidate.ready:
                reason = self._members[candidate.address].session.why_not_ready
            else:
                reason = self._policy.reason(candidate, prompt)
            explained.append(Explained(candidate, reason))
        return explained

    def choose(
        self,
        prompt_token_ids: Sequence[int],
        *,
        needs: Requirements = NO_REQUIREMENTS,
        cache_salt: str = "",
        session: str = "",
        excluding: frozenset[str] = frozenset(),
    ) -> WorkerSession:
        """Returns the best worker for a prompt among those that have what it needs, and remembers the choice.

        `session` is a name that the requests of one session share, for policies that keep them together. Workers whose
        addresses are in `excluding` are left out. Raises Unavailable.
        """
        ready: list[WorkerSession] = []
        usable: list[WorkerSession] = []
        for member in self._members.values():
            candidate = member.session
            if candidate.ready and candidate.address not in excluding:
                ready.append(candidate)
                if needs.met_by(candidate.capabilities):
                    usable.append(candidate)
        if not usable:
            raise self._no_worker(ready, needs)
        if len(self._members) == 1:
            return usable[0]
        prompt = RoutedPrompt(PromptBlocks(prompt_token_ids, cache_salt), session)
        best = self._policy.rank([self._candidate(s) for s in usable], prompt)[0]
        self._policy.chosen(best, prompt)
        session_of_best = next(one for one in usable if one.address == best.address)
        if self._policy.index is not None:
            session_of_best.expect(best.expected_cached_tokens)
        return session_of_best

    def _no_worker(self, ready: Sequence[WorkerSession], needs: Requirements) -> Unavailable:
        """Returns the error for a request that none of the workers that are ready can serve."""
        if ready:
            # It was checked against the workers of that moment. Since then, those that can serve it have gone, or are
            # excluded.
            lacking = min((needs.lacking(session.capabilities) for session in ready), key=len)
            why = f"no worker that is ready now can apply {', '.join(sorted(lacking))}"
        else:
            why = "no worker is ready; check `qwenserve ps` and the workers' logs"
        return Unavailable(why, metadata={"workers": str(len(self._members))}, retry_after_s=_RETRY_AFTER_S)

    def _why_not(self, info: worker_pb2.WorkerInfo) -> str:
        """Returns why a worker cannot be used; empty where it can.

        A router without weights cannot know which are the right ones. But workers that are used together must have the
        same, or an answer continued on another worker would be a mixture of two models' answers.
        """
        if reason := self._expected.why_not(info):
            return reason
        theirs = ModelFingerprint.parse(info.model_fingerprint)
        for session in self.ready_sessions:
            ours = ModelFingerprint.parse(session.info.model_fingerprint if session.info is not None else "")
            if different := ours.differences(theirs):
                return f"its {' and '.join(different)} differ from those of worker {session.name}, which is in use"
        return ""

    def _on_cache_news(self, address: str, news: worker_pb2.CacheNews) -> None:
        index = self._policy.index
        if index is None or address not in self._members:
            return
        if news.number == 0:
            index.start_over(address)
        index.tell(address, list(news.removed), list(news.stored))

    def _on_change(self) -> None:
        self._capabilities = None
        if len(self._members) > 1:
            # One alone is chosen whatever it has cached.
            for session in self.sessions:
                session.follow_cache()
        for session in self.sessions:
            if session.info is not None and self._pids.get(session.address) != session.info.pid:
                if session.address in self._pids:
                    self._policy.forget(session.address)
                self._pids[session.address] = session.info.pid
        self._note_loss()
        self._note_met()
        self._changed.set()

    def _note_met(self) -> None:
        if self._had_ready or all(session.tried for session in self.sessions):
            self._met.set()

    def _note_loss(self) -> None:
        if any(session.ready for session in self.sessions):
            self._had_ready, self._lost_at = True, None
            self._not_expecting.set()
        elif not self._members:
            self._not_expecting.set()
        elif self._had_ready and self._lost_at is None:
            self._lost_at = time.monotonic()
            self._not_expecting.clear()

    def _session_ended(self, address: str, session: WorkerSession) -> None:
        member = self._leaving.get(address)
        if member is not None and member.session is session:
            del self._leaving[address]

    @staticmethod
    def _candidate(session: WorkerSession, *, able: bool = True) -> Candidate:
        load, info = session.load, session.info
        tells_blocks = load.total_kv_blocks > 0
        max_running = info.max_running if info is not None else 0
        running, queued = with_unread(load.running, load.queued, session.unread_requests, max_running)
        return Candidate(
            address=session.address,
            name=session.name,
            ready=session.ready and able,
            running=running,
            queued=queued,
            max_running=max_running,
            block_tokens=(info.kv_block_tokens if info is not None else 0) or DEFAULT_BLOCK_TOKENS,
            pending_prompt_tokens=load.pending_prompt_tokens + session.unread_tokens,
            free_kv_blocks=load.free_kv_blocks if tells_blocks else -1,
            total_kv_blocks=load.total_kv_blocks if tells_blocks else -1,
        )
