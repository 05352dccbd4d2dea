"""`wrk`, a load client in C: for loads that our own cannot offer, and to show that ours is no part of a result.

wrk reads bytes, not events, and stops in the middle of answers. Paced, where an event is a token, the tokens behind its
bytes are told by the size of one whole answer, read beforehand. Unpaced, where events merge and grow smaller, its whole
answers are counted; those that it cuts off are few there, and make the figure slightly too high.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.bench.clients.endpoint import Generation
from qwenserve.bench.clients.http import HttpEndpoint, Target
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.samples import Sample
from qwenserve.bench.tier.burden import TierError
from qwenserve.bench.tier.context import ANSWER_TOKENS, PROMPT_TOKENS, STREAMS, Context, words
from qwenserve.bench.tier.processes import pin
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row
from qwenserve.runtime.deadlines import within

_SCRIPT = Path(__file__).with_name("chat.lua")
_PACED_STEP_MS = 10.0
# Beyond its own time, until it is given up.
_PATIENCE_S = 60.0
_FOREVER_S = 24 * 3600


class WrkResult(NamedTuple):
    """What wrk counted: whole answers, bytes of all answers, failures. And its cost: seconds, and CPU seconds."""

    answers: int
    received: int
    errors: int
    wall_s: float = 0.0
    cpu_s: float = 0.0


class WrkLoad(NamedTuple):
    """What wrk sends, and how. `streamed` is the share of streamed answers in percent; `pause_ms` the mean time that a
    connection waits before each request, exponential: without it all connections begin together, and so go on.
    `niceness` is as in nice(1): by how much it yields to others on its cores."""

    prompt: int = PROMPT_TOKENS
    answer: int = ANSWER_TOKENS
    streamed: int = 100
    connections: int = STREAMS
    threads: int = 1
    pause_ms: float = 0.0
    niceness: int = 0
    core: frozenset[int] = frozenset()


def installed() -> bool:
    """Whether there is a wrk."""
    return shutil.which("wrk") is not None


def left_out(what: str) -> Finding:
    """Says that something needs wrk."""
    return Finding("NO_WRK", f"wrk is not installed: {what} left out.", {})


def parse(output: str) -> WrkResult:
    """Reads the line that the script prints. Raises TierError."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return WrkResult(*map(int, line.split()[1:4]))
    raise TierError(f"wrk gave no result: {output[-300:]}")


async def run_wrk(
    url: str,
    load: WrkLoad,
    vocabulary: Vocabulary,
    seed: int,
    *,
    seconds: float | None = None,
    until: Coroutine[Any, Any, None] | None = None,
) -> WrkResult:
    """Runs wrk for some seconds, or until `until` has ended. Raises TierError where a request failed."""
    limit = _FOREVER_S if seconds is None else max(2, round(seconds))
    with tempfile.TemporaryDirectory(prefix="qwenserve-bench-") as folder:
        file = Path(folder) / "words"
        file.write_text("\n".join(vocabulary.words), encoding="utf-8")
        arguments = [f"-t{load.threads}", f"-c{load.connections}", f"-d{limit}s", "--timeout", "60s"]
        script = ["-s", str(_SCRIPT), url, "--", str(file)]
        numbers = (str(load.prompt), str(load.answer), str(seed), str(load.streamed), f"{load.pause_ms:g}")
        cpu, began = _children_cpu_s(), time.perf_counter()
        # Set from inside: its threads begin at once, and those that have begun would keep theirs.
        behind = ["nice", "-n", str(load.niceness)] if load.niceness else []
        process = await asyncio.create_subprocess_exec(
            *behind,
            "wrk",
            *arguments,
            *script,
            *numbers,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        if load.core:
            pin(process.pid, load.core)
        output = await _until_its_end(process, limit, until)
    result = parse(output)
    if result.errors:
        raise TierError(f"wrk had {result.answers} answers and {result.errors} errors")
    return result._replace(wall_s=time.perf_counter() - began, cpu_s=_children_cpu_s() - cpu)


async def _until_its_end(
    process: asyncio.subprocess.Process, limit: float, until: Coroutine[Any, Any, None] | None
) -> str:
    """Returns what wrk printed. Raises TierError when it does not end, and whatever `until` raises."""
    ended = asyncio.ensure_future(process.communicate())
    watched = None if until is None else asyncio.ensure_future(until)
    try:
        if watched is not None:
            await asyncio.wait({ended, watched}, return_when=asyncio.FIRST_COMPLETED)
            if watched.done():
                watched.result()
                process.send_signal(signal.SIGINT)  # it then prints its result as it does at its end
            limit = 0.0
        output, _ = await within(limit + _PATIENCE_S, ended)
    except asyncio.TimeoutError:
        raise TierError("wrk did not end") from None
    finally:
        if watched is not None:
            watched.cancel()
            await asyncio.gather(watched, return_exceptions=True)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return output.decode("utf-8", "replace")


def _children_cpu_s() -> float:
    """CPU of this process's children that have ended. During a row only wrk ends."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def wrk_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Streamed tokens under wrk, paced and as fast as the engine can; nothing but a finding where wrk is missing."""
    if not installed():
        return [], [left_out("its rows were")]
    rows = []
    for name, step_ms, goal in (("paced 10 ms", _PACED_STEP_MS, None), ("engine as fast as it can", 0.0, 8.0)):
        values = []
        async with deployment(StackSettings(context.model, step_ms), context.cores) as stack:
            vocabulary = await words(stack)
            for number in range(context.repeats):
                context.say(f"wrk, {name}: repetition {number + 1} of {context.repeats}")
                values.append(await _one(context, stack, vocabulary, by_bytes=step_ms > 0))
        work = f"streamed token, HTTP SSE, {name}, {STREAMS} streams, under wrk"
        note = f"tokens from {'bytes' if step_ms else 'whole answers'}; the same load as the row without wrk"
        rows.append(Row(f"wrk.{'paced' if step_ms else 'fast'}", work, "µs CPU", values, goal, note))
    return rows, []


async def _one(context: Context, stack: Stack, vocabulary: Vocabulary, *, by_bytes: bool) -> float:
    """Returns the router's CPU per token, in microseconds."""
    positions = vocabulary.draw(PROMPT_TOKENS, context.random())
    whole = await answer_bytes(stack.http_url, Sample(ANSWER_TOKENS, text=vocabulary.to_text(positions)))
    (router,) = stack.routers
    before = router.cpu_s()
    result = await run_wrk(stack.http_url, WrkLoad(), vocabulary, next(context.seeds), seconds=context.seconds)
    cpu = router.cpu_s() - before
    if not result.answers:
        raise TierError("wrk saw no whole answer: give it more --seconds")
    answers = result.received / whole if by_bytes else result.answers
    return cpu / (answers * ANSWER_TOKENS) * 1e6


async def answer_bytes(url: str, sample: Sample) -> int:
    """Returns the size of one whole answer in bytes, head and chunk sizes included."""
    target = Target.parse(url)
    generation = Generation(thinking=False)
    request = HttpEndpoint(target, chat=True, generation=generation).prepare(sample)
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        writer.write(request)
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            piece = await within(60.0, reader.read(1 << 16))
            if not piece:
                raise TierError("the connection ended inside an answer")
            received += piece
    finally:
        writer.close()
    return len(received)
