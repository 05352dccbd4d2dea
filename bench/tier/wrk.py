"""The tier under `wrk`, a load client in C: shows that our own client is no part of the result.

wrk reads bytes, not events, and stops in the middle of answers. Paced, where an event is a token, the tokens behind its
bytes are told by the size of one whole answer, read beforehand. Unpaced, where events merge and grow smaller, its whole
answers are counted; those that it cuts off are few there, and make the figure slightly too high.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.clients.endpoint import Generation
from bench.clients.http import HttpEndpoint, Target
from bench.datasets.vocabulary import Vocabulary
from bench.findings import Finding
from bench.samples import Sample
from bench.tier.burden import TierError
from bench.tier.context import ANSWER_TOKENS, PROMPT_TOKENS, STREAMS, Context, words
from bench.tier.processes import PACKAGE_ROOT
from bench.tier.stack import Stack, StackSettings, deployment
from bench.tier.table import Row

_SCRIPT = PACKAGE_ROOT / "bench" / "tier" / "chat.lua"
_PACED_STEP_MS = 10.0


class WrkResult(NamedTuple):
    """What wrk counted: whole answers, bytes of all answers, failures."""

    answers: int
    received: int
    errors: int


def parse(output: str) -> WrkResult:
    """Reads the line that the script prints. Raises TierError."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return WrkResult(*map(int, line.split()[1:4]))
    raise TierError(f"wrk gave no result: {output[-300:]}")


async def wrk_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Streamed tokens under wrk, paced and as fast as the engine can; nothing but a finding where wrk is missing."""
    if shutil.which("wrk") is None:
        return [], [Finding("NO_WRK", "wrk is not installed: its rows were left out.", {})]
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
    with tempfile.TemporaryDirectory(prefix="qwenserve-bench-") as folder:
        file = Path(folder) / "words"
        file.write_text("\n".join(vocabulary.words), encoding="utf-8")
        before = router.cpu_s()
        output = await _run(context, stack.http_url, file)
        cpu = router.cpu_s() - before
    result = parse(output)
    if result.errors or not result.answers:
        raise TierError(f"wrk met {result.errors} errors")
    answers = result.received / whole if by_bytes else result.answers
    return cpu / (answers * ANSWER_TOKENS) * 1e6


async def _run(context: Context, url: str, file: Path) -> str:
    seconds = max(2, round(context.seconds))
    arguments = ["-t1", f"-c{STREAMS}", f"-d{seconds}s", "--timeout", "60s", "-s", str(_SCRIPT), url, "--", str(file)]
    numbers = (str(PROMPT_TOKENS), str(ANSWER_TOKENS), str(next(context.seeds)))
    process = await asyncio.create_subprocess_exec(
        "wrk", *arguments, *numbers, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + 30)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        raise TierError("wrk did not end") from None
    return output.decode("utf-8", "replace")


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
            piece = await asyncio.wait_for(reader.read(1 << 16), 60.0)
            if not piece:
                raise TierError("the connection ended inside an answer")
            received += piece
    finally:
        writer.close()
    return len(received)
