"""Drills: what they do to a real deployment, and how they judge what clients saw."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from qwenserve.cli.drill.command import verdict_on
from qwenserve.cli.drill.difference import parting
from qwenserve.cli.drill.faults import DRILLS
from qwenserve.cli.drill.load import (
    PROMPTS,
    Failure,
    Load,
    Seen,
    Silence,
    Target,
    client_session,
    read_answer,
    undisturbed,
)
from qwenserve.cli.main import DRILL_NAMES
from tests.cli.conftest import CommandLine
from tests.system.stack import until

pytestmark = pytest.mark.timeout(240)


@asynccontextmanager
async def server(*replies: object) -> AsyncIterator[Target]:
    """An HTTP server that gives each question the next reply, and the last one for ever.

    A reply is a list of SSE lines, or a status with headers.
    """
    left = list(replies)

    async def answer(request: web.Request) -> web.StreamResponse:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, tuple):
            return web.Response(status=reply[0], headers=reply[1], text="no")
        assert isinstance(reply, list)
        return web.Response(body="".join(f"data: {line}\n\n" for line in reply))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Target(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def delta(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


WHOLE = [delta("a"), delta("b", "stop"), "[DONE]"]


async def test_an_answer_is_read_to_its_end():
    """All text, in order."""
    async with server(WHOLE) as target, client_session(target) as http:
        assert (await read_answer(http, target, "x")).text == "ab"


@pytest.mark.parametrize(
    ("reply", "begun", "refused"),
    [
        ([delta("a")], True, False),
        ([delta("", None)], False, False),
        ([delta("a"), json.dumps({"error": {"message": "lost"}})], True, False),
        ([json.dumps({"error": {"message": "lost"}})], False, False),
        ((503, {"Retry-After": "2"}), False, True),
        ((429, {"Retry-After": "1"}), False, True),
        ((503, {}), False, False),
        ((500, {"Retry-After": "2"}), False, False),
    ],
)
async def test_whatever_is_no_whole_answer_is_a_failure(reply, begun, refused):
    """A stream without its end, an error event, a status: each says whether some of it had been read."""
    async with server(reply) as target, client_session(target) as http:
        with pytest.raises(Failure) as caught:
            await read_answer(http, target, "x")

    assert bool(caught.value.begun) is begun
    assert caught.value.refused is refused


async def test_nothing_listening_is_a_failure_that_had_not_begun():
    """A refused connection may be tried again."""
    nowhere = Target("http://127.0.0.1:1")
    async with client_session(nowhere) as http:
        with pytest.raises(Failure) as caught:
            await read_answer(http, nowhere, "x")

    assert not caught.value.begun


async def test_clients_do_as_they_are_told_and_ask_once_more():
    """A refusal is waited out; what had not begun is asked again; what had begun is lost."""
    async with server((429, {"Retry-After": "0"}), (500, {}), WHOLE) as target:
        load = Load(target, {})
        async with load.running(1) as seen:
            await until(lambda: seen.answers > 0, 30.0)
    assert (seen.refused, seen.retried, seen.failures) == (1, 1, [])

    async with server([delta("a")]) as target:
        load = Load(target, {})
        async with load.running(1) as seen:
            await until(lambda: bool(seen.failures), 30.0)
    assert seen.retried == 0


async def test_answers_are_compared_with_the_undisturbed_run():
    """Answers that vary anyway are compared with nothing."""
    async with server(WHOLE) as target:
        assert await undisturbed(target, 2) == (dict.fromkeys(PROMPTS[:2], "ab"), False)
        load = Load(target, dict.fromkeys(PROMPTS, "ax"))
        async with load.running(1) as seen:
            await until(lambda: seen.answers > 0, 30.0)
        assert seen.differing == seen.answers
        assert seen.difference == (PROMPTS[0], "ab")
    async with server(WHOLE, [delta("z", "stop"), "[DONE]"]) as target:
        assert (await undisturbed(target, 1)).vary


@pytest.mark.parametrize(
    ("seen", "drill", "why"),
    [
        (Seen(answers=1), "kill-worker", ""),
        (Seen(answers=0), "kill-worker", "not one answer"),
        (Seen(answers=9, differing=1), "kill-worker", "1 answers differ"),
        (Seen(answers=9, failures=[Failure("x", begun=True)]), "kill-worker", "1 answers lost; the first: x"),
        (Seen(answers=9, failures=[Failure("x", begun=True)]), "kill-router", ""),
        (Seen(answers=9, failures=[Failure("x", begun=False)]), "kill-router", "1 answers lost"),
        (Seen(answers=9, refused=5, retried=3), "overload", ""),
    ],
)
def test_the_verdict_is_what_clients_saw(seen, drill, why):
    """Only whoever was connected to a killed router may have lost what had begun."""
    told = verdict_on(seen, DRILLS[drill])

    assert told.startswith(why)
    assert bool(told) is bool(why)


def test_answers_that_vary_anyway_may_differ():
    assert verdict_on(Seen(answers=9, differing=2), DRILLS["kill-worker"], vary=True) == ""


async def test_an_answer_says_how_it_went_on():
    """Its usage tells that another worker did; comments that keep the stream open are no text."""
    usage = json.dumps({"choices": [], "usage": {"continued_legs": 2}})
    async with server([delta("a", "stop"), usage, "[DONE]"]) as target, client_session(target) as http:
        assert (await read_answer(http, target, "x")).continued == 2


def test_the_time_to_the_first_continued_token_is_counted_from_the_fault():
    """Of those that were silent when a process was harmed; one fault without such an answer tells nothing."""
    silences = [Silence(9.9, 12.0), Silence(10.2, 11.5), Silence(3.0, 3.1)]

    assert Seen(continued=silences).resumed([10.0, 50.0]) == [1.5]


def token(text: str, logprob: float, *others: tuple[str, float]) -> dict[str, object]:
    made: dict[str, object] = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
    made["top_logprobs"] = [token(text, logprob) for text, logprob in others] if others else []
    return made


def test_where_an_answer_differs_is_told_with_how_likely_it_was():
    said = [token("Hel", -0.1), token("lo", -0.5, ("lo", -0.5), ("p", -0.75), ("pf", -1.5)), token("!", -0.1)]

    assert parting(said, "Hello!") is None
    assert parting(said, "Helpful") == (1, "lo", "pf", 1.0)
    assert parting(said, "Help") == (1, "lo", "p", 0.25)
    assert parting(said, "Hexe") == (0, "Hel", "Hexe", None)
    assert parting(said, "Hello") == (2, "!", "its end", None)
    assert parting(said, "Hello!!") == (3, "its end", "!", None)


def test_all_drills_can_be_named():
    """The command line knows those that there are, in their order."""
    assert tuple(DRILLS) == DRILL_NAMES


@pytest.mark.long
def test_a_real_deployment_stands_its_drills(qwenserve: CommandLine):
    """Two of everything, harmed while clients read: nothing is lost, and each drill says so."""
    qwenserve(
        "up", "--name", "drilled", "--detach", "--engine", "simulated", "--http-port", "0", "--grpc-port", "0",
        "--set", "worker.simulated.step_ms=2", "--workers", "2", "--routers", "2", "--tokenizers", "2",
    )  # fmt: skip
    drills = ("kill-worker", "kill-router", "kill-tokenizer", "slow-reader", "overload", "disconnects", "bad-bytes")

    output = qwenserve(
        "drill",
        "drilled",
        "--drills",
        "kill-rank",
        *drills,
        "--times",
        "1",
        "--seconds",
        "0.5",
        "--clients",
        "3",
        "--tokens",
        "20",
    )

    rows = [line.split() for line in output.splitlines() if line.split()[1:2] in (["pass"], ["fail"], ["left"])]
    # Workers of one process have no ranks.
    assert [row[:2] for row in rows] == [["kill-rank", "left"], *([drill, "pass"] for drill in drills)], output
    qwenserve("stop", "drilled")
