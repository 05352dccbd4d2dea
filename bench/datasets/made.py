"""Datasets made here, from a seed: random, shared prefix, multi-turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from qwenserve.bench.datasets.lengths import Lengths
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.samples import ChatMessage, Job, Sample

Form = Literal["ids", "text", "chat"]


class Shape(NamedTuple):
    """What to make. `prompt` and `output` are lengths in tokens; `form` is how prompts are written."""

    prompt: Lengths
    output: Lengths
    form: Form
    seed: int = 0


def random_jobs(count: int, shape: Shape, vocabulary: Vocabulary) -> list[Job]:
    """Returns `count` unrelated prompts."""
    random = np.random.default_rng(shape.seed)
    prompts = shape.prompt.draw(count, random)
    outputs = shape.output.draw(count, random)
    return [
        (_sample(vocabulary.draw(length, random), output, shape.form, vocabulary),)
        for length, output in zip(prompts, outputs, strict=True)
    ]


def shared_prefix_jobs(count: int, shape: Shape, vocabulary: Vocabulary, *, prefix: Lengths, groups: int) -> list[Job]:
    """Returns `count` prompts in `groups`, in turn: a group's prefix, then `shape.prompt` tokens of their own."""
    if groups < 1:
        raise ValueError(f"{groups} groups; there must be 1 or more")
    random = np.random.default_rng(shape.seed)
    prefixes = [vocabulary.draw(length, random) for length in prefix.draw(groups, random)]
    suffixes = shape.prompt.draw(count, random)
    outputs = shape.output.draw(count, random)
    return [
        (_sample([*prefixes[i % groups], *vocabulary.draw(suffixes[i], random)], outputs[i], shape.form, vocabulary),)
        for i in range(count)
    ]


def multi_turn_jobs(count: int, shape: Shape, vocabulary: Vocabulary, *, turns: int) -> list[Job]:
    """Returns `count` conversations of `turns` turns; the user says `shape.prompt` tokens in each."""
    if shape.form != "chat":
        raise ValueError("conversations need the chat endpoint")
    if turns < 1:
        raise ValueError(f"{turns} turns; there must be 1 or more")
    random = np.random.default_rng(shape.seed)
    jobs: list[Job] = []
    for _ in range(count):
        lengths, outputs = shape.prompt.draw(turns, random), shape.output.draw(turns, random)
        jobs.append(
            tuple(
                _sample(vocabulary.draw(length, random), output, "chat", vocabulary)
                for length, output in zip(lengths, outputs, strict=True)
            )
        )
    return jobs


def _sample(positions: Sequence[int], output: int, form: Form, vocabulary: Vocabulary) -> Sample:
    length = len(positions)
    if form == "ids":
        return Sample(output, token_ids=vocabulary.to_ids(positions), expected_prompt_tokens=length)
    text = vocabulary.to_text(positions)
    if form == "text":
        return Sample(output, text=text, expected_prompt_tokens=length)
    return Sample(output, messages=(ChatMessage("user", text),), expected_prompt_tokens=length)
