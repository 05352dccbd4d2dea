"""What the tier's rows decide before and after they measure: cores, rates, findings. No I/O."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qwenserve.bench.findings import slow_interpreter
from qwenserve.bench.meter import python_build
from qwenserve.bench.tier.burden import Surroundings, TierError, doubts, worker_saturated
from qwenserve.bench.tier.cores import Cores, name_cores, parse_list, share_out, workers_beside
from qwenserve.bench.tier.latency import (
    HALF_CORE,
    PROBE_CONNECTIONS,
    Level,
    Shares,
    baseline_slower,
    choose_level,
    client_cores,
    lower_load,
    shares_of,
    steps_late,
)
from qwenserve.bench.tier.memory import cache_bytes, count_requests, growth_per_million
from qwenserve.bench.tier.scaling import Answers, Run, make_plan, read_answers
from qwenserve.bench.tier.servicer import Measured, read_measured
from qwenserve.bench.tier.table import Row
from qwenserve.bench.tier.wrk import WrkResult

CALM = Surroundings(wall_s=10.0, client_share=0.3, foreign_s=0.1, taken_s=0.0)


def plain(count: int) -> list[list[int]]:
    """Cores with one thread each."""
    return [[core] for core in range(count)]


def paired(count: int) -> list[list[int]]:
    """Cores with two threads each, numbered as kernels do: 0 and 1 are of one core."""
    return [[2 * core, 2 * core + 1] for core in range(count)]


def sets(*cores: int) -> list[frozenset[int]]:
    return [frozenset({core}) for core in cores]


def test_one_core_is_shared_by_all() -> None:
    """There is no other way, and it is told."""
    cores = share_out(plain(1))

    assert (cores.measured, cores.workers, cores.client) == (frozenset({0}), sets(0), frozenset({0}))
    assert not cores.apart
    assert not cores.all_apart


def test_with_two_cores_the_router_has_one() -> None:
    """Worker, tokenizer and client share the other."""
    cores = share_out(plain(2), tokenizers=1)

    assert (cores.measured, cores.workers, cores.tokenizers, cores.client) == (
        frozenset({0}),
        sets(1),
        sets(1),
        frozenset({1}),
    )
    assert cores.apart
    assert not cores.all_apart


def test_with_enough_cores_each_has_its_own() -> None:
    """The client gets all that are left."""
    cores = share_out(plain(16), routers=4, workers=3, tokenizers=1)

    assert (cores.routers, cores.workers, cores.tokenizers) == (sets(0, 1, 2, 3), sets(4, 5, 6), sets(7))
    assert cores.client == frozenset(range(8, 16))
    assert cores.apart
    assert cores.all_apart


def test_second_threads_stay_idle_where_there_are_cores() -> None:
    """Router and worker are on physical cores of their own; the client may use both threads of the rest."""
    cores = share_out(paired(4))

    assert (cores.routers, cores.workers) == (sets(0), sets(2))
    assert cores.client == frozenset({4, 5, 6, 7})
    assert cores.all_apart


def test_second_threads_are_used_before_anything_is_shared() -> None:
    """First threads go first."""
    cores = share_out(paired(2))

    assert (cores.routers, cores.workers, cores.client) == (sets(0), sets(2), frozenset({1, 3}))
    assert cores.all_apart


def test_several_routers_on_too_few_cores_may_use_all() -> None:
    """Nobody has anything for itself then."""
    cores = share_out(plain(2), routers=4)

    assert cores.routers == [frozenset({0, 1})] * 4
    assert not cores.apart


@pytest.mark.parametrize(
    ("physical", "routers", "workers"), [(1, 1, 1), (2, 4, 1), (4, 1, 2), (8, 4, 3), (16, 4, 4), (16, 1, 3)]
)
def test_workers_leave_a_core_for_the_client(physical: int, routers: int, workers: int) -> None:
    """One at least; as many as routers where there is room."""
    assert workers_beside(plain(physical), routers) == workers


def test_cores_are_read_and_named() -> None:
    """As the kernel writes them, and as people read them."""
    assert parse_list("0-2,8\n") == frozenset({0, 1, 2, 8})
    assert name_cores(frozenset({3})) == "core 3"
    assert name_cores(frozenset({0, 1, 2, 8})) == "cores 0–2, 8"


def test_this_machine_has_cores_for_everybody() -> None:
    """Whatever it has, every process gets at least one core."""
    cores = Cores.of_this_machine(routers=2, workers=2, tokenizers=1)

    assert [len(one) > 0 for one in (*cores.routers, *cores.workers, *cores.tokenizers, cores.client)] == [True] * 6


def test_a_connection_costs_what_its_answers_cost() -> None:
    """However long they took: 100 answers' worth of bytes, each with 1.28 s of answer and as much of pause."""
    each = shares_of(1.28, 0.64, WrkResult(90, 100_000, 0, wall_s=77.0, cpu_s=0.32), 1000)

    assert each == pytest.approx((0.005, 0.0025, 0.00125))
    with pytest.raises(TierError):
        shares_of(1.0, 1.0, WrkResult(0, 0, 0), 1000)


