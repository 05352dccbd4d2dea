"""Datasets: exact lengths, seeds, files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwenserve.bench.datasets.jsonl import read_jobs, write_jobs
from qwenserve.bench.datasets.lengths import Lengths
from qwenserve.bench.datasets.made import Form, Shape, multi_turn_jobs, random_jobs, shared_prefix_jobs
from qwenserve.bench.datasets.vocabulary import CANDIDATES, Vocabulary, ask
from qwenserve.bench.samples import ChatMessage, Sample, repeated_prompts
from qwenserve.bench.tier.whole import shared_turns

WORDS = Vocabulary(range(100, 160), CANDIDATES[:60])


def shape(form: Form, prompt: str = "20", output: str = "8", seed: int = 1) -> Shape:
    return Shape(Lengths.parse(prompt), Lengths.parse(output), form, seed)


@pytest.mark.parametrize("form", ["ids", "text", "chat"])
def test_random_prompts_have_the_length_asked_for(form: Form) -> None:
    """The same seed gives the same prompts, another seed others, and none repeats."""
    jobs = random_jobs(50, shape(form), WORDS)

    assert jobs == random_jobs(50, shape(form), WORDS)
    assert jobs != random_jobs(50, shape(form, seed=2), WORDS)
    assert repeated_prompts(jobs) == 0
    for (sample,) in jobs:
        words = sample.text or "".join(message.content for message in sample.messages)
        assert len(sample.token_ids or words.split()) == 20
        assert (sample.max_tokens, sample.expected_prompt_tokens) == (8, 20)


def test_lengths() -> None:
    """Normal and uniform lengths are drawn around what was asked, and are at least 1."""
    normal = [len(job[0].token_ids) for job in random_jobs(2000, shape("ids", "normal:50:10"), WORDS)]
    uniform = [len(job[0].token_ids) for job in random_jobs(2000, shape("ids", "uniform:5:9"), WORDS)]
    tiny = [job[0].max_tokens for job in random_jobs(200, shape("ids", output="normal:1:5"), WORDS)]

    assert sum(normal) / len(normal) == pytest.approx(50, abs=1)
    assert set(uniform) == {5, 6, 7, 8, 9}
    assert min(tiny) == 1
    assert [str(Lengths.parse(text)) for text in ("7", "normal:50:10")] == ["7", "normal:50:10"]


@pytest.mark.parametrize("text", ["", "0", "-3", "normal:5", "uniform:9:5", "normal:5:-1", "gauss:1:2", "a"])
def test_bad_lengths_are_named(text: str) -> None:
    """A typing mistake says what is expected."""
    with pytest.raises(ValueError, match="length"):
        Lengths.parse(text)


def test_shared_prefixes() -> None:
    """Requests of one group share exactly the prefix; groups take turns."""
    jobs = shared_prefix_jobs(12, shape("ids"), WORDS, prefix=Lengths("fixed", 30), groups=3)
    ids = [job[0].token_ids for job in jobs]

    assert len({one[:30] for one in ids}) == 3
    assert ids[0][:30] == ids[3][:30] != ids[1][:30]
    assert len(set(ids)) == 12
    assert all(len(one) == 50 for one in ids)


def test_conversations() -> None:
    """A job is one conversation; each turn adds what the user says."""
    jobs = multi_turn_jobs(3, shape("chat"), WORDS, turns=4)

    assert [len(job) for job in jobs] == [4, 4, 4]
    assert all(sample.messages[0].role == "user" for job in jobs for sample in job)
    with pytest.raises(ValueError, match="chat"):
        multi_turn_jobs(1, shape("ids"), WORDS, turns=2)


def test_long_chats_differ_in_their_last_turn_only() -> None:
    """8,000 tokens: the two first messages are equal, the last never."""
    samples = [job[0] for job in shared_turns(4, WORDS, seed=1)]

    assert len({sample.messages[:2] for sample in samples}) == 1
    assert len({sample.messages[2] for sample in samples}) == 4
    assert sum(len(message.content.split()) for message in samples[0].messages) == 8000


async def test_words_are_asked_of_the_tokenizer() -> None:
    """Only words of one token are taken; tokens that depend on neighbours are refused."""

    async def tokenize(text: str) -> Sequence[int]:
        # Words with an "e" are two tokens.
        return [zlib.crc32(word.encode()) for word in text.split() for _ in range(2 if "e" in word else 1)]

    async def merging(text: str) -> Sequence[int]:
        return [1] * max(1, len(text.split()) // 2)

    async def letters(text: str) -> Sequence[int]:
        return list(range(len(text)))

    vocabulary = await ask(tokenize)

    assert not any("e" in word for word in vocabulary.words)
    assert vocabulary.to_text([0, 1]) == f" {vocabulary.words[0]} {vocabulary.words[1]}"
    for bad in (merging, letters):
        with pytest.raises(ValueError, match="send ids"):
            await ask(bad)


def test_ranges_of_ids() -> None:
    """Both ends are included; a wrong range is named; ids alone make no text."""
    vocabulary = Vocabulary.from_range("5:7")

    assert vocabulary.to_ids([0, 1, 2]) == (5, 6, 7)
    for text in ("7:5", "a:b", "5", "-2:4"):
        with pytest.raises(ValueError, match="LEAST:MOST"):
            Vocabulary.from_range(text)
    with pytest.raises(ValueError, match="tokenize"):
        vocabulary.to_text([0])


def test_files_round_trip(tmp_path: Path) -> None:
    """What is written is read back, conversations too."""
    file = tmp_path / "data.jsonl"
    jobs = [
        *random_jobs(2, shape("ids"), WORDS),
        *random_jobs(2, shape("text"), WORDS),
        *multi_turn_jobs(2, shape("chat"), WORDS, turns=3),
        (Sample(3, messages=(ChatMessage("system", "s"), ChatMessage("user", "你好"))),),
    ]

    assert write_jobs(file, jobs) == 7
    assert read_jobs(file, default_output=1) == jobs
    assert len(read_jobs(file, default_output=1, limit=3)) == 3


def test_files_of_other_tools(tmp_path: Path) -> None:
    """Token ids and limits are found under the names that others use."""
    file = tmp_path / "data.jsonl"
    file.write_text('{"task_id": 0, "input_ids": [1, 2], "output_tokens": 9}\n\n{"prompt": "x"}\n', encoding="utf-8")

    first, second = read_jobs(file, default_output=5)

    assert (first[0].token_ids, first[0].max_tokens) == ((1, 2), 9)
    assert (second[0].text, second[0].max_tokens) == ("x", 5)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"messages": [{"role": "user"}]}', '{"prompt": ""}', '{"prompt_token_ids": ["a"]}']
)
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    """The message has file and line."""
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n", encoding="utf-8")

    with pytest.raises(ValueError, match="line 2"):
        read_jobs(file, default_output=5)


def test_samples_have_one_prompt() -> None:
    """Neither none nor two."""
    for arguments in ({}, {"text": "a", "token_ids": (1,)}):
        with pytest.raises(ValueError, match="exactly one"):
            Sample(1, **arguments)  # type: ignore[arg-type]
