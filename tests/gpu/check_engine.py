"""Checks an engine on a GPU: `python -m tests.gpu.check_engine ENGINE [NAME=VALUE …]`, one line of JSON a fact.

The contract suite, greedy answers against the fixture, events of the prefix cache, guides, and its process killed. One
process with one engine: loading takes longer than all of it. `NAME=VALUE` are settings of the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engine_interface import Engine, FinishReason, Guide, GuideKind, Sampling
from tests.contract.engine_contract import Driver, EngineContract, driving
from tests.contract.shared_engine import SharedEngine
from tests.contract.test_contract_by_mutation import cases
from tests.gpu.engines import CASES, MODEL, forget_prefixes, make
from tests.gpu.report import say

STORY = 7
GUIDES = {
    GuideKind.JSON_SCHEMA: json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "n": {"type": "boolean"}},
            "required": ["city", "n"],
            "additionalProperties": False,
        }
    ),
    GuideKind.JSON_OBJECT: "",
    GuideKind.CHOICE: '["Paris", "Rome"]',
    GuideKind.REGEX: "[0-9]{4}",
    GuideKind.GRAMMAR: 'start: "yes" | "no"',
}


def text_of(token_ids: Sequence[int]) -> str:
    """The text of some ids, control tokens left out."""
    from tokenizers import Tokenizer

    return str(Tokenizer.from_file(str(MODEL / "tokenizer.json")).decode(list(token_ids), skip_special_tokens=True))


class SharedContract(EngineContract):
    __test__ = False
    prompt = tuple(CASES[STORY]["prompt_ids"])

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def make_engine(self) -> Engine:
        return self._engine

    def text_of(self, token_ids: Sequence[int]) -> str:
        return text_of(token_ids)


async def contract(shared: Engine) -> None:
    """Runs every test of the suite."""
    results = {"passed": 0, "declared": 0, "failed": 0}
    suite = SharedContract(shared)
    for name, method, parameters in cases(suite):
        began = time.perf_counter()
        try:
            if "driver" in method.__code__.co_varnames[: method.__code__.co_argcount]:
                async with driving(shared) as driver:
                    await asyncio.wait_for(method(driver, **parameters), 120)
            else:
                await asyncio.wait_for(method(**parameters), 120)
            results["passed"] += 1
        except pytest.skip.Exception as skip:
            results["declared"] += 1
            say("not honoured", test=name, why=str(skip))
        except Exception as error:
            results["failed"] += 1
            say("FAILED", test=name, parameters=str(parameters), error=f"{type(error).__name__}: {str(error)[:600]}")
            if type(error).__name__ == "EngineError" or shared.load().running > 100:
                return
        if (took := time.perf_counter() - began) > 5:
            say("slow", test=name, took_s=round(took, 1))
    say("contract", **results)


async def greedy(driver: Driver, label: str, *, together: bool) -> None:
    """Compares answers with the fixture."""

    async def one(case: dict[str, Any]) -> tuple[bool, float]:
        ids = case["output_ids"]
        sampling = Sampling(temperature=0.0, max_tokens=len(ids), ignore_eos=True, top_logprobs=0)
        answer = await driver.ask(case["prompt_ids"], sampling)
        same = answer.token_ids == ids
        errors = [abs(row.logprob - value) for row, value in zip(answer.logprobs, case["logprobs"], strict=False)]
        return same, max(errors) if same else 0.0

    found = await asyncio.gather(*map(one, CASES)) if together else [await one(case) for case in CASES]
    say(
        f"greedy, {label}",
        equal=sum(same for same, _ in found),
        of=len(CASES),
        differ=[case["name"] for case, (same, _) in zip(CASES, found, strict=True) if not same],
        worst_logprob_error=round(max(error for _, error in found), 5),
    )


async def kv_events(driver: Driver) -> None:
    """The prompt's blocks are told by our hashes, salted and not."""
    engine = driver.engine
    engine.kv_events()
    prompt = [(i * 7) % 4000 + 10 for i in range(100)]
    size = driver.info.kv_block_tokens
    for salt in ("", "tenant"):
        await driver.ask(prompt, Sampling(temperature=0.0, max_tokens=1), salt)
        wanted = set(block_hashes(prompt, size, salt)) if size else set()
        stored: set[int] = set()
        sequences: list[int] = []
        for _ in range(100):
            for event in engine.kv_events():
                stored |= set(event.stored)
                sequences.append(event.sequence)
            if wanted and wanted <= stored:
                break
            await asyncio.sleep(0.02)
        say("kv events", salt=salt, block=size, wanted=len(wanted), found=len(wanted & stored), sequences=sequences)


