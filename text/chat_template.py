"""Renders conversations with a model's own chat template, byte for byte as `transformers` does.

Templates are programs that come with a model, so they run in Jinja's sandbox, and are compiled once. Two things
differ from `transformers`, both where it would fail or print nonsense: a message without content (or with null)
has the empty text, and the arguments of a tool call may be JSON text, which is what clients send back; the template
sees the object. What is no object, an answer's arguments that were cut short for example, is shown as the text that it
is; a template that cannot do that gets an object made of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from qwenserve.text import direct_template
from qwenserve.text.direct_template import Format, Given
from qwenserve.text.json_repair import JsonRepair
from qwenserve.text.stable_prefix import with_thoughts

ToolCallFormat = Literal["", "hermes", "xml"]

# The end of the message to continue is found by appending this to it. The same text as in `transformers`: where a
# template trims or measures contents, another one could render differently.
_END_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class TemplateError(ValueError):
    """A conversation that the template cannot render; `message_index` names the message where that is known."""

    def __init__(self, message: str, message_index: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.message_index = message_index


class ChatTemplate:
    """A compiled chat template.

    `special_tokens` are what the tokenizer's configuration names (`bos_token`, `eos_token`, …): templates may print
    them. `tool_source` is the template for requests with tools, where a model has a separate one.
    Raises `TemplateError` if the source does not compile.
    """

    def __init__(
        self, source: str, *, special_tokens: Mapping[str, str] | None = None, tool_source: str | None = None
    ) -> None:
        self.source = source
        self.tool_source = tool_source
        self.special_tokens: Mapping[str, str] = dict(special_tokens or {})
        self._template = _compile(source)
        self._tool_template = self._template if tool_source is None else _compile(tool_source)
        known = direct_template.known_format(source) if tool_source is None else None
        self._format = known if known is not None and self._writes(known) else None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        /,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt's text.

        `continue_final_message` leaves the last message open; `add_generation_prompt` is then ignored, so that its
        default need not be unset. `variables` (`enable_thinking`, …) are what the template may ask for.
        Raises `TemplateError`.
        """
        if continue_final_message:
            if not messages:
                raise TemplateError("the conversation has no messages")
            return self._continued(Given(messages, tools, variables, False))
        return self.render_given(Given(messages, tools, variables, add_generation_prompt))

    def render_given(self, given: Given) -> str:
        """As `render`, for a conversation whose last message is complete, and whose variables are in a mapping."""
        if not given.messages:
            raise TemplateError("the conversation has no messages")
        text = direct_template.render(given, self._format) if self._format is not None else None
        return self._run_any(given, _prepared(given.messages)) if text is None else text

    @property
    def renders_directly(self) -> bool:
        """Whether conversations that `text.direct_template` covers are rendered without Jinja."""
        return self._format is not None

    @cached_property
    def tool_call_format(self) -> ToolCallFormat:
        """How the template tells the model to write tool calls; empty if it does not."""
        source = self.tool_source or self.source
        if "<function=" in source:
            return "xml"
        return "hermes" if "<tool_call>" in source else ""

    @cached_property
    def supports_thinking(self) -> bool:
        """Whether the template can switch thinking, or opens it itself; decided by what it renders."""
        probe = [{"role": "user", "content": "x"}]
        try:
            on, off = (self.render(probe, enable_thinking=thinking) for thinking in (True, False))
        except TemplateError:
            return False
        return on != off or on.rstrip().endswith("<think>")

    @cached_property
    def keeps_thoughts(self) -> bool:
        """Whether earlier answers can be shown with their thoughts; decided by what it renders."""
        question = {"role": "user", "content": "x"}
        for thought, thinking in (("why", True), ("", False)):
            answer = {"role": "assistant", "content": "because", "reasoning_content": thought or None}
            messages = with_thoughts([question, answer, question], thinking=thinking)
            try:
                text = self.render(messages, enable_thinking=thinking, add_generation_prompt=False)
            except TemplateError:
                return False
            if text.count(f"<think>\n{thought}\n</think>\n\nbecause") != 1 or text.count("<think>") != 1:
                return False
        return self.supports_thinking

    def _writes(self, known: Format) -> bool:
        try:
            return all(
                direct_template.render(given, known) == self._run(given, _prepared(given.messages))
                for given in direct_template.SAMPLES
            )
        except TemplateError:
            return False

    def _continued(self, given: Given) -> str:
        last = len(given.messages) - 1
        prepared = _prepared(given.messages)
        prepared[last] = _with_end_tag(given.messages[last], prepared[last], last)
        return _cut_at_end_tag(self._run_any(given, prepared), given.messages[last]["content"], last)

    def _run_any(self, given: Given, prepared: list[dict[str, Any]]) -> str:
        """Runs the template, once more where it may have failed on arguments that are no object."""
        try:
            return self._run(given, prepared)
        except TemplateError:
            mended = [_with_any_arguments(message) for message in prepared]
            if mended == prepared:
                raise
            return self._run(given, mended)

    def _run(self, given: Given, prepared: list[dict[str, Any]]) -> str:
        """Runs the template."""
        tools = given.tools
        try:
            return (self._template if tools is None else self._tool_template).render(
                # One mapping: as keyword arguments, a variable called `self` would be the method's own.
                {
                    **self.special_tokens,
                    "documents": None,
                    **given.variables,
                    "messages": prepared,
                    "tools": None if tools is None else list(tools),
                    "add_generation_prompt": given.add_generation_prompt,
                }
            )
        except Exception as error:  # a template is foreign code: whatever it raises is an error of this conversation
            raise TemplateError(_reason(error), _message_at(error.__traceback__, prepared)) from error


