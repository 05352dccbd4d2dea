"""What every row of the tier's table is measured with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console

from qwenserve.bench.calibration import server_vocabulary
from qwenserve.bench.clients.endpoint import Generation
from qwenserve.bench.clients.http import HttpEndpoint, Target
from qwenserve.bench.datasets.lengths import Lengths
from qwenserve.bench.datasets.made import Form, Shape, random_jobs
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.samples import Job
from qwenserve.bench.tier.cores import Cores, physical_cores, share_out
from qwenserve.bench.tier.stack import Stack

STREAMS = 128
PROMPT_TOKENS = 200
ANSWER_TOKENS = 128


@dataclass
class Context:
    """Settings of a whole `bench tier`, and the seeds not yet used: no prompt is ever sent twice."""

    console: Console
    cores: Cores
    model: str
    repeats: int
    # Seconds that one repetition of a paced load takes, roughly; other loads are sized alike.
    seconds: float
    memory_requests: int
    memory_model: str
    # Interpreter of the peer gateway.
    peer_python: str
    seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    # The threads of each physical core, from before this process was kept to some of them.
    physical: Sequence[Sequence[int]] = field(default_factory=physical_cores)

    @property
    def core_count(self) -> int:
        """Threads of all usable cores."""
        return sum(map(len, self.physical))

    def share_out(self, *, routers: int = 1, workers: int = 1, tokenizers: int = 0) -> Cores:
        """Returns who runs where in a row with other processes than one router and one worker."""
        return share_out(self.physical, routers=routers, workers=workers, tokenizers=tokenizers)

    def say(self, text: str) -> None:
        """Tells what is being measured."""
        self.console.print(f"[dim]{text}[/]", highlight=False, soft_wrap=True)

    def jobs(
        self,
        count: int,
        vocabulary: Vocabulary,
        *,
        prompt: int = PROMPT_TOKENS,
        output: int = ANSWER_TOKENS,
        form: Form = "chat",
    ) -> list[Job]:
        """Returns prompts that were never sent before."""
        shape = Shape(Lengths("fixed", prompt), Lengths("fixed", output), form, next(self.seeds))
        return random_jobs(count, shape, vocabulary)

    def random(self) -> np.random.Generator:
        """Returns random numbers that were never drawn before."""
        return np.random.default_rng(next(self.seeds))

    def rounds(self, step_ms: float) -> int:
        """Returns how many answers one after the other fill `seconds`."""
        return max(1, round(self.seconds * 1000 / (ANSWER_TOKENS * step_ms)))


async def words(stack: Stack) -> Vocabulary:
    """Returns words of one token each for the stack's tokenizer. Raises EndpointError."""
    return await server_vocabulary(Target.parse(stack.http_url), "", "")


def chat_endpoint(url: str, *, stream: bool = True) -> HttpEndpoint:
    """Returns a client of `/v1/chat/completions`."""
    return HttpEndpoint(
        Target.parse(url), chat=True, generation=Generation(thinking=False, stream=stream), timeout_s=120.0
    )