def test_level_is_half_of_the_routers_core() -> None:
    """When worker and wrk keep up with it; the probe's requests are part of the load."""
    level = choose_level(Shares(router=0.0005, workers=0.0003, wrk=0.0002), workers=1, clients=1, apart=True)

    assert level == Level(1000 - 102, HALF_CORE)
    assert pytest.approx(102.4) == PROBE_CONNECTIONS


def test_level_is_what_the_shared_core_bears() -> None:
    """Worker and wrk on one core stay under 80 % of it together."""
    level = choose_level(Shares(router=0.0005, workers=0.0007, wrk=0.0003), workers=1, clients=1, apart=False)

    assert "share" in level.limit
    assert level.connections == 800 - 102


def test_level_is_what_one_side_bears() -> None:
    """wrk, the workers, and the number of streams that they take."""
    wrk = choose_level(Shares(0.0005, 0.0001, 0.0020), workers=3, clients=2, apart=True)
    worker = choose_level(Shares(0.0005, 0.0030, 0.0001), workers=3, clients=2, apart=True)
    streams = choose_level(Shares(1e-6, 1e-6, 1e-6), workers=1, clients=2, apart=True)
    nothing = choose_level(Shares(1.0, 0.1, 0.1), workers=1, clients=1, apart=False)

    assert ["wrk" in wrk.limit, "workers'" in worker.limit, "streams" in streams.limit] == [True] * 3
    assert [wrk.connections, worker.connections, streams.connections] == [600 - 102, 600 - 102, 2000 - 102]
    assert nothing.connections == 1


def test_probe_has_a_core_of_its_own() -> None:
    """Where the client has two or more; else it shares wrk's."""
    assert client_cores(share_out(plain(5))) == (frozenset({2, 3}), frozenset({4}))
    assert client_cores(share_out(plain(2))) == (frozenset({1}), frozenset({1}))


def test_lower_load_is_told() -> None:
    """With what allowed no more, where something did."""
    assert lower_load(0.47, Level(500, HALF_CORE)) == []
    (unexpected,), (limited,) = lower_load(0.40, Level(500, HALF_CORE)), lower_load(0.20, Level(500, "the other core"))
    assert (unexpected.code, limited.code) == ("LOWER_LOAD", "LOWER_LOAD")
    assert "less than expected" in unexpected.text
    assert "the other core allowed no more" in limited.text


def test_late_steps_of_the_workers_are_told() -> None:
    """By the median of what was seen without a router."""
    assert steps_late([10.5, 14.0, 30.0]) is None
    late = steps_late([16.0, 10.0, 30.0])
    assert late is not None
    assert (late.code, late.values["late_ms"]) == ("STEPS_LATE", 6.0)


def test_baseline_slower_than_the_tier_is_told() -> None:
    """Below zero there is only noise."""
    slower = baseline_slower(Row("latency.ttft", "added", "ms", [-2.0, -1.0, 4.0]))

    assert slower is not None
    assert slower.code == "BASELINE_SLOWER"
    assert baseline_slower(Row("latency.ttft", "added", "ms", [-2.0, 1.0, 4.0])) is None


def test_doubts_name_what_disturbed() -> None:
    """Each by its own threshold."""
    assert doubts("row", [CALM], 2) == []
    assert doubts("row", [CALM._replace(foreign_s=None)], 2) == []
    found = doubts("row", [CALM, CALM._replace(client_share=0.95, foreign_s=2.0, taken_s=0.5)], 2)
    assert [finding.code for finding in found] == ["CLIENT_SATURATED", "MACHINE_BUSY", "CPU_TAKEN_AWAY"]
    assert worker_saturated("row", 0.5) is None
    saturated = worker_saturated("row", 0.95)
    assert saturated is not None
    assert saturated.code == "WORKER_SATURATED"


def log_line(**fields: object) -> str:
    return json.dumps(
        {"level": "info", "event": "answer", "outcome": "ok", "first_token_ms": 1.0, "completion_tokens": 8} | fields
    )