class _Generation(jinja2.ext.Extension):
    """Accepts `{% generation %}…{% endgeneration %}`, which marks what a model wrote, and renders its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads it from the class

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, not a plain scope: variables set in the body are local to it, as in `transformers`.
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox that templates run in."""

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        # Jinja's own makes a chain of two mappings, which is slow to look up and to iterate in each rendering.
        return {**self.globals, **(d or {})}


def _compile(source: str) -> jinja2.Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno} of the chat template: {error.message}") from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which would change what the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    # In UTC, not in the zone of the machine: all routers and tokenizers of a deployment must write the same prompt.
    return datetime.now(timezone.utc).strftime(form)


def _prepared(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_prepare(message, index) for index, message in enumerate(messages)]


def _prepare(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise TemplateError("a message is an object with a role", index)
    prepared = dict(message)
    if prepared.get("content") is None:
        prepared["content"] = ""
    calls = prepared.get("tool_calls")
    if calls:
        if not isinstance(calls, (list, tuple)):
            raise TemplateError("the tool calls of a message are a list", index)
        prepared["tool_calls"] = [_with_object_arguments(call, index) for call in calls]
    return prepared


def _with_object_arguments(call: Any, index: int) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise TemplateError("a tool call is an object", index)
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": _with_object_arguments(function, index)}
    arguments = call.get("arguments")
    return {**call, "arguments": _parsed(arguments)} if isinstance(arguments, str) else dict(call)


def _parsed(arguments: str) -> Any:
    if not arguments.strip():
        return {}
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _with_any_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """The message with an object for the arguments of every call, whatever they are."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_with_made_object(call) for call in calls]} if calls else message


def _with_made_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": _with_made_object(dict(function))}
    arguments = call.get("arguments")
    if isinstance(arguments, Mapping):
        return call
    if arguments is None:
        return {**call, "arguments": {}}
    return {**call, "arguments": _object_of(arguments) if isinstance(arguments, str) else {"arguments": arguments}}


def _object_of(arguments: str) -> dict[str, Any]:
    """The object that was begun, made whole; for any other text an object with that text."""
    if arguments.lstrip().startswith("{"):
        repair = JsonRepair()
        valid = repair.push(arguments.lstrip()) + repair.close()
        if not repair.rest.strip():
            value: dict[str, Any] = json.loads(valid)
            return value
    return {"arguments": arguments}


def _with_end_tag(given: Mapping[str, Any], message: dict[str, Any], index: int) -> dict[str, Any]:
    content = message["content"]
    if given.get("content") is None:
        raise TemplateError("the final message has no content to continue", index)
    if isinstance(content, str):
        return {**message, "content": content + _END_TAG}
    parts = list(content)
    for place in reversed(range(len(parts))):
        if "text" in parts[place]:
            parts[place] = {**parts[place], "text": parts[place]["text"] + _END_TAG}
            return {**message, "content": parts}
    raise TemplateError("the final message has no text to continue", index)


def _cut_at_end_tag(text: str, content: Any, index: int) -> str:
    if not isinstance(content, str):
        content = next(part["text"] for part in reversed(content) if "text" in part)
    place = text.rfind(_END_TAG.strip())
    if place < 0 or content.strip() not in text:
        raise TemplateError("the chat template drops a part of the final message, so it cannot be continued", index)
    # Where the template trimmed the message's end, the tag has lost its space, and so must the message.
    return text[:place] if text.startswith(_END_TAG, place) else text[:place].rstrip()


def _reason(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError) and error.message:
        return error.message
    return f"the chat template failed: {error}"


def _message_at(traceback: TracebackType | None, messages: list[dict[str, Any]]) -> int | None:
    """The message that the template was working on: the one that a variable of its innermost frame holds."""
    places = {id(message): index for index, message in enumerate(messages)}
    found = None
    while traceback is not None:
        for value in traceback.tb_frame.f_locals.values():
            found = places.get(id(value), found)
        traceback = traceback.tb_next
    return found