async def seeds(driver: Driver) -> None:
    """Which seeds give which answers."""
    # One draw from each of several prompts: where a model repeats itself, a long answer is one draw too.
    prompts = [[*CASES[STORY]["prompt_ids"], *range(10, 10 + more)] for more in range(1, 13)]
    for seed in (0, 1, 1 + 2**31, 1 + 2**32, 1 + 2**62, 2**63 - 1, -1, -(2**63)):
        sampling = Sampling(max_tokens=1, temperature=2.0, ignore_eos=True, seed=seed)
        answers = [[(await driver.ask(prompt, sampling)).token_ids[0] for prompt in prompts] for _ in range(2)]
        say("seed", seed=seed, ids=answers[0], repeats=answers[0] == answers[1])


async def guides(driver: Driver) -> None:
    """Answers keep to their guides."""
    for kind in GuideKind:
        if kind not in driver.info.guide_kinds or kind not in GUIDES:
            say("guide", kind=kind.name, declared=False)
            continue
        began = time.perf_counter()
        sampling = Sampling(temperature=0.0, max_tokens=80)
        answer = await driver.ask(CASES[0]["prompt_ids"], sampling, guide=Guide(kind, GUIDES[kind]))
        text = text_of(answer.token_ids)
        assert answer.finish is not None
        say(
            "guide",
            kind=kind.name,
            text=text[:120],
            finish=answer.finish.reason.name,
            error=answer.finish.error,
            ms=round((time.perf_counter() - began) * 1000),
        )
    for kind, text in (
        (GuideKind.JSON_SCHEMA, '{"type": "nonsense"}'),
        (GuideKind.REGEX, "["),
        (GuideKind.CHOICE, "1"),
    ):
        if kind in driver.info.guide_kinds:
            try:
                answer = await driver.ask(CASES[0]["prompt_ids"], Sampling(max_tokens=4), guide=Guide(kind, text))
                say("bad guide", kind=kind.name, finish=str(answer.finish))
            except Exception as error:
                say("bad guide", kind=kind.name, refused=f"{type(error).__name__}: {str(error)[:150]}")


def children() -> list[tuple[int, str]]:
    """The processes below this one."""
    parents: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            name, _, rest = stat.rpartition(")")
            names[int(entry.name)] = name.partition("(")[2]
            parents.setdefault(int(rest.split()[1]), []).append(int(entry.name))

    def below(pid: int) -> list[int]:
        return [each for child in parents.get(pid, ()) for each in (child, *below(child))]

    return [(pid, names[pid]) for pid in below(os.getpid())]


async def killed(driver: Driver) -> None:
    """The engine's process is killed with an answer under way."""
    _, answer = driver.submit(CASES[STORY]["prompt_ids"], Sampling(max_tokens=1500, ignore_eos=True))
    await answer.tokens(5)
    processes = children()
    victim = next((pid for pid, name in processes if "EngineCor" in name or "sched" in name), processes[0][0])
    began = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    try:
        await asyncio.wait_for(answer.whole(), 30)
        ended = str(answer.finish)
    except AssertionError as error:
        ended = f"failure: {error}"
    said = round(time.perf_counter() - began, 3)
    refused = ""
    try:
        driver.submit(CASES[0]["prompt_ids"], Sampling())
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    say("killed", processes=processes, failures=len(driver.failures), said_after_s=said, ended=ended, refused=refused)


async def run(name: str, settings: dict[str, Any]) -> None:
    """Everything, in one process."""
    engine = make(name, **settings)
    shared = SharedEngine(engine, forget_prefixes(engine))
    driver = Driver(shared)
    began = time.perf_counter()
    driver.info = await asyncio.wait_for(shared.start(driver._deliver, driver._fail), 300)
    say("started", took_s=round(time.perf_counter() - began, 1), info=str(driver.info)[:900])
    await shared.stop()
    await contract(shared)
    async with driving(shared) as driver:
        await greedy(driver, "one at a time", together=False)
        await greedy(driver, "again, cached", together=False)
        await greedy(driver, "together", together=True)
        await kv_events(driver)
        await guides(driver)
        await seeds(driver)
        key, answer = driver.submit(CASES[STORY]["prompt_ids"], Sampling(max_tokens=1000, ignore_eos=True))
        await answer.tokens(3)
        began = time.perf_counter()
        driver.engine.abort(key)
        finish = await answer.whole()
        say("abort", ms=round((time.perf_counter() - began) * 1000, 2), aborted=finish.reason is FinishReason.ABORTED)
        say("load", load=str(driver.engine.load()))
    driver = Driver(shared)
    driver.info = await shared.start(driver._deliver, driver._fail)
    await killed(driver)
    began = time.perf_counter()
    await asyncio.wait_for(engine.stop(), 60)
    say("stopped", took_s=round(time.perf_counter() - began, 2), left=children())


def main(arguments: Sequence[str]) -> None:
    name, *rest = arguments
    settings = {key: json.loads(value) for key, _, value in (each.partition("=") for each in rest)}
    asyncio.run(run(name, settings))


if __name__ == "__main__":
    main(sys.argv[1:])