def test_answers_are_read_from_a_routers_log() -> None:
    """Answers that wrk has cut off count, too; who got nothing waited all the time."""
    waits = [log_line(first_token_ms=float(number)) for number in range(1, 101)]
    cut = log_line(outcome="cancelled", first_token_ms=None, completion_tokens=3)

    answers = read_answers("\n".join(["not JSON at all", *waits, cut, '{"event": "ready"}']), 5.0)

    assert answers.tokens == 803
    assert answers.first_token_p99_ms == pytest.approx(float(np.percentile(range(1, 101), 99)))
    assert read_answers(cut, 5.0) == Answers(3, 5000.0)
    assert read_answers("", 5.0) == Answers(0, 5000.0)


def test_routers_get_cores_where_there_are_enough() -> None:
    """As many workers behind one as behind four."""
    plan = make_plan(plain(9))

    assert plan.share is None
    assert {routers: len(cores.routers) for routers, cores in plan.cores.items()} == {1: 1, 2: 2, 4: 4}
    assert {len(cores.workers) for cores in plan.cores.values()} == {4}
    assert all(cores.all_apart for cores in plan.cores.values())


def test_routers_get_slices_of_a_core_where_there_are_few() -> None:
    """All of them of the first one, however many they are, and together less than all of it."""
    plan = make_plan(plain(2))

    assert plan.share is not None
    assert 4 * plan.share < 0.8
    assert {routers: cores.routers for routers, cores in plan.cores.items()} == {n: sets(0) * n for n in (1, 2, 4)}
    assert all(cores.workers == sets(1) and cores.client == {1} for cores in plan.cores.values())


def test_evenness_of_routers() -> None:
    """Fewest by most tokens, longest by shortest wait."""
    run = Run(1e5, 8.0, [Answers(400, 40.0), Answers(800, 80.0), Answers(600, 20.0)], [1.0, 1.0, 1.0], 0.5, CALM)

    assert (run.evenness, run.wait_ratio) == (0.5, 4.0)


def test_requests_are_counted_from_metrics() -> None:
    """Of all kinds and outcomes; nothing else of the name."""
    text = (
        "# TYPE qwenserve_requests_total counter\n"
        'qwenserve_requests_total{kind="chat",outcome="ok"} 40.0\n'
        'qwenserve_requests_total{kind="chat",outcome="cancelled"} 2.0\n'
        "# TYPE qwenserve_requests_created gauge\n"
        'qwenserve_requests_created{kind="chat",outcome="ok"} 1.7e9\n'
    )

    assert count_requests(text) == 42
    assert count_requests("") == 0


def test_the_token_cache_is_read_from_metrics() -> None:
    text = "# TYPE qwenserve_token_cache_bytes gauge\nqwenserve_token_cache_bytes 660.0\n"

    assert cache_bytes(text) == 660


def test_memory_growth_is_a_slope_over_the_second_half() -> None:
    """Caches that fill at the beginning are no growth."""
    filling = [(1, 50.0), (2, 90.0), (3, 100.0), (4, 100.0), (5, 100.0), (6, 100.0)]

    assert growth_per_million(filling) == pytest.approx(0.0, abs=1e-6)
    assert growth_per_million([(n, 2.0 * n) for n in range(1, 9)]) == pytest.approx(2e6)
    assert growth_per_million([]) is None
    assert growth_per_million([(1, 1.0), (2, 1.0)]) is None


@pytest.mark.parametrize(
    ("configured", "build"),
    [
        ("'--enable-optimizations' '--with-lto' '--prefix=/usr/local'", "optimized"),
        ("'--enable-shared' '--prefix=/usr' '--with-dtrace'", "distribution"),
        ("'--prefix=/usr/local/python'", "plain"),
        ("", "plain"),
    ],
)
def test_build_of_an_interpreter(configured: str, build: str) -> None:
    """By what configure was given; only a build without a profile is a reason for doubt."""
    assert python_build(configured) == build
    finding = slow_interpreter({"python": "3.12.1", "python_build": build})
    assert (finding is not None) is (build == "plain")
    assert finding is None or finding.code == "SLOW_INTERPRETER"


def test_what_the_workers_side_printed_is_read() -> None:
    """One line among others; streams share a step's CPU, and what belongs to the measurement is not foreign."""
    printed = Measured(100, 128, 50, 0.064, 0.1, 0.5, 1.0, 0.7, 0.25)

    found = read_measured(f"I1121 fork\n{printed.line()}\nEND\n")

    assert found == printed
    assert (found.us_per_step, found.us_per_token) == pytest.approx((640.0, 5.0))
    assert found.surroundings == pytest.approx((1.0, 0.1, 0.036, 0.25))
    assert found._replace(busy_s=None).surroundings.foreign_s is None
