"""What happens to each field of a request of the Responses API: the one table of this face."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from qwenserve.router.http.responses import draft, items
from qwenserve.router.http.transport.field_rows import Face, Field, Int32, Number, Objects
from qwenserve.router.http.transport.field_rows import applied as _applied
from qwenserve.router.http.transport.field_rows import ignored as _ignored
from qwenserve.router.http.transport.field_rows import refused as _refused

applied = partial(_applied, faces=Face.RESPONSES)
refused = partial(_refused, faces=Face.RESPONSES)
ignored = partial(_ignored, faces=Face.RESPONSES)
_STORED = "nothing is stored here; send the whole conversation as input"

TABLE: tuple[Field, ...] = (
    applied("model", str, "request.model", "fake-model", "Name of the model; empty: the only one."),
    applied("input", Any, "conversation.messages", "hi", "A text, or messages, calls and their outputs, thoughts.",
            items.write_input),
    applied("instructions", str, "conversation.messages", "Be kind.", "What stands before all messages.",
            draft.write_instructions),
    applied("tools", Objects, "conversation.tools", [{"type": "function", "name": "look"}],
            "Functions that the model may call; web search is ignored, other tools are refused.", items.write_tools),
    applied("tool_choice", Any, "request.tool_choice", "auto",
            "none, auto, required, a function, or allowed_tools.",
            draft.write_tool_choice),
    applied("parallel_tool_calls", bool, "request.tool_choice", False, "False: one call at most.",
            draft.write_parallel_tool_calls),
    applied("reasoning", dict[str, Any], "request.reasoning_effort", {"effort": "none"},
            "effort: how much to think, as reasoning_effort of chats. Summaries are ignored.",
            draft.write_reasoning),
    applied("text", dict[str, Any], "shim.text", {"format": {"type": "text"}},
            "format: text, json_object or json_schema. verbosity is ignored.",
            draft.write_text),
    applied("max_output_tokens", Int32, "sampling.max_tokens", 9, "Most tokens to generate, thoughts included.",
            draft.write_number("max_output_tokens", "max_tokens")),
    applied("temperature", Number, "sampling.temperature", 0.5, "0 to 2; 0 is greedy.",
            draft.write_number("temperature", "temperature")),
    applied("top_p", Number, "sampling.top_p", 0.75, "Above 0 to 1; 1 is off.", draft.write_number("top_p", "top_p")),
    applied("include", list[str], "sampling.top_logprobs", ["message.output_text.logprobs"],
            "message.output_text.logprobs; others are ignored.", draft.write_include),
    applied("top_logprobs", Int32, "sampling.top_logprobs", 0, "Alternatives per token; needs include.",
            draft.write_top_logprobs),
    applied("stream", bool, "shim.stream", False, "Answers with server-sent events.", draft.write_stream),
    applied("metadata", dict[str, str], "request.metadata", {"team": "a"}, "Labels, kept for logs.",
            draft.write_metadata),
    applied("user", str, "request.user", "u-1", "Name of the end user, kept for logs."),
    refused("previous_response_id", "resp_1", _STORED),
    refused("conversation", "conv_1", _STORED),
    refused("background", True, "answers are not kept for later", harmless=(False,)),
    refused("prompt", {"id": "pmpt_1"}, "there are no stored prompts"),
    refused("max_tool_calls", 3, "tools are called by the client, not by this server"),
    ignored("store", True, "nothing is stored", harmless=(False,)),
    ignored("truncation", "auto", "input is never cut", harmless=("disabled",)),
    ignored("stream_options", {"include_obfuscation": True}, "nothing is obfuscated",
            harmless=({}, {"include_obfuscation": False})),
    ignored("service_tier", "flex", "there is one tier", harmless=("auto", "default")),
    ignored("safety_identifier", "x", "not used"),
    ignored("prompt_cache_key", "x", "prefixes are reused without it"),
    ignored("prompt_cache_retention", "24h", "prefixes are reused without it"),
    ignored("context_management", [{"type": "compaction"}], "input is taken as it is", harmless=([],)),
)  # fmt: skip


def fields() -> Mapping[str, Field]:
    """Returns the rows by name."""
    return {field.name: field for field in TABLE}
