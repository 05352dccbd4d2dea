"""Structural tags, as vLLM, SGLang and XGrammar publish them, as regions: parts of an answer that keep to a form.

Two spellings: `{"structures": [{"begin", "schema", "end"}], "triggers": […]}`, and the later one with a `format`, of
which `triggered_tags`, `tag` and `tags_with_separator` (by a line break) are regions. What is more than that is refused
by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.runtime.errors import InvalidRequest, Unsupported
from qwenserve.type.v1 import guide_pb2

_SCHEMA = guide_pb2.GUIDE_KIND_JSON_SCHEMA
_REGEX = guide_pb2.GUIDE_KIND_REGEX
_GRAMMAR = guide_pb2.GUIDE_KIND_GRAMMAR
# By the type of a tag's content: the kind of guide, and the member that holds it.
_CONTENTS = {
    "json_schema": (_SCHEMA, "json_schema"),
    "regex": (_REGEX, "pattern"),
    "grammar": (_GRAMMAR, "grammar"),
}


def regions_of(value: Any, at: str) -> str:
    """Returns the text of a guide of regions. `value` is a structural tag, as an object or its JSON text, of the field
    `at`. Raises InvalidRequest or Unsupported.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidRequest(f"{at} must be a structural tag, as an object or its JSON text", param=at) from None
    tag = _object(value, at)
    if "structures" in tag:
        listed = [
            _region(each, _SCHEMA, _object(each, place).get("schema"), f"{place}.schema", tag.get("triggers"), place)
            for place, each in _places(tag["structures"], f"{at}.structures")
        ]
        return _text(listed, free=True, least=0, most=0)
    return _format(_object(tag.get("format"), f"{at}.format"), f"{at}.format")


def _format(form: Mapping[str, Any], at: str) -> str:
    kind = form.get("type")
    if kind == "tag":
        return _text([_tag(form, None, at)], free=False, least=1, most=1)
    if kind not in ("triggered_tags", "tags_with_separator"):
        raise Unsupported(
            f"{at}.type: {kind!r} is not supported; send triggered_tags, tag or tags_with_separator", param=f"{at}.type"
        )
    most = int(form.get("stop_after_first") is True)
    if form.get("excludes"):
        raise Unsupported(f"{at}.excludes is not supported; leave it out", param=f"{at}.excludes")
    if kind == "triggered_tags":
        tags = [_tag(each, form.get("triggers"), place) for place, each in _places(form.get("tags"), f"{at}.tags")]
        return _text(tags, free=True, least=int(form.get("at_least_one") is True), most=most)
    if form.get("separator") != "\n" or form.get("at_least_one") is not True:
        raise Unsupported(
            f"{at}: tags_with_separator are supported with separator '\\n' and at_least_one: true", param=at
        )
    tags = [_tag(each, None, place) for place, each in _places(form.get("tags"), f"{at}.tags")]
    return _text(tags, free=False, least=1, most=most)


def _tag(value: Any, triggers: Any, at: str) -> dict[str, Any]:
    tag = _object(value, at)
    content = _object(tag.get("content"), f"{at}.content")
    known = _CONTENTS.get(content.get("type", ""))
    style = content.get("style", "json")
    if known is None or style != "json":
        path = f"{at}.content.{'type' if known is None else 'style'}"
        named = content.get("type") if known is None else style
        raise Unsupported(f"{path}: {named!r} is not supported; send {', '.join(_CONTENTS)}", param=path)
    kind, member = known
    return _region(tag, kind, content.get(member), f"{at}.content.{member}", triggers, at)


def _region(tag: Mapping[str, Any], kind: int, form: Any, form_at: str, triggers: Any, at: str) -> dict[str, Any]:
    end = tag.get("end")
    begin, end = tag.get("begin"), end[0] if isinstance(end, list) and len(end) == 1 else end
    if not isinstance(begin, str) or not begin:
        raise InvalidRequest(f"{at}.begin must be a text", param=f"{at}.begin")
    if not isinstance(end, str) or not end:
        raise InvalidRequest(f"{at}.end must be a text", param=f"{at}.end")
    if kind == _SCHEMA and isinstance(form, dict | bool):
        form = json.dumps(form, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(form, str):
        raise InvalidRequest(f"{form_at} must be a {'JSON Schema' if kind == _SCHEMA else 'text'}", param=form_at)
    region = {"begin": begin, "kind": kind, "text": form, "end": end}
    if triggers is None:
        return region
    listed = triggers if isinstance(triggers, list) else []
    found = [each for each in listed if isinstance(each, str) and each and begin.startswith(each)]
    if not found:
        raise InvalidRequest(f"{at}.begin must begin with one of triggers", param=f"{at}.begin")
    return region | {"trigger": found[0]}


def _text(regions: Sequence[Mapping[str, Any]], *, free: bool, least: int, most: int) -> str:
    form = {"regions": regions, "free": free, "least": least, "most": most}
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"))


def _object(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{at} must be an object", param=at)
    return value


def _places(value: Any, at: str) -> list[tuple[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"{at} must be a list of one or more", param=at)
    return [(f"{at}[{number}]", each) for number, each in enumerate(value)]
