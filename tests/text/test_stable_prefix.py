"""Each turn's prompt, with the answer behind it, is the beginning of the next turn's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenserve.text.assets import load_assets
from qwenserve.text.chat_template import ChatTemplate
from qwenserve.text.content_guard import ContentGuard, render_prompt
from qwenserve.text.conversation import TemplateInput
from qwenserve.text.stable_prefix import with_thoughts

ROOT = Path(__file__).parents[2]
ASSETS = load_assets(ROOT / "models" / "qwen3-tiny")
PUBLISHED = ROOT.parent / "shared" / "qwen3-tokenizer" / "chat_template.jinja"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
WRITTEN_CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'

Message = dict[str, Any]


def templates() -> dict[str, ChatTemplate]:
    found = {"tiny": ASSETS.template}
    if PUBLISHED.exists():
        found["published"] = ChatTemplate(PUBLISHED.read_text(encoding="utf-8"))
    return found


def prompt(template: ChatTemplate, messages: list[Message], *, thinking: bool, stable: bool = True) -> str:
    tools = [TOOL]
    variables = {"enable_thinking": thinking}
    return render_prompt(template, TemplateInput(messages, tools, variables, True, False, False, stable), None).text


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(thought: str | None, text: str, *, calls: bool = False) -> Message:
    made: Message = {"role": "assistant", "content": text}
    if thought is not None:
        made["reasoning_content"] = thought
    return {**made, "tool_calls": [CALL]} if calls else made


def generated(thought: str | None, text: str, *, calls: bool = False) -> str:
    """What the model wrote for such an answer, behind a prompt that opens no thought."""
    before = "" if thought is None else f"<think>\n{thought}\n</think>\n\n"
    between = "\n" if calls and text else ""
    return before + text + between + (WRITTEN_CALL if calls else "") + "<|im_end|>\n"


@pytest.mark.parametrize("template", templates().values(), ids=templates())
@pytest.mark.parametrize("calls", [False, True], ids=["text", "calls"])
@pytest.mark.parametrize("text", ["Because.", ""], ids=["words", "no words"])
@pytest.mark.parametrize("thought", ["Why?\n\nHm.", None], ids=["thinking", "not thinking"])
def test_a_turn_begins_with_the_one_before(template: ChatTemplate, thought: str | None, text: str, calls: bool) -> None:
    """With thoughts, with thinking off, with tool calls: in all later turns."""
    thinking = thought is not None
    messages = [user("x")]
    before = ""
    for turn in range(3):
        now = prompt(template, messages, thinking=thinking)
        assert now.startswith(before)
        before = now + generated(thought, text, calls=calls)
        messages.append(answer(thought, text, calls=calls))
        messages += [{"role": "tool", "content": "1"}] if calls and turn == 1 else [user(f"y{turn}")]


@pytest.mark.parametrize("template", templates().values(), ids=templates())
def test_without_it_prompts_are_the_templates_own(template: ChatTemplate) -> None:
    """Byte for byte; the thought is dropped, and the next turn does not begin with the last one."""
    messages = [user("x"), answer("Why?", "Because."), user("y")]
    exact = prompt(template, messages, thinking=True, stable=False)

    assert exact == template.render(messages, [TOOL], enable_thinking=True)
    assert "Why?" not in exact
    assert "Why?" in prompt(template, messages, thinking=True)


def test_what_cannot_be_known_stays() -> None:
    """A thought that was not sent back, the message that is to be continued, and other roles."""
    messages = [user("<think>x</think>"), answer(None, "Because."), user("y"), answer("Why?", "So")]

    assert with_thoughts(messages, thinking=True) == messages
    off = with_thoughts(messages, thinking=False)
    assert off[1]["content"] == "<think>\n\n</think>\n\nBecause."
    assert [off[0], *off[2:]] == [messages[0], *messages[2:]]


def test_thoughts_in_the_content_are_moved_once() -> None:
    """Clients that send the whole text back get the same prompt."""
    inline = [user("x"), answer(None, "<think>\nWhy?\n</think>\n\nBecause."), user("y")]
    apart = [user("x"), answer("Why?", "Because."), user("y")]

    assert prompt(ASSETS.template, inline, thinking=True) == prompt(ASSETS.template, apart, thinking=True)


@given(st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_any_thought_is_shown_once(thought: str, text: str, thinking: bool) -> None:
    """Whatever an answer was, it is there with at most one thought more than it spells, guarded or not."""
    messages = [user("x"), answer(thought, text), user("y")]
    guard = ContentGuard(ASSETS.tokenizer.added_ids)
    shown = render_prompt(
        ASSETS.template, TemplateInput(messages, None, {"enable_thinking": thinking}, False, False, False, True), guard
    ).shown

    assert shown.count("</think>") <= 1 + (thought + text).count("</think>")
    assert text.lstrip("\n") in shown


def test_templates_without_thoughts_are_left_alone() -> None:
    """A model that never thinks, and a template that writes thoughts in another way."""
    plain = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    odd = ChatTemplate(
        "{% for m in messages %}{{ m.role }}: {{ m.content | replace('<think>', '[') }}{% endfor %}"
        "{{ 'on' if enable_thinking else 'off' }}"
    )
    messages = [user("x"), answer("Why?", "Because."), user("y")]

    for template in (plain, odd):
        assert not template.keeps_thoughts
        assert prompt(template, messages, thinking=True) == template.render(messages, [TOOL], enable_thinking=True)
    assert ASSETS.template.keeps_thoughts
