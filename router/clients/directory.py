"""The workers this router knows: one session each, and what the routing policy may see of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.router.routing.policy import Candidate, Policy, PolicyName, make_policy
from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS, PromptBlocks
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import Unavailable
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.worker.v1 import worker_pb2


class Expectation(NamedTuple):
    """What a worker must serve to be of use: a model by name, and at least the ids of its tokenizer."""

    model: str
    vocab_size: int

    def why_not(self, info: worker_pb2.WorkerInfo) -> str:
        """Returns why a worker cannot be used; empty where it can."""
        if info.model.lower() != self.model.lower():
            return f"it serves the model {info.model!r}, this router {self.model!r}"
        if info.vocab_size < self.vocab_size:
            return f"its vocabulary has {info.vocab_size} ids, the tokenizer {self.vocab_size}"
        if info.max_model_len < 1:
            return "it has no context window"
        return ""


class Abilities(NamedTuple):
    """What all ready workers can do: which one answers is not known while a request is checked. `max_model_len` is 0
    where no worker is known; `unsupported` has every field that some engine among `engines` cannot honour.
    """

    max_model_len: int
    max_top_logprobs: int
    unsupported: frozenset[str]
    engines: str


class WorkerDirectory:
    """Keeps a session to every configured worker and chooses among them."""

    def __init__(self, addresses: Sequence[str], config: GrpcConfig, policy: PolicyName, expected: Expectation) -> None:
        self._changed = asyncio.Event()
        self.sessions = tuple(
            WorkerSession(address, config, self._on_change, why_not=expected.why_not)
            for address in dict.fromkeys(addresses)
        )
        self._policy: Policy = make_policy(policy)
        self._tasks = TaskOwner()
        self._abilities: Abilities | None = None

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

    @property
    def abilities(self) -> Abilities:
        """What the ready workers can do. Kept until one comes, drains or goes."""
        if self._abilities is None:
            # What is gone must not limit what is here; where nothing is here, what was known last is the best guess.
            infos = [s.info for s in self.ready_sessions or self.sessions if s.info is not None]
            self._abilities = Abilities(
                min((info.max_model_len for info in infos), default=0),
                min((info.max_top_logprobs for info in infos), default=0),
                frozenset(name for info in infos for name in info.unsupported_fields),
                ", ".join(sorted({info.engine for info in infos})),
            )
        return self._abilities

    def _on_change(self) -> None:
        self._abilities = None
        self._changed.set()

    def candidates(self, prompt_token_ids: Sequence[int], cache_salt: str = "") -> list[Candidate]:
        """All workers as the policy sees them for this prompt, best first."""
        prompt = PromptBlocks(prompt_token_ids, cache_salt)
        return self._policy.rank([self._candidate(session) for session in self.sessions], prompt)

    def choose(
        self, prompt_token_ids: Sequence[int], *, cache_salt: str = "", excluding: frozenset[str] = frozenset()
    ) -> WorkerSession:
        """Returns the best worker for a prompt and remembers the choice. Raises Unavailable."""
        usable = [s for s in self.sessions if s.ready and s.address not in excluding]
        if not usable:
            raise Unavailable(
                "no worker is ready; check `qwenserve ps` and the workers' logs",
                metadata={"workers": str(len(self.sessions))},
                retry_after_s=2.0,
            )
        if len(self.sessions) == 1:
            return usable[0]
        prompt = PromptBlocks(prompt_token_ids, cache_salt)
        best = self._policy.rank([self._candidate(s) for s in usable], prompt)[0]
        self._policy.chosen(best, prompt)
        return next(session for session in usable if session.address == best.address)

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
            block_tokens=(session.info.kv_block_tokens if session.info is not None else 0) or DEFAULT_BLOCK_TOKENS,
            pending_prompt_tokens=load.pending_prompt_tokens + session.submitted_tokens,
        )
