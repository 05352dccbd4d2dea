"""Comparing two models: the numbers themselves, thresholds, workers through their protocol, and the exit code."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenserve.cli.main import main
from qwenserve.worker.model_check import FILE, store, stored
from qwenserve.worker.prepare.ask_worker import measure_worker
from qwenserve.worker.prepare.compare import (
    TOP,
    CannotCheck,
    Measured,
    Position,
    Spoken,
    Thresholds,
    compare,
    divergence,
    facts,
    table,
)
from qwenserve.worker.prepare.texts import Text
from tests.worker.running import running

TINY = Path(__file__).parents[3] / "models" / "qwen3-tiny"


def position(*probabilities: float, given_id: int = 0) -> Position:
    """A model over as many ids as there are probabilities."""
    ranked = sorted(((i, math.log(p)) for i, p in enumerate(probabilities)), key=lambda pair: -pair[1])
    return Position(math.log(probabilities[given_id]), tuple(ranked))


def measured(*positions: Position, greedy: tuple[int, ...] = (), seconds: float = 0.0) -> Measured:
    return Measured("m", [Spoken(positions, greedy)], seconds, 100)


def test_equal_models_do_not_differ():
    one = measured(position(0.5, 0.3, 0.2), position(0.1, 0.9), greedy=(1, 2), seconds=0.5)

    found = compare(one, one)

    assert (found.top1_agreement, found.mean_kl, found.greedy_agreement, found.greedy_equal) == (1, 0, 1, 1)
    assert found.tokens_per_second_a == 4
    assert Thresholds().missed(found) == []
    assert facts(found, Thresholds())["passed"]


def test_the_numbers_are_the_textbooks():
    """Two positions worked out by hand: one agrees in its likeliest id, one does not."""
    a = measured(position(0.5, 0.3, 0.2), position(0.25, 0.75), greedy=(1, 2, 3, 4))
    b = measured(position(0.6, 0.3, 0.1), position(0.75, 0.25), greedy=(1, 2, 9, 4))

    found = compare(a, b)

    first = 0.5 * math.log(0.5 / 0.6) + 0.2 * math.log(0.2 / 0.1)
    second = 0.25 * math.log(0.25 / 0.75) + 0.75 * math.log(0.75 / 0.25)
    assert found.mean_kl == pytest.approx((first + second) / 2)
    assert found.top1_agreement == 0.5
    assert found.perplexity_a == pytest.approx(math.sqrt(1 / (0.5 * 0.25)))
    assert found.perplexity_b == pytest.approx(math.sqrt(1 / (0.6 * 0.75)))
    assert (found.greedy_agreement, found.greedy_equal) == (0.5, 0)
    missed = Thresholds(min_top1=0.9, max_kl=0.1, max_perplexity_ratio=0.5).missed(found)
    assert [line.split()[0] for line in missed] == ["top-1", "mean", "perplexity"]
    assert "50.00%" in table(found)


def test_ids_that_are_equally_likely_agree():
    """Which of two equal ids comes first is chance."""
    a, b = position(0.4, 0.4, 0.2), position(0.4, 0.4, 0.2)
    turned = b._replace(top=(b.top[1], b.top[0], b.top[2]))

    assert compare(measured(a), measured(turned)).top1_agreement == 1


DISTRIBUTIONS = st.lists(st.floats(0.01, 1), min_size=30, max_size=30)


@given(DISTRIBUTIONS, DISTRIBUTIONS)
def test_the_divergence_is_a_lower_bound(one: list[float], other: list[float]):
    """Over the 20 likeliest of 30 ids it is never negative and never above that over all."""
    a, b = ([value / sum(values) for value in values] for values in (one, other))
    whole = sum(p * math.log(p / q) for p, q in zip(a, b, strict=True))

    found = divergence(position(*a).top[:TOP], position(*b).top[:TOP])

    assert -1e-9 <= found <= whole + 1e-9


def test_texts_of_different_length_are_not_compared():
    with pytest.raises(CannotCheck, match="1 and 2 positions"):
        compare(measured(position(1.0)), measured(position(1.0), position(1.0)))


async def test_running_workers_are_asked_through_their_protocol():
    """All places of a prompt, with 20 alternatives each, and the greedy ids after it."""
    texts = [Text(tuple(range(10, 60)), 40), Text((5, 6, 7), 3)]
    async with running() as one, running() as other:
        a = await measure_worker(f"127.0.0.1:{one.port}", texts, 8)
        b = await measure_worker(f"127.0.0.1:{other.port}", texts, 8)

    assert [len(text.positions) for text in a.spoken] == [49, 2]
    assert [len(text.greedy) for text in a.spoken] == [8, 8]
    assert {len(place.top) for text in a.spoken for place in text.positions} == {TOP}
    assert compare(a, b).positions == 51
    assert compare(a, a).top1_agreement == 1


async def test_a_worker_that_cannot_be_asked_says_why():
    """Ids beyond its vocabulary, a text beyond its window, and nobody there."""
    async with running() as worker:
        address = f"127.0.0.1:{worker.port}"
        with pytest.raises(CannotCheck, match="another model's tokenizer"):
            await measure_worker(address, [Text((1, 2**30), 2)], 1)
        with pytest.raises(CannotCheck, match=r"exceed its window of .* lower --max-tokens"):
            await measure_worker(address, [Text((1, 2), 2)], 2**30)
    with pytest.raises(CannotCheck, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
        await measure_worker(address, [Text((1, 2), 2)], 1, info_limit_s=0.5)


async def test_the_command_compares_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Exit code 0 within the thresholds, 3 beyond them, 1 where nothing could be compared."""
    async with running() as one:
        address = f"127.0.0.1:{one.port}"
        arguments = ["engine", "check", address, address, "--tokenizer", str(TINY), "--limit", "2", "--greedy", "2"]

        assert await asyncio.to_thread(main, [*arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["texts"], told["top1_agreement"], told["passed"]) == (2, 1, True)

        assert await asyncio.to_thread(main, [*arguments, "--min-top1", "1.5"]) == 3
        assert "missed: top-1 1.0000 < 1.5" in capsys.readouterr().err

        assert await asyncio.to_thread(main, arguments[:4]) == 1
        assert "--tokenizer DIR" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["engine", "check", "nowhere", address]) == 1
    assert "nowhere is neither a directory nor HOST:PORT" in capsys.readouterr().err


def test_what_was_found_is_of_these_files_only(tmp_path: Path):
    """Stored beside the weights; after a change of the weights it is not told any more."""
    from qwenserve.runtime.model_fingerprint import fingerprint_of

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    store(tmp_path, {"top1_agreement": 0.5})

    assert stored(tmp_path, str(fingerprint_of(tmp_path))) is not None
    weights.write_bytes(b"2")
    assert stored(tmp_path, str(fingerprint_of(tmp_path))) is None
    (tmp_path / FILE).write_text("[")
    assert stored(tmp_path, "") is None
