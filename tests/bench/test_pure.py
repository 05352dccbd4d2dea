"""Schedules, figures, knees: the decisions without I/O."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwenserve.bench.measures import Slo, distribution, measure, peak_concurrency, spread
from qwenserve.bench.meter import parse_machine_times, parse_throttled
from qwenserve.bench.record import Record
from qwenserve.bench.schedule import Arrivals, arrival_times, rate_at, slot_starts
from qwenserve.bench.sweep import Point, knee, next_concurrency, stopped_rising
from qwenserve.bench.tier.burden import TierError
from qwenserve.bench.tier.table import Row, ratio_row
from qwenserve.bench.tier.wrk import WrkResult, parse


def record(
    *, sent: float = 0.0, stamps: tuple[float, ...] = (), tokens: int = 0, error: str = "", ended: float | None = None
) -> Record:
    made = Record(0, asked_tokens=tokens or len(stamps))
    made.sent = made.scheduled = sent
    for stamp in stamps:
        made.arrived(stamp, 1)
    made.completion_tokens = tokens or len(stamps)
    made.prompt_tokens = 10
    made.cached_tokens = 4
    made.error = error
    made.ended = ended if ended is not None else (stamps[-1] if stamps else sent)
    return made


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, math.inf])
def test_arrivals_offer_the_rate(burstiness: float) -> None:
    """Whatever the burstiness, n requests take n / rate seconds, and the same seed gives the same times."""
    arrivals = Arrivals(50.0, burstiness)
    times = arrival_times(1000, arrivals, seed=3)

    assert times == arrival_times(1000, arrivals, seed=3)
    assert times[0] == 0.0
    assert sorted(times) == list(times)
    assert times[-1] == pytest.approx(20.0, rel=0.05)


def test_burstiness_is_the_spread_of_the_gaps() -> None:
    """A gamma distribution of shape k has a variation of 1 / √k."""
    for shape in (0.25, 1.0, 4.0):
        gaps = np.diff(arrival_times(20_000, Arrivals(1.0, shape), seed=1))

        assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(shape), rel=0.05)


def test_infinite_rate_sends_at_once() -> None:
    """Without a rate there is no schedule."""
    assert list(arrival_times(2, Arrivals(), seed=0)) == [0.0, 0.0]


def test_ramp() -> None:
    """The rate moves from its start to its end."""
    linear = Arrivals(10.0, final_rate=30.0)

    assert [rate_at(share, linear) for share in (0.0, 0.5, 1.0)] == [10.0, 20.0, 30.0]
    assert pytest.approx(rate_at(0.5, Arrivals(10.0, final_rate=40.0, ramp="exponential"))) == 20.0
    gaps = np.diff(arrival_times(100, Arrivals(10.0, math.inf, 30.0), seed=0))
    assert gaps[0] / gaps[-1] == pytest.approx(3.0, rel=0.05)
    assert list(slot_starts(4, 10.0)) == [0.0, 2.5, 5.0, 7.5]


@pytest.mark.parametrize(
    "arrivals", [Arrivals(0.0), Arrivals(1.0, 0.0), Arrivals(1.0, final_rate=-1.0), Arrivals(math.inf, final_rate=2.0)]
)
def test_impossible_schedules_are_refused(arrivals: Arrivals) -> None:
    """The message names what is wrong."""
    with pytest.raises(ValueError, match=r"must be|needs"):
        arrival_times(3, arrivals, seed=0)


def test_distribution_interpolates() -> None:
    """Percentiles lie between neighbours; no values give zeros and n 0."""
    found = distribution([1.0, 2.0, 3.0, 4.0], 10.0)

    assert (found.n, found.mean, found.p50, found.least, found.most) == (4, 25.0, 25.0, 10.0, 40.0)
    assert found.p90 == pytest.approx(37.0)
    assert distribution([]).n == 0
    assert spread([9.0, 1.0, 2.0]) == (2.0, 1.0, 9.0)


def test_figures_of_a_run() -> None:
    """TTFT from the send, TPOT by tokens, ITL by events, throughput over first send to last end."""
    figures = measure(
        [
            record(sent=1.0, stamps=(1.1, 1.2, 1.3)),
            record(sent=2.0, stamps=(2.3, 2.7), tokens=5, ended=3.0),
            record(sent=2.0, error="HTTP 429 busy"),
            record(sent=2.0, error="HTTP 429 busy"),
            record(sent=2.0, error="timeout"),
        ]
    )

    assert (
        figures.sent,
        figures.succeeded,
        figures.failed,
        figures.output_tokens,
        figures.events,
    ) == (5, 2, 3, 8, 5)
    assert figures.errors == {"HTTP 429 busy": 2, "timeout": 1}
    assert figures.duration_s == pytest.approx(2.0)
    assert figures.output_tokens_per_s == pytest.approx(4.0)
    assert figures.ttft_ms.mean == pytest.approx(200.0)
    assert figures.tpot_ms.mean == pytest.approx(100.0)
    assert figures.itl_ms.n == 3
    assert figures.itl_ms.most == pytest.approx(400.0)
    assert figures.cached_tokens == 8
    assert figures.goodput_per_s is None


def test_goodput_counts_requests_that_keep_every_limit() -> None:
    """Failed requests are not good; a limit on a figure that a request lacks is kept."""
    records = [
        record(sent=1.0, stamps=(1.1, 1.2)),
        record(sent=1.0, stamps=(1.3, 1.4)),
        record(sent=1.0, stamps=(1.1,), ended=3.0),
        record(sent=1.0, error="timeout", ended=2.0),
    ]

    figures = measure(records, Slo.parse(["ttft:200", "tpot:150"]))

    assert figures.goodput_per_s == pytest.approx(1.0)
    assert figures.good_share == 0.5


@pytest.mark.parametrize("part", ["ttft", "ttft:", "itl:3", "ttft:fast"])
def test_bad_slo_names_the_part(part: str) -> None:
    """A typing mistake is shown."""
    with pytest.raises(ValueError, match=part.split(":")[0]):
        Slo.parse([part])


def test_events_read_together_are_zero_apart() -> None:
    """The mean gap stays the time by the number of gaps."""
    one = Record(0, asked_tokens=4)
    one.arrived(1.0, 1)
    one.arrived(2.0, 3)

    assert list(one.gaps()) == [1.0, 0.0, 0.0]
    one.drop_last_events(2)
    assert (one.events, list(one.gaps())) == (2, [1.0])
    one.drop_last_events(5)
    assert one.events == 0


def test_peak_concurrency() -> None:
    """A request that ends as another starts does not run beside it."""
    spans = [record(sent=1.0, ended=3.0), record(sent=2.0, ended=4.0), record(sent=4.0, ended=5.0)]

    assert peak_concurrency(spans) == 2


def at(concurrency: int, throughput: float, latency: float) -> Point:
    return Point(concurrency, throughput, 0.0, 0.0, 0.0, latency, 0.0)


@pytest.mark.parametrize(
    ("points", "position"),
    [
        ([], None),
        ([at(1, 100, 10)], 0),
        ([at(1, 100, 10), at(2, 200, 10), at(4, 390, 11), at(8, 420, 20), at(16, 425, 40)], 2),
        ([at(1, 100, 10), at(2, 100, 20)], 0),
    ],
)
def test_knee(points: list[Point], position: int | None) -> None:
    """The knee is where throughput by latency is greatest."""
    assert position == knee(points)


@pytest.mark.parametrize(
    ("throughputs", "stopped"),
    [
        ([], False),
        ([100, 101], False),
        ([100, 200, 400], False),
        ([100, 200, 202, 203], True),
        ([100, 200, 150, 260], False),
        ([100, 90, 80], True),
    ],
)
def test_sweep_ends_after_two_flat_steps(throughputs: list[float], stopped: bool) -> None:
    """One flat step may be noise."""
    assert stopped is stopped_rising(throughputs)


def test_concurrency_always_rises() -> None:
    """A small factor does not stand still."""
    assert [next_concurrency(1, 1.1), next_concurrency(1, 2.0), next_concurrency(8, 1.5)] == [2, 2, 12]


def test_machine_counters() -> None:
    """Guest time is part of user time; both versions of control groups are read."""
    stat = "cpu  100 10 50 1000 5 3 2 40 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"

    assert parse_machine_times(stat, 100) == (1.65, 0.4)
    assert parse_throttled("usage_usec 5\nnr_throttled 1\nthrottled_usec 1500000\n") == 1.5
    assert parse_throttled("nr_throttled 1\nthrottled_time 2000000000\n") == 2.0
    assert parse_throttled("usage_usec 5\n") is None


def test_tier_rows() -> None:
    """A goal is met by the median; ratios are paired by repetition."""
    assert Row("k", "w", "µs", [1.0, 9.0, 2.0], 2.0).met is True
    assert Row("k", "w", "µs", [3.0], 2.0).met is False
    assert Row("k", "w", "1/s", [3.0], 2.0, at_least=True).met is True
    assert Row("k", "w", "µs", [3.0]).met is None
    assert list(ratio_row("k", "w", [2.0, 30.0], [1.0, 10.0], goal=None).values) == [2.0, 3.0]


def test_result_of_wrk() -> None:
    """The script's line is found among wrk's own."""
    output = "Running 2s test\n  1 threads\nRESULT 12 3400 1\nRequests/sec: 6\n"

    assert parse(output) == WrkResult(answers=12, received=3400, errors=1)
    with pytest.raises(TierError, match="no result"):
        parse("unable to connect")
