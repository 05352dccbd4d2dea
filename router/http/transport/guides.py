"""Guides as HTTP requests spell them, and errors about a guide under the name of the field that it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from qwenserve.router.http.transport.structural_tags import regions_of
from qwenserve.runtime.errors import InvalidRequest, Unsupported
from qwenserve.type.v1 import guide_pb2

T = TypeVar("T")

_KINDS = {
    "json": guide_pb2.GUIDE_KIND_JSON_SCHEMA,
    "json_object": guide_pb2.GUIDE_KIND_JSON_OBJECT,
    "regex": guide_pb2.GUIDE_KIND_REGEX,
    "choice": guide_pb2.GUIDE_KIND_CHOICE,
    "grammar": guide_pb2.GUIDE_KIND_GRAMMAR,
    "structural_tag": guide_pb2.GUIDE_KIND_REGIONS,
}


class GuidedDraft(Protocol):
    """A request that is being read. `guide_field` is the field that its guide came from; empty: it has none. `names`
    are the fields that were sent under another name than the router's, by the router's.
    """

    guide_field: str
    names: dict[str, str]
    request: Any


def write_guide(draft: GuidedDraft, kind: str, value: Any, at: str) -> None:
    """Binds the answer to what the field `at` holds: `kind` is json (a schema), json_object, regex, choice, grammar or
    structural_tag. Raises InvalidRequest or Unsupported.
    """
    guide = guide_pb2.Guide(kind=_KINDS[kind], text=_text(kind, value, at))
    if draft.guide_field and draft.request.guide != guide:
        raise InvalidRequest(f"{at}: an answer has one form, and {draft.guide_field} says another; send one", param=at)
    draft.guide_field = draft.names["guide"] = at
    draft.request.guide.CopyFrom(guide)


def write_format(draft: GuidedDraft, value: Mapping[str, Any], at: str) -> None:
    """Reads an object with a `type`: OpenAI's response_format, with the types of other servers. Raises InvalidRequest
    or Unsupported.
    """
    kind = value.get("type")
    if kind == "text":
        return
    if kind == "json_schema":
        # The schema stands below a key of its own in chats, and beside the type in responses.
        inner = value.get("json_schema")
        place = f"{at}.json_schema" if isinstance(inner, dict) else at
        inner = inner if isinstance(inner, dict) else value
        if inner.get("schema") is None:
            raise InvalidRequest(f"{place}.schema must be a JSON Schema", param=f"{place}.schema")
        write_guide(draft, "json", inner["schema"], f"{place}.schema")
    elif kind in ("json_object", "json"):
        if value.get("schema") is not None:
            write_guide(draft, "json", value["schema"], f"{at}.schema")
        else:
            write_guide(draft, "json_object", True, at)
    elif kind == "regex":
        write_guide(draft, "regex", value.get("regex", value.get("pattern")), f"{at}.regex")
    elif kind in ("grammar", "ebnf"):
        write_guide(draft, "grammar", value.get(kind), f"{at}.{kind}")
    elif kind == "structural_tag":
        write_guide(draft, "structural_tag", value.get("structural_tag", value), at)
    else:
        raise InvalidRequest(
            f"{at}.type must be 'text', 'json_object', 'json_schema', 'regex', 'grammar' or 'structural_tag'",
            param=f"{at}.type",
        )


def write_structured_outputs(draft: GuidedDraft, value: Mapping[str, Any], at: str) -> None:
    """Reads vLLM's object: one of json, json_object, regex, choice, grammar, structural_tag.

    Raises InvalidRequest or Unsupported.
    """
    for name, one in value.items():
        if one is None or one is False:
            continue
        if name not in _KINDS:
            raise Unsupported(f"{at}.{name} is not supported; leave it out", param=f"{at}.{name}")
        write_guide(draft, name, one, f"{at}.{name}")


def _text(kind: str, value: Any, at: str) -> str:
    if kind == "json_object":
        return ""
    if kind == "structural_tag":
        return regions_of(value, at)
    if kind == "json":
        if not isinstance(value, dict | str):
            raise InvalidRequest(f"{at} must be a JSON Schema, as an object or its text", param=at)
        return value if isinstance(value, str) else _json(value, at)
    if kind == "choice":
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise InvalidRequest(f"{at} must be a list of strings", param=at)
        return _json(value, at)
    if not isinstance(value, str):
        raise InvalidRequest(f"{at} must be a string", param=at)
    return value


def _json(value: Any, at: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InvalidRequest(f"{at} has a number that JSON cannot express", param=at) from None
