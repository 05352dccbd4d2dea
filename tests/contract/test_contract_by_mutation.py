"""The contract finds an engine that ignores a field: one mutant for each field, made of the simulated engine."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    Engine,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRequest,
    KvEvent,
    Sampling,
)
from tests.contract.engine_contract import EngineContract, driving
from tests.contract.test_engine_simulated import TestSimulatedEngine

Change = Callable[[EngineRequest], EngineRequest]
ChunkChange = Callable[[Chunk], Chunk]

NEUTRAL = Sampling()


def without(name: str) -> Change:
    """A field of the sampling parameters is as if it had not been set."""

    def change(request: EngineRequest) -> EngineRequest:
        value: Any = 10_000 if name == "max_tokens" else getattr(NEUTRAL, name)
        return replace(request, sampling=replace(request.sampling, **{name: value}))

    return change


def without_part(name: str) -> Change:
    """A field of the request is as if it had not been set."""
    unset: dict[str, Any] = {"cache_salt": "", "answer_offset": None, "prompt_logprobs": None, "guide": None}
    return lambda request: replace(request, **{name: unset[name]})


def with_sampling(**changed: Callable[[Any], Any]) -> Change:
    """Fields of the sampling parameters are changed."""

    def change(request: EngineRequest) -> EngineRequest:
        values = {name: to(getattr(request.sampling, name)) for name, to in changed.items()}
        return replace(request, sampling=replace(request.sampling, **values))

    return change


def unchanged(request: EngineRequest) -> EngineRequest:
    return request


def whole(chunk: Chunk) -> Chunk:
    return chunk


class Mutant:
    """The simulated engine behind one fault."""

    def __init__(self, engine: Engine, change: Change, change_chunk: ChunkChange) -> None:
        self._engine = engine
        self._change = change
        self._change_chunk = change_chunk
        self.abort = engine.abort
        self.stop = engine.stop

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        return await self._engine.start(lambda chunks: deliver([self._change_chunk(c) for c in chunks]), on_failure)

    def submit(self, request: EngineRequest) -> None:
        self._engine.submit(self._change(request))

    def load(self) -> EngineLoad:
        return self._engine.load()

    def kv_events(self) -> Sequence[KvEvent]:
        return self._engine.kv_events()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        self._engine.pace_with(room)


class MutantContract(TestSimulatedEngine):
    """The contract as it holds for the simulated engine, for one mutant of it."""

    __test__ = False

    def __init__(self, change: Change, change_chunk: ChunkChange) -> None:
        self._change = change
        self._change_chunk = change_chunk

    def make_engine(self) -> Engine:
        return Mutant(super().make_engine(), self._change, self._change_chunk)


def cases(contract: EngineContract) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Every test of the contract with its parameters, as pytest would run it."""
    for name, method in inspect.getmembers(contract, inspect.iscoroutinefunction):
        if not name.startswith("test_"):
            continue
        marks = [mark for mark in getattr(method, "pytestmark", ()) if mark.name == "parametrize"]
        for rows in itertools.product(*(_rows(*mark.args) for mark in marks)):
            yield name, method, {key: value for row in rows for key, value in row.items()}


def _rows(names: str | Sequence[str], rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [{names: row} if isinstance(names, str) else dict(zip(names, row, strict=True)) for row in rows]


async def passes(contract: EngineContract, method: Callable[..., Any], parameters: dict[str, Any]) -> bool:
    """Runs one test."""
    try:
        if "driver" in inspect.signature(method).parameters:
            async with driving(contract.make_engine()) as driver:
                await method(driver, **parameters)
        else:
            await method(**parameters)
    except (AssertionError, pytest.fail.Exception):
        return False
    return True


async def first_failure(contract: EngineContract) -> str | None:
    """The name of the first test that fails."""
    for name, method, parameters in cases(contract):
        if not await passes(contract, method, parameters):
            return name
    return None


MUTANTS: dict[str, tuple[Change, ChunkChange]] = {
    **{field.name: (without(field.name), whole) for field in fields(Sampling)},
    **{name: (without_part(name), whole) for name in ("cache_salt", "answer_offset", "prompt_logprobs", "guide")},
    "seed is cut to 31 bits": (with_sampling(seed=lambda seed: seed & 0x7FFFFFFF), whole),
    "seed is cut to 32 bits": (with_sampling(seed=lambda seed: seed & 0xFFFFFFFF), whole),
    "negative penalties are ignored": (with_sampling(presence_penalty=lambda value: max(0.0, value)), whole),
    "repetition_penalty below 1 is ignored": (with_sampling(repetition_penalty=lambda value: max(1.0, value)), whole),
    "one stop token id only": (with_sampling(stop_token_ids=lambda ids: frozenset(sorted(ids)[:1])), whole),
    "positive biases only": (
        with_sampling(logit_bias=lambda bias: {token: value for token, value in bias.items() if value > 0}),
        whole,
    ),
    "temperature 0 is 1": (with_sampling(temperature=lambda value: value or 1.0), whole),
    "log-probabilities of the first id only": (
        unchanged,
        lambda chunk: chunk._replace(logprobs=chunk.logprobs and chunk.logprobs[1:]),
    ),
    "no alternatives": (
        unchanged,
        lambda chunk: chunk._replace(logprobs=chunk.logprobs and [row._replace(top=()) for row in chunk.logprobs]),
    ),
    "the prompt's last log-probability is missing": (
        unchanged,
        lambda chunk: chunk._replace(prompt_logprobs=chunk.prompt_logprobs and chunk.prompt_logprobs[:-1]),
    ),
}


@pytest.mark.parametrize("fault", MUTANTS)
async def test_an_engine_with_a_fault_fails_the_contract(fault: str) -> None:
    assert await first_failure(MutantContract(*MUTANTS[fault])) is not None


async def test_the_engine_itself_does_not() -> None:
    assert await first_failure(MutantContract(unchanged, whole)) is None
