"""Rendered prompts and their ids equal what `transformers` makes of the same conversation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jinja2
import pytest
import transformers

from qwenserve.text.assets import ModelAssets, load_assets
from qwenserve.text.chat_template import ChatTemplate
from tests.fixtures.conversations import Conversation, conversations
from tests.fixtures.full_tokenizer import FULL_TOKENIZER, has_full_tokenizer, model_directories

COUNT = 280


@pytest.fixture(scope="module", params=model_directories(), ids=lambda path: path.name)
def pair(request: pytest.FixtureRequest) -> tuple[ModelAssets, Any]:
    return load_assets(request.param), transformers.AutoTokenizer.from_pretrained(request.param)


def expected(oracle: Any, given: Conversation, **more: Any) -> Any:
    return oracle.apply_chat_template(
        given.messages,
        tools=given.tools,
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        return_dict=False,
        **given.variables,
        **more,
    )


def rendered(template: ChatTemplate, given: Conversation, messages: list[dict[str, Any]]) -> str:
    return template.render(
        messages,
        given.tools,
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        **given.variables,
    )


def test_generated_conversations_cover_the_hard_shapes():
    """The generator does produce every shape that the parity test is meant to cover."""
    given = list(conversations(COUNT))
    roles = [[message["role"] for message in conversation.messages] for conversation in given]

    assert any(pair == ("tool", "tool") for order in roles for pair in pairwise(order))
    assert {True, False, None} == {conversation.variables.get("enable_thinking") for conversation in given}
    assert sum(conversation.continue_final_message for conversation in given) >= 30
    assert any("reasoning_content" in message for c in given for message in c.messages)
    assert any(message["content"] == "" for c in given for message in c.messages)


def test_prompts_equal_the_reference(pair):
    """Text and ids agree byte for byte, with arguments of calls as objects and as JSON text."""
    assets, oracle = pair
    for given in conversations(COUNT):
        text = expected(oracle, given, tokenize=False)

        assert text == rendered(assets.template, given, given.messages)
        assert text == rendered(assets.template, given, given.sent_messages())
        assert expected(oracle, given, tokenize=True) == assets.tokenizer.encode(text).tolist()


FEATURES = {
    "loop controls": (
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}\n{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}\n  {% generation %}\n{{ m.content }}{% set x = 1 %}{% endgeneration %}\n{% endfor %}"
        "{{ x is defined }}"
    ),
    "tojson": (
        # One message without reasoning: newer references add further names for thoughts to those that have some.
        "{{ messages[0] | tojson }}{{ messages[0] | tojson(indent=2) }}"
        "{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true) }}{{ messages[-1].content }}"
    ),
    "trimming": "  {% if true %}  \n  x\n  {% endif %}\n\n  {#- c #}  y  {%- set z = 1 %}\n{{ messages[-1].content }}",
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ documents }}|{{ tools }}|{{ unk_token }}",
    "trimmed contents": "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}",
    "items": (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}"
        "{{ k }}={{ v if v is string else v | tojson }};{% endfor %}{% endfor %}{{ m.content }}{% endfor %}"
    ),
    "macro": (
        "{% macro say(m, i) %}{{ i }}:{{ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ say(m, loop.index) }}{% endfor %}"
    ),
    "unknown variable": "{{ messages[0].content }}{{ enable_thinking is defined }}{{ missing }}",
    "refusal": "{% if messages | length > 3 %}{{ raise_exception('too long') }}{% endif %}{{ messages[-1].content }}",
}


@pytest.mark.parametrize("name", FEATURES)
def test_template_features_equal_the_reference(pair, name):
    """What published templates use beyond Qwen3's own renders as the reference does."""
    assets, oracle = pair
    template = ChatTemplate(FEATURES[name], special_tokens=assets.template.special_tokens)
    for given in conversations(30, seed=5):
        reference = attempt(partial(expected, oracle, given, tokenize=False, chat_template=FEATURES[name]))

        assert reference == attempt(partial(rendered, template, given, given.messages))


def attempt(render: Callable[[], str]) -> str | None:
    """None for a conversation that is refused: by its template, or as impossible to continue."""
    try:
        return render()
    except (ValueError, jinja2.TemplateError):
        return None


@pytest.mark.skipif(not has_full_tokenizer(), reason="the full tokenizer is not beside the repository")
@pytest.mark.parametrize(
    ("variables", "count"), [({}, 13), ({"enable_thinking": True}, 13), ({"enable_thinking": False}, 17)]
)
def test_published_token_counts(variables, count):
    """One short turn has the published number of prompt tokens with thinking on and off."""
    assets = load_assets(FULL_TOKENIZER)

    assert count == len(
        assets.tokenizer.encode(assets.template.render([{"role": "user", "content": "你好，你是谁？"}], **variables))
    )
