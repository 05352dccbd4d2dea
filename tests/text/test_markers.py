from __future__ import annotations

import pytest

from qwenserve.text.chat_template import ChatTemplate
from qwenserve.text.markers import starts_in_reasoning
from tests.fixtures.full_tokenizer import model_directories

USER = [{"role": "user", "content": "x"}]


def test_thinking_on_and_off(assets):
    """Qwen3's template leaves the thought to the model, or closes an empty one."""
    for variables in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        ids = assets.tokenizer.encode(assets.template.render(USER, **variables))

        assert not starts_in_reasoning(assets.tokenizer, ids)


def test_a_template_that_opens_the_thought(assets):
    """As those of the Thinking models do."""
    template = ChatTemplate(assets.template.source + "{{ '<think>\n' if add_generation_prompt }}")

    assert starts_in_reasoning(assets.tokenizer, assets.tokenizer.encode(template.render(USER)))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<think>", True),
        ("<|im_start|>assistant\n<think>\nHm", True),
        ("<|im_start|>assistant\n<think>\nHm <think> again", True),
        ("<|im_start|>assistant\n<think>\nHm\n</think>\n\nSo", False),
        ("<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("<|im_start|>user\n<think><|im_end|>\n", False),
        ("<|im_start|>assistant\n<tool_call> <think>", True),
        ("", False),
        ("plain text", False),
    ],
)
def test_only_the_last_turn_counts(assets, prompt, expected):
    """What users quote, and what earlier turns opened, opens nothing."""
    assert expected == starts_in_reasoning(assets.tokenizer, assets.tokenizer.encode(prompt))


def test_the_models_are_there():
    """At least the small model is always tested."""
    assert "qwen3-tiny" in [path.name for path in model_directories()]
