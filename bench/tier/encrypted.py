"""The row about TLS: a deployment with certificates on every hop beside one in plain text, in turn."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qwenserve.bench.clients.endpoint import Generation
from qwenserve.bench.clients.http import HttpEndpoint, Target
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load
from qwenserve.bench.samples import Job
from qwenserve.bench.tier.burden import Burden, TierError, burden, disturbances
from qwenserve.bench.tier.context import STREAMS, Context, words
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.streamed import PACED_STEP_MS
from qwenserve.bench.tier.table import Row, ratio_row
from qwenserve.cli.certs import make_certificates
from qwenserve.cli.errors import CommandError
from qwenserve.runtime.client_tls import ClientTls

_REQUESTS_PER_S = 200
_AT_A_TIME = 16


async def tls_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """A streamed token and a request, with and without TLS. Raises TierError where no certificates can be made."""
    found: dict[str, list[Burden]] = {}
    async with contextlib.AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        try:
            make_certificates(folder)
        except CommandError as error:
            raise TierError(str(error)) from None
        plain = StackSettings(context.model, PACED_STEP_MS)
        stacks = {
            "plain": await opened.enter_async_context(deployment(plain, context.cores)),
            "tls": await opened.enter_async_context(
                deployment(plain._replace(certificates=str(folder)), context.cores)
            ),
        }
        vocabulary = await words(stacks["plain"])
        tls = ClientTls(str(folder / "ca.pem"))
        rounds = context.rounds(PACED_STEP_MS)
        count = max(100, round(_REQUESTS_PER_S * context.seconds))
        for stack in stacks.values():  # connections, caches and code paths are warm
            await _drive(stack, tls, context.jobs(STREAMS, vocabulary), STREAMS, stream=True)
        for number in range(context.repeats):
            context.say(f"tls: repetition {number + 1} of {context.repeats}")
            for name, stack in stacks.items():
                jobs = context.jobs(STREAMS * rounds, vocabulary)
                found.setdefault(name, []).append(await _drive(stack, tls, jobs, STREAMS, stream=True))
                jobs = context.jobs(count, vocabulary, output=1)
                found.setdefault(f"{name} whole", []).append(await _drive(stack, tls, jobs, _AT_A_TIME, stream=False))
    token = {name: [each.us_per_event for each in found[name]] for name in ("plain", "tls")}
    request = {name: [each.ms_per_request for each in found[f"{name} whole"]] for name in ("plain", "tls")}
    paced = f"streamed token, HTTP SSE, paced {PACED_STEP_MS:g} ms, {STREAMS} streams"
    what = "request, 200-token prompt, 1 answer token, not streamed"
    rows = [
        Row("tls.token.plain", f"{paced}: plain text", "µs CPU", token["plain"], None, "router"),
        Row(
            "tls.token.tls", "  TLS from client to router and router to worker", "µs CPU", token["tls"], None, "router"
        ),
        ratio_row("tls.token.ratio", "  TLS / plain text", token["tls"], token["plain"], goal=None),
        Row("tls.request.plain", f"{what}: plain text", "ms CPU", request["plain"], None, f"{_AT_A_TIME} at a time"),
        Row("tls.request.tls", "  TLS on both", "ms CPU", request["tls"], None, "kept connections"),
        ratio_row("tls.request.ratio", "  TLS / plain text", request["tls"], request["plain"], goal=None),
    ]
    return rows, disturbances("tls", [each for burdens in found.values() for each in burdens], context.core_count)


async def _drive(stack: Stack, tls: ClientTls, jobs: Sequence[Job], concurrency: int, *, stream: bool) -> Burden:
    generation = Generation(thinking=False, stream=stream)
    endpoint = HttpEndpoint(Target.parse(stack.http_url, tls), chat=True, generation=generation, timeout_s=120.0)
    try:
        return await burden(endpoint, jobs, Load(concurrency=concurrency), stack.routers, stack.workers)
    finally:
        await endpoint.close()
