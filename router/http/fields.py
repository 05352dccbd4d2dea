"""What happens to each field of an OpenAI request: the one table.

A field is *applied* (written where `target` says), *refused* (it would change the answer and cannot be had, so the
caller hears why), or *ignored* (it changes nothing that a caller could rely on; named in `x-ignored-params`, fatal
under `strict`). A field that is not in the table is ignored. `null` always means unset.

Only types are checked here. Ranges are the router's business, which checks them for gRPC and HTTP alike.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field as Limits
from pydantic import WithJsonSchema

from qwenserve.router.http import conversation, draft
from qwenserve.router.http.draft import Draft
from qwenserve.runtime.errors import Unsupported

Int32 = Annotated[int, Limits(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Limits(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Limits(allow_inf_nan=False)]
Objects = list[dict[str, Any]]


class Effect(enum.Enum):
    """What a field does."""

    APPLIED = "applied"
    REFUSED = "refused"
    IGNORED = "ignored"


class Face(enum.Flag):
    """The endpoints that know a field."""

    CHAT = enum.auto()
    COMPLETION = enum.auto()
    BOTH = CHAT | COMPLETION


class Field(NamedTuple):
    """One row. `target` is a path into the request message for applied fields (or `shim.…` for what the shim does
    itself), `note` the reason of a refusal or the meaning. Values in `harmless` ask for what happens anyway.
    """

    name: str
    kind: Any
    effect: Effect
    target: str
    example: Any
    note: str
    faces: Face
    harmless: tuple[Any, ...]
    write: Callable[[Any, Any], None]

    @property
    def taker(self) -> Callable[[Any, Any], None]:
        """What gives a value that is not null to a draft. Raises InvalidRequest or Unsupported."""
        return self._take_unless_harmless if self.harmless else self.write

    def _take_unless_harmless(self, request: Draft, value: Any) -> None:
        if value not in self.harmless:
            self.write(request, value)


def _attribute(part: str, attribute: str) -> Callable[[Any, Any], None]:
    def write(request: Any, value: Any) -> None:
        setattr(getattr(request, part), attribute, value)

    return write


def _applied(
    name: str,
    kind: Any,
    target: str,
    example: Any,
    note: str,
    write: Callable[[Any, Any], None] | None = None,
    *,
    faces: Face = Face.BOTH,
) -> Field:
    if write is None:
        part, _, attribute = target.rpartition(".")
        write = _attribute(part or "request", attribute)
    return Field(name, kind, Effect.APPLIED, target, example, note, faces, (), write)


def _refused(name: str, example: Any, note: str, *, harmless: tuple[Any, ...] = (), faces: Face = Face.BOTH) -> Field:
    def write(request: Draft, value: Any) -> None:
        raise Unsupported(f"{name}: {note}", param=name)

    return Field(name, Any, Effect.REFUSED, "", example, note, faces, harmless, write)


def _ignored(name: str, example: Any, note: str, *, harmless: tuple[Any, ...] = (), faces: Face = Face.BOTH) -> Field:
    def write(request: Draft, value: Any) -> None:
        request.ignored.append(name)

    return Field(name, Any, Effect.IGNORED, "", example, note, faces, harmless, write)


_GRAMMAR = "needs grammars, which are not supported yet"
_BEAMS = "beam search is not supported; use n with sampling"

_SAMPLING = (
    _applied("temperature", Number, "sampling.temperature", 0.5, "0 to 2; 0 is greedy."),
    _applied("top_p", Number, "sampling.top_p", 0.75, "Above 0 to 1; 1 is off."),
    _applied(
        "top_k", Int32, "sampling.top_k", 20, "0 or more; 0 is off, and so is -1, as elsewhere.", draft.write_top_k
    ),
    _applied("min_p", Number, "sampling.min_p", 0.25, "0 to 1; 0 is off."),
    _applied("seed", Int64, "sampling.seed", 7, "Seed of the random numbers; unset: a fresh one."),
    _applied("presence_penalty", Number, "sampling.presence_penalty", 0.5, "-2 to 2."),
    _applied("frequency_penalty", Number, "sampling.frequency_penalty", -0.5, "-2 to 2."),
    _applied("repetition_penalty", Number, "sampling.repetition_penalty", 1.25, "Above 0 to 2; 1 is off."),
    _applied(
        "logit_bias",
        dict[str, Number],
        "sampling.logit_bias",
        {"11": -5.0},
        "Token id, as a string, to a bias of -100 to 100.",
        draft.write_logit_bias,
    ),
    _applied("max_tokens", Int32, "sampling.max_tokens", 9, "Most tokens to generate.", draft.write_max_tokens),
    _applied(
        "max_completion_tokens",
        Int32,
        "sampling.max_tokens",
        8,
        "The newer name of max_tokens; wins over it.",
        draft.write_max_completion_tokens,
        faces=Face.CHAT,
    ),
    _applied("min_tokens", Int32, "sampling.min_tokens", 2, "Fewest tokens to generate."),
    _applied("ignore_eos", bool, "sampling.ignore_eos", True, "Goes on past the model's end tokens."),
    _applied(
        "stop_token_ids", list[Int32], "sampling.stop_token_ids", [5, 6], "Ids that end it.", draft.write_stop_token_ids
    ),
    _applied(
        "stop",
        Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})],
        "request.stop_strings",
        ["END"],
        "A string, or up to 16, that end the answer and are not returned.",
        draft.write_stop,
    ),
    _applied("n", Annotated[Int32, Limits(ge=1)], "request.n", 2, "Number of choices, 1 to 16."),
)

_CHAT_ONLY = (
    _applied(
        "messages",
        Annotated[Objects, Limits(min_length=1)],
        "conversation.messages",
        [{"role": "user", "content": "hi"}],
        "The conversation: roles system, developer, user, assistant, tool; text content, or text parts, which are "
        "joined by line breaks.",
        conversation.write_messages,
        faces=Face.CHAT,
    ),
    _applied(
        "tools",
        Objects,
        "conversation.tools",
        [{"type": "function", "function": {"name": "look"}}],
        "Functions that the model may call.",
        conversation.write_tools,
        faces=Face.CHAT,
    ),
    _applied(
        "tool_choice",
        Any,
        "request.tool_choice",
        "auto",
        "none or auto. Others need grammars, which are not supported yet.",
        conversation.write_tool_choice,
        faces=Face.CHAT,
    ),
    _applied(
        "parallel_tool_calls",
        bool,
        "request.parallel_tool_calls",
        False,
        "False: one call at most.",
        faces=Face.CHAT,
    ),
    _applied(
        "logprobs",
        bool,
        "sampling.top_logprobs",
        True,
        "Log-probabilities.",
        draft.write_chat_logprobs,
        faces=Face.CHAT,
    ),
    _applied(
        "top_logprobs",
        Int32,
        "sampling.top_logprobs",
        3,
        "Alternatives per token, 0 to 20; needs logprobs.",
        draft.write_top_logprobs,
        faces=Face.CHAT,
    ),
    _applied(
        "enable_thinking",
        bool,
        "conversation.enable_thinking",
        False,
        "Thinking on or off; also as chat_template_kwargs.enable_thinking.",
        faces=Face.CHAT,
    ),
    _applied(
        "chat_template_kwargs",
        dict[str, Any],
        "conversation.chat_template_kwargs_json",
        {"enable_thinking": False},
        "Variables of the chat template.",
        conversation.write_template_kwargs,
        faces=Face.CHAT,
    ),
    _applied(
        "add_generation_prompt",
        bool,
        "conversation.add_generation_prompt",
        True,
        "Ends the prompt with the opening of an answer.",
        faces=Face.CHAT,
    ),
    _applied(
        "continue_final_message",
        bool,
        "conversation.continue_final_message",
        True,
        "Lets the model continue the last message.",
        faces=Face.CHAT,
    ),
    _applied(
        "separate_reasoning",
        bool,
        "request.separate_reasoning",
        False,
        "False leaves thought text in the content as <think>…</think>.",
        faces=Face.CHAT,
    ),
    _applied(
        "metadata",
        dict[str, str],
        "request.metadata",
        {"team": "a"},
        "Labels, kept for logs.",
        draft.write_metadata,
        faces=Face.CHAT,
    ),
    _refused("functions", [{"name": "f"}], "deprecated; send tools instead", harmless=([],), faces=Face.CHAT),
    _refused("function_call", "auto", "deprecated; send tool_choice instead", faces=Face.CHAT),
    _refused("audio", {"voice": "a", "format": "wav"}, "the model answers with text only", faces=Face.CHAT),
    _refused(
        "modalities", ["text", "audio"], "the model answers with text only", harmless=(["text"], []), faces=Face.CHAT
    ),
    _refused("web_search_options", {}, "there is no web search here", faces=Face.CHAT),
    _refused("response_format", {"type": "json_object"}, _GRAMMAR, harmless=({"type": "text"},)),
    _refused("chat_template", "{{ x }}", "the model's own template is used", faces=Face.CHAT),
    _refused("documents", [{"text": "x"}], "the model's template takes none", harmless=([],), faces=Face.CHAT),
    _refused("thinking_budget", 100, "not supported yet; use max_tokens", faces=Face.CHAT),
    _refused("thinking_token_budget", 100, "not supported yet; use max_tokens", faces=Face.CHAT),
    _ignored("reasoning_effort", "low", "the model thinks or does not; see enable_thinking", faces=Face.CHAT),
    _ignored("include_reasoning", False, "reasoning is always returned", harmless=(True,), faces=Face.CHAT),
    _ignored("prediction", {"type": "content", "content": "x"}, "a hint about speed only", faces=Face.CHAT),
    _ignored("verbosity", "low", "ask for it in the prompt", faces=Face.CHAT),
    _ignored("mm_processor_kwargs", {"a": 1}, "text only", harmless=({},), faces=Face.CHAT),
)

_COMPLETION_ONLY = (
    _applied(
        "prompt",
        Annotated[
            Any,
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "string"}},
                        {"type": "array", "items": {"type": "integer"}},
                        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
                    ]
                }
            ),
        ],
        "request.prompts",
        "once",
        "A text, texts, token ids, or lists of token ids.",
        draft.write_prompts,
        faces=Face.COMPLETION,
    ),
    _applied(
        "logprobs",
        Annotated[Int32, Limits(ge=0)],
        "sampling.top_logprobs",
        2,
        "Alternatives per token.",
        draft.write_completion_logprobs,
        faces=Face.COMPLETION,
    ),
    _applied("echo", bool, "request.echo", True, "Puts the prompt before the answer.", faces=Face.COMPLETION),
    _refused("suffix", "end", "the model does not fill in the middle", harmless=("",), faces=Face.COMPLETION),
    _refused("best_of", 4, "only the n answers themselves are generated", harmless=(1,), faces=Face.COMPLETION),
    _ignored("metadata", {"team": "a"}, "kept for chats only", harmless=({},), faces=Face.COMPLETION),
)

_COMMON = (
    _applied("model", str, "request.model", "fake-model", "Name of the model; empty: the only one."),
    _applied("stream", bool, "shim.stream", False, "Answers with server-sent events.", draft.write_stream),
    _applied(
        "stream_options",
        dict[str, Any],
        "shim.include_usage",
        {"include_usage": True},
        "include_usage adds a last chunk with the token counts.",
        draft.write_stream_options,
    ),
    _applied("return_token_ids", bool, "request.return_token_ids", True, "Also returns token ids."),
    _applied("user", str, "request.user", "u-1", "Name of the end user, kept for logs."),
    _applied("priority", Int32, "request.priority", 3, "Higher is sooner among queued requests."),
    _applied(
        "cache_salt", str, "request.cache_salt", "tenant-a", "Cached prefixes are shared under an equal salt only."
    ),
    _applied(
        "request_id", str, "shim.request_id", "r-1", "Like the header x-request-id, which wins.", draft.write_request_id
    ),
    _refused("guided_json", {"type": "object"}, _GRAMMAR),
    _refused("guided_regex", "a+", _GRAMMAR),
    _refused("guided_choice", ["a"], _GRAMMAR),
    _refused("guided_grammar", "root ::= 'a'", _GRAMMAR),
    _refused("structured_outputs", {"regex": "a+"}, _GRAMMAR, harmless=({},)),
    _refused("regex", "a+", _GRAMMAR),
    _refused("ebnf", "root ::= 'a'", _GRAMMAR),
    _refused("json_schema", "{}", _GRAMMAR),
    _refused("use_beam_search", True, _BEAMS, harmless=(False,)),
    _refused("logits_processors", ["x"], "not supported; use logit_bias", harmless=([],)),
    _refused("allowed_token_ids", [1], "not supported; use logit_bias", harmless=([],)),
    _refused("bad_words", ["x"], "not supported; use logit_bias", harmless=([],)),
    _refused("truncate_prompt_tokens", 5, "prompts are never cut; shorten it"),
    _refused("prompt_logprobs", 1, "log-probabilities of prompt tokens are not computed"),
    _refused("include_stop_str_in_output", True, "stop strings are never returned", harmless=(False,)),
    _refused("prompt_embeds", "x", "prompts are text or token ids"),
    _ignored("store", True, "nothing is stored", harmless=(False,)),
    _ignored("service_tier", "flex", "there is one tier", harmless=("auto", "default")),
    _ignored("safety_identifier", "x", "not used"),
    _ignored("prompt_cache_key", "x", "prefixes are reused without it"),
    _ignored("prompt_cache_retention", "24h", "prefixes are reused without it"),
    _ignored("skip_special_tokens", False, "special tokens are never text", harmless=(True,)),
    _ignored("spaces_between_special_tokens", False, "special tokens are never text", harmless=(True,)),
    _ignored("add_special_tokens", True, "Qwen3 has none to add", harmless=(False,)),
    _ignored("return_tokens_as_token_ids", True, "use return_token_ids", harmless=(False,)),
    _ignored("length_penalty", 1.5, "belongs to beam search", harmless=(1.0,)),
    _ignored("early_stopping", True, "belongs to beam search", harmless=(False,)),
    _ignored("kv_transfer_params", {"a": 1}, "the router decides", harmless=({},)),
    _ignored("vllm_xargs", {"a": 1}, "belongs to another server", harmless=({},)),
)

TABLE: tuple[Field, ...] = _COMMON + _SAMPLING + _CHAT_ONLY + _COMPLETION_ONLY


def fields_of(face: Face) -> Mapping[str, Field]:
    """Returns the rows of one endpoint by name."""
    return {field.name: field for field in TABLE if face in field.faces}
