from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import pytest

from qwenserve.text.chat_template import ChatTemplate, TemplateError

USER = {"role": "user", "content": "x"}
PLAIN = "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}"


def test_missing_content_is_empty():
    """No content and null content render as empty text, never as None."""
    template = ChatTemplate(PLAIN)

    assert template.render([{"role": "user"}, {"role": "assistant", "content": None}]) == "[user|][assistant|]"


def test_assistants_without_content(assets):
    """Messages that only call tools render in the model's own template."""
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    expected = assets.template.render([USER, {"role": "assistant", "content": "", "tool_calls": calls}])

    assert "<tool_call>" in expected
    assert expected == assets.template.render([USER, {"role": "assistant", "content": None, "tool_calls": calls}])
    assert expected == assets.template.render([USER, {"role": "assistant", "tool_calls": calls}])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"b":1,  "a":"é"}', '{"b": 1, "a": "é"}'),
        ({"b": 1}, '{"b": 1}'),
        ("", "{}"),
        (" ", "{}"),
        ("not JSON", "not JSON"),
        ("[1]", "[1]"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_arguments_as_text(tiny, arguments, expected, flat):
    """JSON text renders like the object; other text as it is. Both shapes of calls are known."""
    function = {"name": "f", "arguments": arguments}
    call = function if flat else {"type": "function", "function": function}
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = tiny.template.render(messages)

    assert f'<tool_call>\n{{"name": "f", "arguments": {expected}}}\n</tool_call>' in text
    assert function["arguments"] == arguments


def test_rendering_changes_no_message():
    """What the caller gave stays as it was."""
    messages: list[dict[str, Any]] = [USER, {"role": "assistant", "content": "a "}]
    template = ChatTemplate(PLAIN)

    assert template.render(messages, continue_final_message=True) == "[user|x][assistant|a "
    assert messages == [USER, {"role": "assistant", "content": "a "}]


def test_continuing_a_message_of_parts():
    """The last text part is the one that goes on."""
    template = ChatTemplate("{% for m in messages %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}end")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}]

    assert template.render([{"role": "assistant", "content": parts}], continue_final_message=True) == "a;b"


@pytest.mark.parametrize(
    ("messages", "index"),
    [
        ([USER, {"role": "assistant"}], 1),
        ([USER, {"role": "assistant", "content": None}], 1),
        ([USER, {"role": "assistant", "content": [{"type": "image"}]}], 1),
    ],
)
def test_nothing_to_continue(messages, index):
    """A final message without text cannot be continued."""
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(PLAIN).render(messages, continue_final_message=True)

    assert index == caught.value.message_index


def test_a_final_message_that_the_template_drops():
    """Nothing is continued silently at the wrong place."""
    with pytest.raises(TemplateError, match="drops") as caught:
        ChatTemplate("{{ messages[0].content }}").render(
            [USER, {"role": "assistant", "content": "lost"}], continue_final_message=True
        )

    assert caught.value.message_index == 1


REFUSING = (
    "{% macro check(m) %}{% if m.role == 'alien' %}{{ raise_exception('no aliens') }}{% endif %}{% endmacro %}"
    "{% for message in messages %}{{ check(message) }}{{ message.content.strip() }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("messages", "index", "reason"),
    [
        ([USER, {"role": "alien", "content": "x"}, USER], 1, "no aliens"),
        ([USER, USER, {"role": "user", "content": 3}], 2, "strip"),
        ([USER, {"content": "x"}], 1, "role"),
        ([USER, {"role": 7, "content": "x"}], 1, "role"),
        ([USER, "x"], 1, "role"),
        ([USER, {"role": "user", "content": "x", "tool_calls": ["x"]}], 1, "tool call"),
        ([USER, {"role": "user", "content": "x", "tool_calls": 1}], 1, "tool calls"),
        ([], None, "no messages"),
    ],
)
def test_errors_name_the_message(messages, index, reason):
    """The message that a template stumbles over is found, in loops and macros."""
    with pytest.raises(TemplateError, match=reason) as caught:
        ChatTemplate(REFUSING).render(messages)

    assert index == caught.value.message_index


def test_errors_outside_of_messages_name_none():
    """A refusal of the whole conversation has no index."""
    with pytest.raises(TemplateError, match="never") as caught:
        ChatTemplate("{{ raise_exception('never') }}").render([USER])

    assert caught.value.message_index is None


def test_templates_are_sandboxed():
    """A model's template gets at nothing but its variables, and cannot change them."""
    for source in ("{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% include 'x' %}"):
        with pytest.raises(TemplateError):
            ChatTemplate(source).render([USER])


