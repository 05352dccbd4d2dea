"""Guides for tool calls: what an answer that may, or must, call functions is bound to. Pure.

The text around calls stays free unless a call must come. Inside the tags a call is written as the model's template
wants it, its arguments after the function's schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.guides.checks import Guide, GuideError, GuideKind, Region, checked, regions_guide
from qwenserve.runtime.errors import InvalidRequest, Unsupported
from qwenserve.text.markers import Marker

_REQUIRED = chat_pb2.ToolChoice.MODE_REQUIRED
_NONE = chat_pb2.ToolChoice.MODE_NONE
_ANY_OBJECT = Guide(GuideKind.JSON_SCHEMA, '{"type":"object"}')
_COMPOSED = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties"})
# Keywords that say nothing of the text of a string, besides its type.
_PLAIN_STRING = frozenset({"type", "title", "description", "default", "examples", "enum", "const"})


def must_call(choice: chat_pb2.ToolChoice) -> bool:
    """Whether an answer has to call a function."""
    return choice.mode == _REQUIRED


def is_guided(choice: chat_pb2.ToolChoice, tools: Sequence[Mapping[str, Any]] | None, *, strict: bool) -> bool:
    """Whether the calls of an answer are bound to anything. `strict`: the deployment wants all functions' to be."""
    if choice.mode == _NONE:
        return False
    return must_call(choice) or bool(choice.names) or any(strict or _is_strict(tool) for tool in tools or ())


def tools_guide(
    choice: chat_pb2.ToolChoice,
    tools: Sequence[Mapping[str, Any]] | None,
    form: str,
    *,
    strict: bool,
    instead: Guide | None = None,
) -> Guide:
    """Returns what binds an answer's calls; `form` is the template's, "hermes" or "xml". `instead`: what an answer
    without calls keeps to, where it need not call.

    Raises InvalidRequest or Unsupported, naming the field at fault.
    """
    functions = [tool.get("function", tool) for tool in tools or ()]
    if not functions:
        raise InvalidRequest("tool_choice: there are no tools to call; send tools", param="tool_choice")
    if not form:
        raise Unsupported("tool_choice: this model's template knows no form of tool calls", param="tool_choice")
    known = {function["name"] for function in functions}
    for name in choice.names:
        if name not in known:
            raise InvalidRequest(f"tool_choice: {name!r} is not among tools", param="tool_choice")
    must = must_call(choice)
    regions = [
        _region(function, form, bound=must or strict or _is_strict(function), exact=_is_strict(function), index=index)
        for index, function in enumerate(functions)
        if not choice.names or function["name"] in choice.names
    ]
    single = choice.HasField("parallel") and not choice.parallel
    # A function that is named is called once, as in OpenAI's API.
    once = single or (must and len(choice.names) == 1)
    if instead is not None and not must:
        return regions_guide(regions, free=False, least=0, most=int(single), instead=instead)
    return regions_guide(regions, free=not must, least=int(must), most=int(once and must))


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("function", tool).get("strict"))


def _region(function: Mapping[str, Any], form: str, *, bound: bool, exact: bool, index: int) -> Region:
    """Returns where one function is called. `bound`: after its schema, where that can be followed; `exact`: it must."""
    schema = function.get("parameters")
    guide = _ANY_OBJECT
    try:
        if bound and (schema is None or isinstance(schema, Mapping)):
            # Without a schema a function takes no arguments, and one that lists some takes no others.
            closed = _COMPOSED.isdisjoint(schema or {})
            schema = {"type": "object", **({"additionalProperties": False} if closed else {}), **(schema or {})}
            guide = _xml_arguments(schema) if form == "xml" else checked(GuideKind.JSON_SCHEMA, json.dumps(schema))
        elif form == "xml":
            guide = _XML_ANY
    except GuideError as error:
        if exact:
            path = f"tools[{index}].function.parameters{'.' if error.path else ''}{error.path}"
            raise InvalidRequest(f"{path}: {error.message}; or send strict: false", param=path) from None
        guide = _XML_ANY if form == "xml" else _ANY_OBJECT
    begin, end = Marker.CALL_OPEN.value + "\n", "\n" + Marker.CALL_CLOSE.value
    if form == "xml":
        return Region(f"{begin}<function={function['name']}>\n", guide, f"</function>{end}", Marker.CALL_OPEN.value)
    name = json.dumps(function["name"], ensure_ascii=False)
    return Region(f'{begin}{{"name": {name}, "arguments": ', guide, f"}}{end}", Marker.CALL_OPEN.value)


_XML_ANY = Guide(
    GuideKind.GRAMMAR,
    'start: parameter*\nparameter: "<parameter=" NAME ">\\n" value\nNAME: /[^<>\\n]{1,100}/\n'
    "value[lazy]: /(.|\\n)*\\n<\\/parameter>\\n/",
)


def _xml_arguments(schema: Mapping[str, Any]) -> Guide:
    """Returns the form of a call's parameters as tags: in the order of the schema, each at most once."""
    checked(GuideKind.JSON_SCHEMA, json.dumps(schema))
    for keyword in sorted(_COMPOSED & schema.keys()):
        raise GuideError(f"{keyword} at the top is not supported in the form of this model's calls", keyword)
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    lines = []
    parts = []
    for number, (name, inner) in enumerate(properties.items()):
        parts.append(f"parameter_{number}{'' if name in required else '?'}")
        opening = json.dumps(f"<parameter={name}>\n")
        lines.append(f"parameter_{number}: {opening} value_{number}")
        closing = json.dumps("\n</parameter>\n")
        inner = inner if isinstance(inner, Mapping) else {}
        if inner.get("type") == "string":
            if inner.keys() - _PLAIN_STRING:
                keyword = sorted(inner.keys() - _PLAIN_STRING)[0]
                raise GuideError(
                    f"{keyword} is not supported in the form of this model's calls", f"properties.{name}.{keyword}"
                )
            if "enum" in inner or "const" in inner:
                values = inner.get("enum", [inner.get("const")])
                lines.append(f"value_{number}: ({' | '.join(json.dumps(str(value)) for value in values)}) {closing}")
            else:
                lines.append(f"value_{number}: text")
        else:
            whole = dict(inner) | {key: schema[key] for key in ("$defs", "definitions") if key in schema}
            whole["x-guidance"] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
            lines.append(f"value_{number}: json_{number} {closing}")
            lines.append(f"json_{number}: %json {json.dumps(whole)}")
    start = " ".join(parts) if parts else '""'
    text = "text[lazy]: /(.|\\n)*\\n<\\/parameter>\\n/"
    return Guide(GuideKind.GRAMMAR, "\n".join([f"start: {start}", *lines, text]))
