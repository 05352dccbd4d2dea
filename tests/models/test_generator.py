"""The generated conversations are seeded, render as the template does, and keep what is held out to themselves."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.train_qwen3_tiny import sums, systems, words
from models.train_qwen3_tiny.chat import Thinking, messages, prompt_and_reply
from models.train_qwen3_tiny.families import FAMILIES, HELD_OUT_FAMILIES, TRAINED_FAMILIES
from models.train_qwen3_tiny.invented_tools import all_texts
from models.train_qwen3_tiny.mixture import conversation, exchange, plan
from models.train_qwen3_tiny.new_words import about_something_else, tells
from models.train_qwen3_tiny.stream import block
from models.train_qwen3_tiny.tool_talk import request
from models.train_qwen3_tiny.wording import BEFORE, decorated
from qwenserve.text.chat_template import ChatTemplate
from tests.fixtures.full_tokenizer import FULL_TOKENIZER, TINY_MODEL, model_directories

PLAN = plan(longest=400)
PYTHON_TYPES = {
    "string": ["str"],
    "integer": ["int"],
    "number": ["int", "float"],
    "boolean": ["bool"],
    "array": ["list"],
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))


def test_the_same_seed_gives_the_same_tokens(tokenizer):
    first, second = (block(random.Random(5), tokenizer, PLAN, 40) for _ in range(2))

    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.weights, second.weights)
    assert not np.array_equal(first.ids, block(random.Random(6), tokenizer, PLAN, 40).ids)


@pytest.mark.parametrize("folder", model_directories(), ids=lambda folder: folder.name)
def test_prompts_are_what_the_template_renders(folder):
    """Ours, and the published one where it is there."""
    template = ChatTemplate((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    rng = random.Random(11)
    for _ in range(400):
        talked = conversation(rng, PLAN)
        options = {"enable_thinking": False} if talked.thinking is Thinking.DISABLED else {}
        tools = [dict(tool) for tool in talked.newest.tools]
        for step in range(len(talked.newest.steps)):
            rendered = template.render(messages(talked, step), tools or None, **options)

            assert rendered == prompt_and_reply(talked, step)[0]


def test_both_templates_are_compared_where_possible():
    assert (FULL_TOKENIZER in model_directories()) == (FULL_TOKENIZER / "tokenizer.json").is_file()


def test_training_never_asks_held_out_sums():
    rng = random.Random(3)
    asked = [sums.calculation(rng, False).steps[0].content for _ in range(2000)]
    for text in asked:
        found = re.fullmatch(r"(\d+) (.) (\d+) = -?\d+", text)
        assert found
        a, sign, b = found.groups()

        assert not sums.held_out_sum(int(a), int(b), sign)


def test_held_out_sums_are_a_tenth():
    held = sum(sums.held_out_sum(a, b, "+") for a in range(100) for b in range(100))

    assert 800 < held < 1200


def test_training_never_calls_for_held_out_towns_or_tools():
    rng = random.Random(4)
    towns = set(words.HELD_OUT_TOWNS + words.HELD_OUT_TOWNS_ZH)
    names = {name for key in HELD_OUT_FAMILIES for name in FAMILIES[key].names}
    for _ in range(3000):
        made = request(rng, False, chinese=rng.random() < 0.2)

        assert not towns & set(all_texts(made))
        assert made.call.name not in names


@pytest.mark.parametrize("key", TRAINED_FAMILIES)
def test_a_kind_about_something_else_can_be_told_by_its_new_words(key):
    family = FAMILIES[key]
    made = about_something_else(random.Random(6), family, ("avalanche", "violin"))
    if made is None:
        return
    other, new = made

    assert other.asks
    assert all(tells(ask, new) for ask in other.asks)
    assert all(tells(name, new) for name in other.names) or all(tells(text, new) for text in other.descriptions)
    slots = {slot for ask in other.asks for slot in re.findall(r"{(\w+)}", ask)}
    assert slots <= set(family.slots)
    assert other.slots is family.slots


def test_invented_words_are_trained_or_held_out_but_not_both():
    rng = random.Random(5)
    trained = {words.invented(rng, False) for _ in range(5000)}
    held = {words.invented(rng, True) for _ in range(2000)}

    assert not trained & held


def test_held_out_wordings_are_never_trained():
    rng = random.Random(6)
    trained = {exchange(rng, "identity", False).question for _ in range(20000)}
    held = {exchange(rng, "identity", True).question for _ in range(500)}

    assert not trained & held


def test_held_out_system_messages_are_never_trained():
    rng = random.Random(9)
    trained = {systems.message(rng) for _ in range(20000)}
    held = {systems.message(rng, True) for _ in range(500)}

    assert not trained & held


def test_calls_fit_the_schemas_that_are_sent():
    """Whatever shape the schema has, with shared definitions or nullable options."""
    rng = random.Random(10)
    shapes: set[str] = set()
    for _ in range(3000):
        made = request(rng, rng.random() < 0.3, chinese=rng.random() < 0.2)
        schema = made.tool["function"]["parameters"]
        arguments = made.call.arguments

        assert set(schema.get("required", ())) <= set(arguments) <= set(schema["properties"])
        for name, value in arguments.items():
            shape = schema["properties"][name]
            shape = schema["$defs"][shape["$ref"].split("/")[-1]] if "$ref" in shape else shape
            shape = shape["anyOf"][0] if "anyOf" in shape else shape
            assert type(value).__name__ in PYTHON_TYPES[shape["type"]]
            assert value in shape.get("enum", (value,))
        text = json.dumps(schema)
        shapes |= {mark for mark in ("$ref", "anyOf", "title", "default") if f'"{mark}":' in text}

    assert len(shapes) == 4


def test_decoration_keeps_the_question():
    rng = random.Random(7)
    for _ in range(200):
        text = decorated(rng, "Who are you?")

        assert "who are you" in text.lower()
    assert len(set(BEFORE)) > 30


def test_every_skill_gives_a_whole_exchange():
    """One result for each call, and an answer at the end."""
    rng = random.Random(8)
    for name in PLAN.weights:
        for held_out in (False, True):
            made = exchange(rng, name, held_out, 300)

            assert made.question
            assert made.must
            for step, results in zip(made.steps, made.results, strict=False):
                assert len(step.calls) == len(results)
