"""Contents that cannot write a conversation's structure.

A chat template writes turns, thoughts and calls with added tokens such as `<|im_start|>`. A content that spells one of
them would get its id, and so could open a turn of the system. Here a character that occurs nowhere else, the *mark*, is
put into every added token that a system, user or tool text spells, before the template is rendered. The tokenizer finds
no added token there, takes the marks out again, and encodes the text as any other one: the model reads the same
characters, as text.

What the model itself wrote (an assistant's content, thoughts and calls) stays as it is: its markers are meant.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from qwenserve.runtime.values import frozen_value
from qwenserve.text.chat_template import ChatTemplate, TemplateError
from qwenserve.text.conversation import TemplateInput
from qwenserve.text.direct_template import Given
from qwenserve.text.stable_prefix import with_thoughts

# Linear A, which nobody reads, then private characters. Letters first: Python's `repr`, which templates use where they
# print a list, leaves them as they are.
_MARKS = tuple(chain(range(0x10600, 0x10700), range(0xF0000, 0xFFFFE)))

# Fields of a message that its sender writes, whatever the role.
_NAMES = ("name", "tool_call_id")

# Agents send the same tools with every request, and the same objects come again (see `text.conversation`).
_KEPT_TOOLS = 256

# An expression that matches nowhere.
_NOTHING = r"(?!)"

_TOO_DEEP = "a tool or a template variable is nested too deeply"


@frozen_value
class Prompt:
    """A rendered conversation. `mark` stands in `text` where an added token is only spelled; empty: nowhere."""

    text: str
    mark: str = ""

    @property
    def shown(self) -> str:
        """The text as people read it."""
        return self.text.replace(self.mark, "") if self.mark else self.text


class ContentGuard:
    """Marks added tokens that contents spell. `added` are their texts; those of one character are left alone.

    May be used from any thread.
    """

    def __init__(self, added: Iterable[str]) -> None:
        tokens = sorted({token for token in added if len(token) > 1}, key=len, reverse=True)
        self._tokens = tuple(tokens)
        # Pieces of a token could meet where a template joins texts: it may write a tool's key in angle brackets.
        beginnings = {token[:end] for token in tokens for end in range(2, len(token))}
        endings = {token[start:] for token in tokens for start in range(1, len(token) - 1)}
        self._pattern = re.compile("|".join(map(re.escape, tokens)) or _NOTHING)
        self._found = self._pattern.search
        self._ends_open = re.compile("(?:" + ("|".join(map(re.escape, sorted(beginnings))) or _NOTHING) + r")\Z").search
        self._endings = tuple(endings)
        # Most contents hold none of the characters that all this begins and ends with, and need no second look.
        self._first = frozenset(token[0] for token in tokens)
        self._last = frozenset(token[-1] for token in tokens)
        self._insides = {token[1:-1] for token in tokens} | {token[2:-1] for token in tokens if token[1] == "/"}
        self._reach = max(map(len, tokens), default=0)
        self._clean_tools: OrderedDict[int, Any] = OrderedDict()

    def render(self, template: ChatTemplate, given: TemplateInput) -> Prompt:
        """Renders a conversation in which contents are nothing but text. Raises TemplateError."""
        try:
            if not self._spells_any(given):
                return Prompt(_render(template, given))
            mark = self._mark_for(given)
            given = self._marked_input(given, mark)
        except RecursionError:
            raise TemplateError(_TOO_DEEP) from None
        return Prompt(_render(template, given), mark)

    def _spells_any(self, given: TemplateInput) -> bool:
        spells = self._spells
        for message in given.messages:
            if message["role"] != "assistant" and spells(message["content"]):
                return True
            if len(message) > 2 and any(name in message and spells(message[name]) for name in _NAMES):
                return True
        if given.tools is not None and not all(map(self._is_clean, given.tools)):
            return True
        for value in given.variables.values():  # a loop: most have one variable, and it is a switch
            if value is not True and value is not False and self._spells_within(value):
                return True
        return False

    def _spells(self, text: str) -> bool:
        """Whether there is an added token in the text, or a piece of one at either end."""
        for first in self._first:  # one for Qwen's tokens: looking for a character is many times faster than a search
            if first in text and (self._found(text) or self._ends_open(text[-self._reach :])):
                return True
        return not self._last.isdisjoint(text[: self._reach]) and text.startswith(self._endings)

    def _is_clean(self, tool: Any) -> bool:
        # By identity: whoever is kept here cannot make room for another object at the same address.
        if self._clean_tools.get(id(tool)) is tool:
            return True
        if self._spells_within(tool):
            return False
        self._clean_tools[id(tool)] = tool
        while len(self._clean_tools) > _KEPT_TOOLS:
            self._clean_tools.popitem(last=False)
        return True

    def _spells_within(self, value: Any) -> bool:
        if isinstance(value, str):
            return self._spells(value) or value in self._insides
        if isinstance(value, Mapping):
            return any(self._spells_within(key) or self._spells_within(item) for key, item in value.items())
        return isinstance(value, Sequence) and any(map(self._spells_within, value))

    def _mark_for(self, given: TemplateInput) -> str:
        told = [given.messages, given.tools, given.variables]
        used = set(json.dumps(told, ensure_ascii=False, default=str)).union(*self._tokens)
        for mark in map(chr, _MARKS):
            if mark not in used:
                return mark
        raise TemplateError("the conversation spells added tokens, and has every character that could mark them")

    def _marked_input(self, given: TemplateInput, mark: str) -> TemplateInput:
        marked = partial(self._marked_within, mark=mark)
        return replace(
            given,
            messages=[self._marked_message(message, mark) for message in given.messages],
            tools=None if given.tools is None else [marked(tool) for tool in given.tools],
            variables={name: marked(value) for name, value in given.variables.items()},
        )

    def _marked_message(self, message: dict[str, Any], mark: str) -> dict[str, Any]:
        fields = [name for name in _NAMES if name in message]
        if message["role"] != "assistant":
            fields.append("content")
        return {**message, **{name: self._marked(message[name], mark) for name in fields}}

    def _marked_within(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return mark + value if value in self._insides else self._marked(value, mark)
        if isinstance(value, Mapping):
            return {self._marked_within(key, mark): self._marked_within(item, mark) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._marked_within(item, mark) for item in value]
        return value

    def _marked(self, text: str, mark: str) -> str:
        # Again until there is none: tokens could overlap, and breaking the one would leave the other.
        while self._found(text) is not None:
            text = self._pattern.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        if self._ends_open(text[-self._reach :]) is not None:
            text += mark
        return mark + text if text.startswith(self._endings) else text


def render_prompt(template: ChatTemplate, given: TemplateInput, guard: ContentGuard | None) -> Prompt:
    """The prompt of a conversation; without `guard`, added tokens that contents spell are those tokens.

    Raises TemplateError.
    """
    if given.prefix_stable and template.keeps_thoughts:
        thinking = given.variables.get("enable_thinking") is not False
        given = replace(given, messages=with_thoughts(given.messages, thinking=thinking))
    return Prompt(_render(template, given)) if guard is None else guard.render(template, given)


def _render(template: ChatTemplate, given: TemplateInput) -> str:
    if not given.continue_final_message:
        return template.render_given(Given(given.messages, given.tools, given.variables, given.add_generation_prompt))
    return template.render(
        given.messages,
        given.tools,
        continue_final_message=True,
        **given.variables,
    )
