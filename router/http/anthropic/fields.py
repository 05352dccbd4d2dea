"""What happens to each field of a request of Anthropic's: the one table of this face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field as Limits

from qwenserve.router.http.anthropic import draft, messages
from qwenserve.router.http.transport.field_rows import Face, Field, Int32, Number, Objects, applied, ignored, refused

_HERE = Face.MESSAGES

TABLE: tuple[Field, ...] = (
    applied("model", str, "request.model", "fake-model", "Name of the model.", faces=_HERE),
    applied(
        "messages",
        Annotated[Objects, Limits(min_length=1)],
        "conversation.messages",
        [{"role": "user", "content": "hi"}],
        "The conversation: roles user and assistant; text, thinking, tool_use and tool_result blocks.",
        messages.write_messages,
        faces=_HERE,
    ),
    applied("max_tokens", Int32, "sampling.max_tokens", 9, "Most tokens to generate; required.", faces=_HERE),
    applied(
        "system",
        Any,
        "conversation.messages",
        "Be kind.",
        "Instructions: a text, or text blocks.",
        messages.write_system,
        faces=_HERE,
    ),
    applied(
        "tools",
        Objects,
        "conversation.tools",
        [{"name": "look", "input_schema": {"type": "object"}}],
        "Functions that the model may call; tools that run at Anthropic are refused.",
        messages.write_tools,
        faces=_HERE,
    ),
    applied(
        "tool_choice",
        dict[str, Any],
        "request.tool_choice",
        {"type": "auto"},
        "auto, any, tool or none, and disable_parallel_tool_use.",
        draft.write_tool_choice,
        faces=_HERE,
    ),
    applied(
        "thinking",
        dict[str, Any],
        "conversation.enable_thinking",
        {"type": "adaptive"},
        "enabled, adaptive or disabled; unset: disabled. budget_tokens: the thought is closed there.",
        draft.write_thinking,
        faces=_HERE,
    ),
    applied("stream", bool, "shim.stream", False, "Answers with server-sent events.", draft.write_stream, faces=_HERE),
    applied(
        "stop_sequences",
        list[str],
        "request.stop_strings",
        ["END"],
        "Up to 16 strings that end the answer and are not returned.",
        draft.write_stop_sequences,
        faces=_HERE,
    ),
    applied("temperature", Number, "sampling.temperature", 0.5, "0 to 2; 0 is greedy.", faces=_HERE),
    applied("top_p", Number, "sampling.top_p", 0.75, "Above 0 to 1; 1 is off.", faces=_HERE),
    applied("top_k", Int32, "sampling.top_k", 20, "0 or more; 0 is off.", faces=_HERE),
    applied(
        "metadata",
        dict[str, Any],
        "request.user",
        {"user_id": "u-1"},
        "user_id, kept for logs.",
        draft.write_metadata,
        faces=_HERE,
    ),
    applied(
        "output_config",
        dict[str, Any],
        "shim.output_config",
        {"effort": None},
        "format: json_schema. effort is ignored.",
        draft.write_output_config,
        faces=_HERE,
    ),
    applied(
        "output_format",
        dict[str, Any],
        "request.guide",
        {"type": "json_schema", "schema": {"type": "object"}},
        "The older name of output_config.format.",
        draft.write_output_format,
        faces=_HERE,
    ),
    refused("container", "c-1", "nothing is run here", faces=_HERE),
    refused(
        "mcp_servers", [{"url": "x"}], "tools are called by the client, not by this server", harmless=([],), faces=_HERE
    ),
    ignored(
        "service_tier", "priority", "there is one tier", harmless=("auto", "standard_only"), faces=_HERE
    ),
    ignored("context_management", {"edits": []}, "messages are taken as they are", harmless=({},), faces=_HERE),
    ignored("cache_control", {"type": "ephemeral"}, "prefixes are reused without it", faces=_HERE),
    ignored("inference_geo", "eu", "the deployment is where it is", faces=_HERE),
)  # fmt: skip


def fields() -> Mapping[str, Field]:
    """Returns the rows by name."""
    return {field.name: field for field in TABLE}