def test_a_template_that_does_not_compile():
    """The line is named."""
    with pytest.raises(TemplateError, match="line 2"):
        ChatTemplate("a\n{% if %}")


def test_the_current_date(monkeypatch):
    """Templates may print it: in UTC, wherever the machine is."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # fourteen hours ahead
    time.tzset()
    try:
        before = datetime.now(timezone.utc).replace(second=0, microsecond=0)
        text = ChatTemplate("{{ strftime_now('%Y-%m-%d %H:%M') }}").render([USER])
        after = datetime.now(timezone.utc)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert before <= datetime.strptime(text + "+0000", "%Y-%m-%d %H:%M%z") <= after


AS_ITEMS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% set f = c.function or c %}<{{ f.name }}>"
    "{% for k, v in f.arguments | items %}{{ k }}={{ v if v is string else v | tojson }};{% endfor %}"
    "{% endfor %}{% endfor %}"
)
AS_TEXT = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments if c.function.arguments is string"
    " else c.function.arguments | tojson }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("arguments", "items"),
    [
        ('{"a": "x", "b": [1]}', "a=x;b=[1];"),
        ('{"a": "x', "a=x;"),
        ('{"a": "x", "b": [1, ', "a=x;b=[1];"),
        ('{"a": one}', "a=one;"),
        (" {", ""),
        ("", ""),
        ("[1, 2]", "arguments=[1, 2];"),
        ('"x"', 'arguments="x";'),
        ("hello", "arguments=hello;"),
        ("null", "arguments=null;"),
        ('{"a": 1} and more', 'arguments={"a": 1} and more;'),
        ("[" * 50_000, "arguments=" + "[" * 50_000 + ";"),
        (None, ""),
        ([1], "arguments=[1];"),
    ],
)
def test_any_arguments_are_rendered(arguments, items):
    """What an answer held is taken back, by templates that go through an object's items as well."""
    function = {"name": "f", "arguments": arguments}
    whole = {"name": "g", "arguments": '{"c": 1}'}
    calls = [{"type": "function", "function": function}, whole]
    messages: list[Any] = [USER, {"role": "assistant", "tool_calls": calls}]

    assert f"<f>{items}<g>c=1;" == ChatTemplate(AS_ITEMS).render(messages)


@pytest.mark.parametrize("arguments", ['{"a": "x', "hello", "[1]"])
def test_templates_that_take_a_text_get_it(arguments):
    """It is shown as it is where that can be."""
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    assert arguments == ChatTemplate(AS_TEXT).render([USER, message])


def test_a_template_that_refuses_still_does():
    """Arguments that are no object change nothing about its own words."""
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}
    with pytest.raises(TemplateError, match="no calls here"):
        ChatTemplate("{{ raise_exception('no calls here') }}").render([USER, message])


def test_a_template_of_its_own_for_tools():
    """Where a model has two templates, tools choose."""
    template = ChatTemplate("plain", tool_source="with tools {{ tools | length }}")

    assert template.render([USER]) == "plain"
    assert template.render([USER], [{"type": "function"}]) == "with tools 1"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('<tool_call>\n{"name"', "hermes"),
        ("<tool_call>\n<function=example>", "xml"),
        ("no calls", ""),
    ],
)
def test_the_form_of_calls_is_the_templates(source, expected):
    """The template tells the model how to call, and so the parser how to read."""
    assert expected == ChatTemplate(source).tool_call_format


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false }}", True),
        ("assistant\n<think>\n", True),
        ("assistant\n", False),
        ("{% if '</think>' in messages[0].content %}{% endif %}assistant", False),
        ("{{ raise_exception('no') }}", False),
    ],
)
def test_thinking_is_seen_in_what_is_rendered(source, expected):
    """A template thinks if it can switch it, or opens the thought; mentioning it is not enough."""
    assert expected == ChatTemplate(source).supports_thinking


def test_the_models_here_think_and_call(assets):
    """Qwen3's own templates."""
    assert assets.template.supports_thinking
    assert assets.template.tool_call_format == "hermes"


@pytest.mark.parametrize("name", ["loop", "cls", "given", "template", "args", "kwargs"])
def test_any_variable_reaches_the_template(name: str) -> None:
    template = ChatTemplate("{{ " + name + " }}")
    variables: dict[str, Any] = {name: "seen"}

    assert template.render([{"role": "user", "content": "x"}], **variables) == "seen"


def test_a_variable_called_self_is_no_argument_of_ours() -> None:
    assert ChatTemplate("ok").render([{"role": "user", "content": "x"}], self=1) == "ok"
