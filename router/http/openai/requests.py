"""From the checked fields of a body to a request message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenserve.router.http.openai.drafts import ChatDraft, CompletionDraft
from qwenserve.router.http.openai.fields import fields_of
from qwenserve.router.http.transport.field_rows import Face, fill
from qwenserve.router.http.transport.json_body import BodyModel
from qwenserve.router.http.transport.naming import names_given, other_names


def _kinds(face: Face) -> dict[str, Any]:
    return {name: field.kind for name, field in fields_of(face).items()}


CHAT_BODY = BodyModel("ChatCompletionRequest", _kinds(Face.CHAT), required="messages")
COMPLETION_BODY = BodyModel("CompletionRequest", _kinds(Face.COMPLETION), required="prompt")

_CHAT_NAMES = other_names(fields_of(Face.CHAT))
_COMPLETION_NAMES = other_names(fields_of(Face.COMPLETION))
_CHAT_APPLIERS = {name: field.apply for name, field in fields_of(Face.CHAT).items()}
_COMPLETION_APPLIERS = {name: field.apply for name, field in fields_of(Face.COMPLETION).items()}


def read_chat(values: Mapping[str, Any]) -> ChatDraft:
    """Turns the checked fields of a chat into its message. Raises InvalidRequest or Unsupported naming the field."""
    draft = ChatDraft()
    draft.names.update(names_given(_CHAT_NAMES, values.keys()))
    fill(draft, _CHAT_APPLIERS, values)
    draft.finish()
    return draft


def read_completion(values: Mapping[str, Any]) -> CompletionDraft:
    """Like `read_chat`, for a completion."""
    draft = CompletionDraft()
    draft.names.update(names_given(_COMPLETION_NAMES, values.keys()))
    fill(draft, _COMPLETION_APPLIERS, values)
    draft.finish()
    return draft
