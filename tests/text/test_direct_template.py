"""Prompts written without Jinja are the template's own, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text import direct_template
from qwenserve.text.assets import load_assets
from qwenserve.text.chat_template import ChatTemplate, TemplateError
from qwenserve.text.direct_template import HYBRID, INSTRUCT, THINKING, Format, Given
from tests.fixtures.conversations import ARGUMENTS, RESULTS, SYSTEMS, TEXTS, THOUGHTS, TOOLS
from tests.fixtures.full_tokenizer import model_directories

SOURCES = [load_assets(path).template.source for path in model_directories()]
NAMES = [path.name for path in model_directories()]
DIRECT = [ChatTemplate(source) for source in SOURCES]
# A comment makes it a template that nobody knows.
JINJA = [ChatTemplate(source + "{#- -#}") for source in SOURCES]
PAIRS = list(zip(DIRECT, JINJA, strict=True))


def changed(*replacements: tuple[str, str]) -> ChatTemplate:
    """The small model's template with other text in some places."""
    source = SOURCES[0]
    for old, new in replacements:
        assert source.count(old) == 1
        source = source.replace(old, new)
    return ChatTemplate(source)


SWITCH = "{{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false -}}"
PLAIN_ASSISTANT = (
    "{{- message.content -}}{%- if message.tool_calls -%}{{- calls_of(message, message.content) -}}{%- endif -%}"
)
FORMATS = {
    "hybrid": (HYBRID, JINJA[0]),
    "thinking": (THINKING, changed((SWITCH, "{{- '<think>\\n' -}}"))),
    "instruct": (INSTRUCT, changed((SWITCH, ""), ("{{- assistant(message, i) -}}", PLAIN_ASSISTANT))),
}

MARKS = (
    "<think>",
    "</think>",
    "\n",
    "<tool_response>",
    "</tool_response>",
    "<|im_end|>",
    " ",
    "a",
    "é",
    "\ud83c",
    "\r\n",
)
TEXT = st.one_of(
    st.sampled_from([*TEXTS, *THOUGHTS, *RESULTS, *SYSTEMS]),
    st.lists(st.sampled_from(MARKS), max_size=8).map("".join),
    st.text(max_size=6),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
OBJECT = st.one_of(st.sampled_from(ARGUMENTS), st.dictionaries(st.text(max_size=4), JSON, max_size=3))
FUNCTION = st.fixed_dictionaries({"name": TEXT, "arguments": OBJECT})
CALL = st.one_of(FUNCTION, st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}))
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "user", "tool"]), "content": TEXT}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": TEXT},
        optional={
            "reasoning_content": st.one_of(st.none(), TEXT),
            "tool_calls": st.lists(CALL, max_size=3),
            "name": TEXT,
        },
    ),
)
COVERED = st.builds(
    Given,
    messages=st.lists(MESSAGE, min_size=1, max_size=8),
    tools=st.one_of(st.none(), st.lists(st.one_of(st.sampled_from(TOOLS), OBJECT), max_size=3)),
    variables=st.sampled_from([{}, {"enable_thinking": True}, {"enable_thinking": False}, {"enable_thinking": 0}]),
    add_generation_prompt=st.booleans(),
)
# What templates make something else of, or refuse: nothing that the direct way may answer differently.
ODD = st.one_of(st.none(), st.integers(), JSON, st.just(["x"]), st.just([{"type": "text", "text": "x"}]))
ODD_CALL = st.fixed_dictionaries(
    {}, optional={"name": ODD, "arguments": st.one_of(ODD, OBJECT.map(json.dumps)), "function": ODD}
)
ODD_MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "tool", "alien", 3])}, optional={"content": st.one_of(TEXT, ODD)}
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={
            "content": st.one_of(TEXT, ODD),
            "reasoning_content": st.one_of(TEXT, ODD),
            "tool_calls": st.one_of(ODD, st.lists(st.one_of(ODD, ODD_CALL), max_size=2)),
        },
    ),
)
ANYTHING = st.builds(
    Given,
    messages=st.lists(st.one_of(MESSAGE, ODD_MESSAGE), max_size=5),
    tools=st.one_of(st.none(), st.lists(ODD, max_size=2)),
    variables=st.dictionaries(
        st.sampled_from(["enable_thinking", "documents", "namespace", "range", "x"]), JSON, max_size=2
    ),
    add_generation_prompt=st.booleans(),
)
DERANDOMIZED = settings(derandomize=True, max_examples=150, deadline=None)


def rendered(template: ChatTemplate, conversation: Given) -> Callable[[], str]:
    return lambda: template.render(
        conversation.messages,
        conversation.tools,
        add_generation_prompt=conversation.add_generation_prompt,
        **conversation.variables,
    )


def outcome(render: Callable[[], str]) -> tuple[str, int | None]:
    try:
        return render(), None
    except TemplateError as error:
        return "refused: " + error.message, error.message_index


@pytest.mark.parametrize(("direct", "jinja"), PAIRS, ids=NAMES)
def test_which_templates_need_no_jinja(direct: ChatTemplate, jinja: ChatTemplate) -> None:
    """The templates here are known, and a template with one more comment is not."""
    assert direct.renders_directly
    assert not jinja.renders_directly


@pytest.mark.parametrize(("direct", "jinja"), PAIRS, ids=NAMES)
@DERANDOMIZED
@given(conversation=COVERED)
def test_what_is_covered_equals_the_template(direct: ChatTemplate, jinja: ChatTemplate, conversation: Given) -> None:
    """The template is not asked, and would have said the same."""
    expected = rendered(jinja, conversation)()

    assert expected == direct_template.render(conversation, HYBRID)
    assert expected == rendered(direct, conversation)()


@pytest.mark.parametrize(("format_", "jinja"), FORMATS.values(), ids=FORMATS)
@DERANDOMIZED
@given(conversation=COVERED)
def test_every_format_is_that_of_a_template(format_: Format, jinja: ChatTemplate, conversation: Given) -> None:
    """Templates without the switch, or without thoughts, are followed as exactly."""
    assert not jinja.renders_directly
    assert rendered(jinja, conversation)() == direct_template.render(conversation, format_)


@pytest.mark.parametrize(("direct", "jinja"), PAIRS, ids=NAMES)
@DERANDOMIZED
@given(conversation=ANYTHING)
def test_anything_else_is_the_templates_affair(direct: ChatTemplate, jinja: ChatTemplate, conversation: Given) -> None:
    """Odd shapes render alike, or are refused with the same words and at the same message."""
    assert outcome(rendered(jinja, conversation)) == outcome(rendered(direct, conversation))


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_known_template_that_renders_otherwise_is_asked(source: str) -> None:
    """What else the template is given counts: here a token's name is that of its switch."""
    template = ChatTemplate(source, special_tokens={"enable_thinking": False})  # type: ignore[dict-item]
    user = [{"role": "user", "content": "x"}]

    assert not template.renders_directly
    assert template.render(user).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_model_with_a_template_for_tools_is_not_guessed_at(source: str) -> None:
    """Only one of its two templates is known."""
    template = ChatTemplate(source, tool_source="tools")

    assert not template.renders_directly
    assert template.render([{"role": "user", "content": "x"}], [dict(TOOLS[0])]) == "tools"


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_newline_at_the_end_is_no_difference(source: str) -> None:
    """Files have it, configurations often do not; Jinja drops it."""
    assert ChatTemplate(source.removesuffix("\n")).renders_directly
    assert ChatTemplate(source.removesuffix("\n") + "\n").renders_directly
