"""Every reason for doubt is found where it is, and not where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from qwenserve.bench.compare import compare, doubts
from qwenserve.bench.document import SCHEMA, Measured, make_document, merge_findings
from qwenserve.bench.findings import Intent, examine
from qwenserve.bench.measures import Slo, measure
from qwenserve.bench.meter import Usage
from qwenserve.bench.record import Record
from qwenserve.bench.tier.burden import Burden, disturbances

CALM = Usage(10.0, 1.0, 0.1, 0.1, 0.5, 1.0, 0.0, 0.0, 3.0)
PLAIN = Intent(open_loop=False, concurrency=4, repeated_prompts=0, expects_cache=False, exact_lengths=True)


def records(count: int = 40, **changes: Any) -> list[Record]:
    """Returns requests that leave nothing to doubt, with `changes` on the first of them."""
    made = []
    for number in range(count):
        record = Record(number, asked_tokens=10, expected_prompt_tokens=20)
        record.scheduled = record.sent = 1.0 + number
        for token in range(10):
            record.arrived(record.sent + 0.1 * (token + 1), 1)
        record.ended = record.sent + 1.1
        record.prompt_tokens, record.completion_tokens, record.cached_tokens = 20, 10, 0
        made.append(record)
    for name, value in changes.items():
        setattr(made[0], name, value)
    return made


def codes(made: list[Record], usage: Usage = CALM, intent: Intent = PLAIN) -> set[str]:
    return {finding.code for finding in examine(measure(made), made, usage, intent)}


def test_a_clean_run_has_no_findings() -> None:
    """Otherwise --strict would be of no use."""
    assert codes(records()) == set()
    assert codes(records(), intent=PLAIN._replace(open_loop=True, concurrency=None)) == set()


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("UNEQUAL_OUTPUT_LENGTHS", {"completion_tokens": 9}),
        ("NO_TOKEN_COUNTS", {"completion_tokens": 0}),
        ("WARM_CACHE", {"cached_tokens": 16}),
        ("PROMPT_LENGTHS_OFF", {"prompt_tokens": 21}),
        ("FAILED_REQUESTS", {"error": "timeout"}),
        ("SERVER_THROTTLES", {"error": "HTTP 429 busy"}),
        ("SERVER_THROTTLES", {"error": "RESOURCE_EXHAUSTED QUEUE_FULL"}),
        ("MERGED_EVENTS", {"completion_tokens": 100, "asked_tokens": 100}),
    ],
)
def test_what_one_request_gives_away(code: str, changes: dict[str, Any]) -> None:
    """A single odd request is enough to say so."""
    found = codes(records(**changes))

    assert code in found
    assert found <= {code, "FAILED_REQUESTS"}


@pytest.mark.parametrize(
    ("code", "usage"),
    [
        ("CLIENT_SATURATED", {"cpu_share": 0.85}),
        ("CLIENT_SATURATED", {"lag_p99_ms": 9.0}),
        ("CPU_TAKEN_AWAY", {"throttled_s": 0.2}),
        ("CPU_TAKEN_AWAY", {"steal_s": 0.5}),
    ],
)
def test_what_the_machine_gives_away(code: str, usage: dict[str, float]) -> None:
    """Saturation and throttling of the client itself."""
    assert codes(records(), CALM._replace(**usage)) == {code}


def test_unreadable_counters_make_no_findings() -> None:
    """Where the system tells nothing, nothing is claimed."""
    assert codes(records(), CALM._replace(throttled_s=None, steal_s=None, machine_busy_s=None)) == set()


def test_intent_decides() -> None:
    """A shared prefix is meant to be cached; repeated prompts and late sends are told; free lengths may differ."""
    assert codes(records(cached_tokens=20), intent=PLAIN._replace(expects_cache=True)) == set()
    assert codes(records(), intent=PLAIN._replace(repeated_prompts=3)) == {"REPEATED_PROMPTS"}
    assert codes(records(completion_tokens=9), intent=PLAIN._replace(exact_lengths=False)) == set()
    late = records()
    for record in late:
        record.scheduled -= 0.05
    assert codes(late) == set()
    assert codes(late, intent=PLAIN._replace(open_loop=True, concurrency=2)) == {"LATE_SENDS", "CONCURRENCY_LIMITED"}


def test_few_requests() -> None:
    """Percentiles of ten requests are none."""
    assert codes(records(10)) == {"FEW_REQUESTS"}


def test_busy_machine_is_told_for_a_row() -> None:
    """CPU of other programs, and a client without CPU to spare."""
    figures = measure(records())
    calm = Burden((1.0,), figures, CALM, 0.2)

    assert disturbances("row", [calm], 2) == []
    busy = disturbances("row", [calm, calm._replace(foreign_s=3.0, usage=CALM._replace(cpu_share=0.95))], 2)
    assert [finding.code for finding in busy] == ["CLIENT_SATURATED", "MACHINE_BUSY"]
    assert calm.us_per_event == pytest.approx(2500.0)
    assert calm.ms_per_request == pytest.approx(25.0)


def document(made: list[Record], runs: int = 3, **parameters: Any) -> dict[str, Any]:
    figures = measure(made, Slo(ttft_ms=500.0))
    run = Measured(figures, CALM, examine(figures, made, CALM, PLAIN), made)
    return make_document("serve", "how", parameters, [run] * runs, with_requests=True)


def test_document_form_is_stable() -> None:
    """Readers rely on these names; they are only ever added to."""
    made = document(records())

    assert made["schema"] == SCHEMA == "qwenserve.bench/1"
    assert list(made) == [
        "schema",
        "kind",
        "created",
        "method",
        "parameters",
        "machine",
        "versions",
        "summary",
        "findings",
        "runs",
    ]
    assert list(made["runs"][0]) == ["figures", "client", "findings", "requests"]
    assert list(made["runs"][0]["figures"]) == [
        "duration_s",
        "sent",
        "succeeded",
        "failed",
        "errors",
        "requests_per_s",
        "output_tokens_per_s",
        "prompt_tokens_per_s",
        "prompt_tokens",
        "output_tokens",
        "events",
        "cached_tokens",
        "ttft_ms",
        "tpot_ms",
        "itl_ms",
        "e2e_ms",
        "lateness_ms",
        "output_length",
        "goodput_per_s",
        "good_share",
        "peak_concurrency",
    ]
    assert list(made["runs"][0]["figures"]["ttft_ms"]) == ["n", "mean", "p50", "p90", "p99", "least", "most"]
    assert list(made["runs"][0]["requests"][0]) == [
        "index",
        "lateness_ms",
        "ttft_ms",
        "tpot_ms",
        "e2e_ms",
        "prompt_tokens",
        "output_tokens",
        "cached_tokens",
        "events",
        "finish_reason",
        "error",
    ]
    assert made["summary"]["ttft_ms.p50"] == pytest.approx({"median": 100.0, "least": 100.0, "most": 100.0})


def test_findings_of_several_runs_are_told_once() -> None:
    """With the number of runs that have them."""
    clean, late = records(), records(cached_tokens=16)
    runs = [Measured(measure(made), CALM, examine(measure(made), made, CALM, PLAIN)) for made in (clean, late, late)]

    (finding,) = merge_findings(runs)

    assert finding.code == "WARM_CACHE"
    assert finding.text.startswith("in 2 of 3 runs")


def test_comparison() -> None:
    """Better and worse follow the figure's direction; inside the ranges there is no verdict."""
    slow = records()
    for record in slow:
        record.ended += 1.0
    a, b = document(records(), api="chat"), document(slow, api="chat")
    rows = {row.name: row for row in compare(a, b)}

    assert rows["e2e_ms.p50"].better is False
    assert rows["e2e_ms.p50"].change == pytest.approx(1.0 / 1.1)
    assert rows["ttft_ms.p50"].better is None
    assert {row.better for row in compare(b, a) if row.name == "e2e_ms.p50"} == {True}
    assert doubts(a, b) == []


def test_comparison_doubts() -> None:
    """Different experiments, machines, lengths, too few runs, and what was doubtful before."""
    short = records()
    for record in short:
        record.completion_tokens = 8
    a, b = document(records(), api="chat"), document(short, 1, api="completions")
    b["machine"] = {**b["machine"], "cores": -1}

    found = [finding.code for finding in doubts(a, b)]

    assert found == [
        "DIFFERENT_EXPERIMENTS",
        "DIFFERENT_MACHINES",
        "UNEQUAL_OUTPUT_LENGTHS",
        "FEW_RUNS",
        "UNEQUAL_OUTPUT_LENGTHS",
    ]
