"""The workers this router knows: one session each, and what the routing policy may see of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.clients.session import WorkerSession
from router.routing.policy import Candidate, Policy, PolicyName, make_policy
from runtime.config import GrpcConfig
from runtime.errors import Unavailable
from runtime.lifecycle import TaskOwner


class WorkerDirectory:
    """Keeps a session to every configured worker and chooses among them."""

    def __init__(self, addresses: Sequence[str], config: GrpcConfig, policy: PolicyName) -> None:
        self._changed = asyncio.Event()
        self.sessions = tuple(WorkerSession(address, config, self._changed.set) for address in addresses)
        self._policy: Policy = make_policy(policy)
        self._tasks = TaskOwner()

    def start(self) -> None:
        """Begins to connect."""
        for session in self.sessions:
            self._tasks.start(session.run(), name=f"session {session.address}")

    async def close(self) -> None:
        """Ends all sessions, which aborts what they submitted."""
        await self._tasks.close()

    async def changed(self) -> None:
        """Returns at the next time that a worker comes, drains or goes. For one waiter."""
        await self._changed.wait()
        self._changed.clear()

    @property
    def ready_sessions(self) -> list[WorkerSession]:
        """Sessions that take requests now."""
        return [session for session in self.sessions if session.ready]

    def candidates(self, prompt_token_ids: Sequence[int]) -> list[Candidate]:
        """All workers as the policy sees them for this prompt, best first."""
        return self._policy.rank([self._candidate(session) for session in self.sessions], prompt_token_ids)

    def choose(self, prompt_token_ids: Sequence[int], *, excluding: frozenset[str] = frozenset()) -> WorkerSession:
        """Returns the best worker for a prompt and remembers the choice. Raises Unavailable."""
        usable = [self._candidate(s) for s in self.sessions if s.ready and s.address not in excluding]
        if not usable:
            raise Unavailable(
                "no worker is ready; check `qwenserve ps` and the workers' logs",
                metadata={"workers": str(len(self.sessions))},
                retry_after_s=2.0,
            )
        best = usable[0] if len(usable) == 1 else self._policy.rank(usable, prompt_token_ids)[0]
        if len(self.sessions) > 1:
            self._policy.chosen(best.address, prompt_token_ids)
        return next(session for session in self.sessions if session.address == best.address)

    @staticmethod
    def _candidate(session: WorkerSession) -> Candidate:
        load = session.load
        return Candidate(
            address=session.address,
            name=session.name,
            ready=session.ready,
            running=load.running,
            queued=load.queued + session.submitted_requests,
            max_running=session.info.max_running if session.info is not None else 0,
            pending_prompt_tokens=load.pending_prompt_tokens + session.submitted_tokens,
        )
