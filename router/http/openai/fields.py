"""What happens to each field of an OpenAI request: the one table of this face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Limits
from pydantic import WithJsonSchema

from qwenserve.router.http.openai import drafts, messages
from qwenserve.router.http.transport.field_rows import (
    ID_FORMAT,
    Face,
    Field,
    Id,
    Int32,
    Int64,
    Number,
    Objects,
    applied,
    ignored,
    refused,
)
from qwenserve.runtime.sampling_ranges import BIAS, MAX_CHOICES, MAX_STOP_STRINGS, RANGES

_BEAMS = "beam search is not supported; use n with sampling"


def _range(name: str, meaning: str = "") -> str:
    """Says which values a parameter may have, as the table of ranges does, and what some of them mean."""
    text = str(RANGES[name])
    return f"{text[0].upper()}{text[1:]}{'; ' if meaning else ''}{meaning}."


def _guide(name: str, kind: str, example: Any, note: str) -> Field:
    return applied(name, Any, "request.guide", example, note, drafts.guide_writer(name, kind))


_STRUCTURAL_TAG = {
    "structures": [{"begin": "<a>", "schema": {"type": "object"}, "end": "</a>"}],
    "triggers": ["<a>"],
}
_ROLES = ["system", "developer", "user", "assistant", "tool"]
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "object", "required": ["role"], "properties": {"role": {"enum": _ROLES}}},
}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "format": ID_FORMAT}}

_SAMPLING = (
    applied("temperature", Number, "sampling.temperature", 0.5, _range("temperature", "0 is greedy")),
    applied("top_p", Number, "sampling.top_p", 0.75, _range("top_p", "1 is off")),
    applied(
        "top_k",
        Int32,
        "sampling.top_k",
        20,
        _range("top_k", "0 is off, and so is -1, as elsewhere"),
        drafts.write_top_k,
    ),
    applied("min_p", Number, "sampling.min_p", 0.25, _range("min_p", "0 is off")),
    applied("seed", Int64, "sampling.seed", 7, "Seed of the random numbers; unset: a fresh one."),
    applied("presence_penalty", Number, "sampling.presence_penalty", 0.5, _range("presence_penalty")),
    applied("frequency_penalty", Number, "sampling.frequency_penalty", -0.5, _range("frequency_penalty")),
    applied(
        "repetition_penalty", Number, "sampling.repetition_penalty", 1.25, _range("repetition_penalty", "1 is off")
    ),
    applied(
        "logit_bias",
        dict[str, Number],
        "sampling.logit_bias",
        {"11": -5.0},
        f"Token id, as a string, to a bias of {BIAS}.",
        drafts.write_logit_bias,
    ),
    applied(
        "max_tokens",
        Int32,
        "sampling.max_tokens",
        9,
        "Most tokens to generate; 0 in a completion with echo or prompt_logprobs.",
        drafts.write_max_tokens,
    ),
    applied(
        "max_completion_tokens",
        Int32,
        "sampling.max_tokens",
        8,
        "The newer name of max_tokens; wins over it.",
        drafts.write_max_completion_tokens,
        faces=Face.CHAT,
    ),
    applied("min_tokens", Int32, "sampling.min_tokens", 2, "Fewest tokens to generate."),
    applied("ignore_eos", bool, "sampling.ignore_eos", True, "Goes on past the model's end tokens."),
    applied(
        "stop_token_ids",
        list[Id],
        "sampling.stop_token_ids",
        [5, 6],
        "Ids that end it.",
        drafts.write_stop_token_ids,
    ),
    applied(
        "stop",
        Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})],
        "request.stop_strings",
        ["END"],
        f"A string, or up to {MAX_STOP_STRINGS}, that end the answer and are not returned.",
        drafts.write_stop,
    ),
    applied(
        "allowed_token_ids",
        list[Id],
        "sampling.allowed_token_ids",
        [5, 6],
        "The only ids that are generated.",
        drafts.write_allowed_token_ids,
    ),
    applied("n", Annotated[Int32, Limits(ge=1)], "request.n", 2, f"Number of choices, 1 to {MAX_CHOICES}."),
)

_CHAT_ONLY = (
    applied(
        "messages",
        Annotated[Objects, Limits(min_length=1), WithJsonSchema(_MESSAGES)],
        "conversation.messages",
        [{"role": "user", "content": "hi"}],
        "The conversation: roles system, developer, user, assistant, tool; text content, or text parts, which are "
        "joined by line breaks.",
        messages.write_messages,
        faces=Face.CHAT,
    ),
    applied(
        "tools",
        Objects,
        "conversation.tools",
        [{"type": "function", "function": {"name": "look"}}],
        "Functions that the model may call.",
        messages.write_tools,
        faces=Face.CHAT,
    ),
    applied(
        "tool_choice",
        Any,
        "request.tool_choice",
        "auto",
        "none, auto, required, a function by name, or allowed_tools. Arguments of a call that must come follow the "
        "function's schema; so do those of functions with strict: true.",
        messages.write_tool_choice,
        faces=Face.CHAT,
    ),
    applied(
        "parallel_tool_calls",
        bool,
        "request.tool_choice",
        False,
        "False: one call at most.",
        messages.write_parallel_tool_calls,
        faces=Face.CHAT,
    ),
    applied(
        "logprobs",
        bool,
        "sampling.top_logprobs",
        True,
        "Log-probabilities.",
        drafts.write_chat_logprobs,
        faces=Face.CHAT,
    ),
    applied(
        "top_logprobs",
        Int32,
        "sampling.top_logprobs",
        3,
        f"Alternatives per token, {RANGES['top_logprobs']}; needs logprobs.",
        drafts.write_top_logprobs,
        faces=Face.CHAT,
    ),
    applied(
        "enable_thinking",
        bool,
        "conversation.enable_thinking",
        False,
        "Thinking on or off; also as chat_template_kwargs.enable_thinking.",
        faces=Face.CHAT,
    ),
    applied(
        "chat_template_kwargs",
        dict[str, Any],
        "conversation.chat_template_kwargs_json",
        {"enable_thinking": False},
        "Variables of the chat template.",
        messages.write_template_kwargs,
        faces=Face.CHAT,
    ),
    applied(
        "add_generation_prompt",
        bool,
        "conversation.add_generation_prompt",
        True,
        "Ends the prompt with the opening of an answer.",
        faces=Face.CHAT,
    ),
    applied(
        "continue_final_message",
        bool,
        "conversation.continue_final_message",
        True,
        "Lets the model continue the last message.",
        faces=Face.CHAT,
    ),
    applied(
        "prefix_stable",
        bool,
        "conversation.prefix_stable",
        True,
        "Keeps the thoughts of earlier answers in the prompt, so that it begins with that of the last turn.",
        faces=Face.CHAT,
    ),
    applied(
        "cache_similar",
        bool,
        "cache.similar",
        False,
        "Also takes the kept answer to a similar prompt; needs an embedder (cache.similar.embedder).",
        drafts.write_similar,
        faces=Face.CHAT,
    ),
    applied(
        "cache_similar_threshold",
        float,
        "cache.similar_threshold",
        0.9,
        "How similar it must be, above 0 and up to 1.",
        drafts.write_similar_threshold,
        faces=Face.CHAT,
    ),
    applied(
        "separate_reasoning",
        bool,
        "request.separate_reasoning",
        False,
        "False leaves thought text in the content as <think>…</think>.",
        faces=Face.CHAT,
    ),
    applied(
        "thinking_budget",
        Int32,
        "request.thinking_budget",
        100,
        "Most tokens of thinking; the thought is closed there and the answer follows. 0: none. Also as "
        "chat_template_kwargs.thinking_budget.",
        faces=Face.CHAT,
    ),
    applied(
        "thinking_token_budget",
        Int32,
        "request.thinking_budget",
        90,
        "Another name of thinking_budget, which wins over it.",
        drafts.write_thinking_token_budget,
        faces=Face.CHAT,
    ),
    applied(
        "include_reasoning",
        bool,
        "shim.include_reasoning",
        False,
        "False leaves thought text out of the answer.",
        drafts.write_include_reasoning,
        faces=Face.CHAT,
    ),
    applied(
        "reasoning_logprobs",
        bool,
        "shim.reasoning_logprobs",
        True,
        "Log-probabilities of the tokens of thought text too, before those of the content.",
        drafts.write_reasoning_logprobs,
        faces=Face.CHAT,
    ),
    applied(
        "reasoning_effort",
        str,
        "request.reasoning_effort",
        "low",
        "none, minimal, low, medium, high, xhigh or max; router.reasoning_efforts says how many tokens of thinking "
        "each means. thinking_budget wins over it.",
        faces=Face.CHAT,
    ),
    applied(
        "reasoning",
        dict[str, Any],
        "conversation.enable_thinking",
        {"enabled": False},
        "enabled switches thinking, effort and max_tokens bound it; exclude leaves thought text out of the answer.",
        drafts.write_reasoning,
        faces=Face.CHAT,
    ),
    applied(
        "thinking",
        dict[str, Any],
        "conversation.enable_thinking",
        {"type": "disabled"},
        "Another spelling: type is enabled or disabled; budget_tokens is the thinking budget.",
        drafts.write_thinking,
        faces=Face.CHAT,
    ),
    applied(
        "think",
        bool,
        "conversation.enable_thinking",
        False,
        "Another spelling of enable_thinking.",
        faces=Face.CHAT,
    ),
    applied(
        "metadata",
        dict[str, str],
        "request.metadata",
        {"team": "a"},
        "Labels, kept for logs.",
        drafts.write_metadata,
        faces=Face.CHAT,
    ),
    refused("functions", [{"name": "f"}], "deprecated; send tools instead", harmless=([],), faces=Face.CHAT),
    refused("function_call", "auto", "deprecated; send tool_choice instead", harmless=("none",), faces=Face.CHAT),
    refused("audio", {"voice": "a", "format": "wav"}, "the model answers with text only", faces=Face.CHAT),
    refused(
        "modalities", ["text", "audio"], "the model answers with text only", harmless=(["text"], []), faces=Face.CHAT
    ),
    refused("web_search_options", {}, "there is no web search here", faces=Face.CHAT),
    refused("chat_template", "{{ x }}", "the model's own template is used", faces=Face.CHAT),
    refused("documents", [{"text": "x"}], "the model's template takes none", harmless=([],), faces=Face.CHAT),
    ignored("prediction", {"type": "content", "content": "x"}, "a hint about speed only", faces=Face.CHAT),
    ignored("verbosity", "low", "ask for it in the prompt", faces=Face.CHAT),
    ignored("mm_processor_kwargs", {"a": 1}, "text only", harmless=({},), faces=Face.CHAT),
)

_COMPLETION_ONLY = (
    applied(
        "prompt",
        Annotated[
            Any,
            WithJsonSchema(
                {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "minItems": 1, "items": {"type": "string"}},
                        _IDS,
                        {"type": "array", "minItems": 1, "items": _IDS},
                    ]
                }
            ),
        ],
        "request.prompts",
        "once",
        "A text, texts, token ids, or lists of token ids.",
        drafts.write_prompts,
        faces=Face.COMPLETION,
    ),
    applied(
        "logprobs",
        Annotated[Int32, Limits(ge=0)],
        "sampling.top_logprobs",
        2,
        "Alternatives per token.",
        drafts.write_completion_logprobs,
        faces=Face.COMPLETION,
    ),
    applied("echo", bool, "request.echo", True, "Puts the prompt before the answer.", faces=Face.COMPLETION),
    refused("suffix", "end", "the model does not fill in the middle", harmless=("",), faces=Face.COMPLETION),
    refused("best_of", 4, "only the n answers themselves are generated", harmless=(1,), faces=Face.COMPLETION),
    ignored("metadata", {"team": "a"}, "kept for chats only", harmless=({},), faces=Face.COMPLETION),
)

_COMMON = (
    applied("model", str, "request.model", "fake-model", "Name of the model; empty: the only one."),
    applied("stream", bool, "shim.stream", False, "Answers with server-sent events.", drafts.write_stream),
    applied(
        "stream_options",
        dict[str, Any],
        "shim.include_usage",
        {"include_usage": True},
        "include_usage adds a last chunk with the token counts; continuous_usage_stats puts those so far into every "
        "chunk.",
        drafts.write_stream_options,
    ),
    applied("return_token_ids", bool, "request.return_token_ids", True, "Also returns token ids."),
    applied(
        "return_tokens_as_token_ids",
        bool,
        "shim.tokens_as_ids",
        True,
        "Log-probabilities name tokens as token_id:N.",
        drafts.write_tokens_as_ids,
    ),
    applied("rid", str, "shim.request_id", "r-1", "Another spelling of request_id.", drafts.write_request_id),
    applied("user", str, "request.user", "u-1", "Name of the end user, kept for logs."),
    applied("priority", Int32, "request.priority", 3, "Higher is sooner among queued requests, -100 to 100."),
    applied(
        "cache_salt", str, "request.cache_salt", "tenant-a", "Cached prefixes are shared under an equal salt only."
    ),
    applied(
        "prompt_cache_key",
        str,
        "request.session",
        "conversation-1",
        "Names a session, like the header x-session-id, which wins: under the policy session_affinity its requests go "
        "to one worker.",
    ),
    applied(
        "cache",
        Literal["off", "read", "write", "readwrite"],
        "cache.mode",
        "readwrite",
        "What is done with answers to repeated prompts; see also the header Cache-Control.",
        drafts.write_cache,
    ),
    applied(
        "request_id",
        str,
        "shim.request_id",
        "r-1",
        "Like the header x-request-id, which wins.",
        drafts.write_request_id,
    ),
    applied(
        "prompt_logprobs",
        Annotated[Int32, Limits(ge=0)],
        "request.prompt_logprobs",
        2,
        "Log-probabilities of the prompt's tokens, with so many alternatives; whole answers only.",
        drafts.write_prompt_logprobs,
    ),
    applied(
        "response_format",
        dict[str, Any],
        "request.guide",
        {"type": "json_object"},
        "text, json_object, json_schema; also regex and grammar. After a thought, where there is one.",
        drafts.write_response_format,
    ),
    applied(
        "structured_outputs",
        dict[str, Any],
        "request.guide",
        {"regex": "a+"},
        "One of json, json_object, regex, choice, grammar, structural_tag.",
        drafts.write_structured,
    ),
    _guide("guided_json", "json", {"type": "object"}, "A JSON Schema, as an object or its text."),
    _guide("json_schema", "json", '{"type": "object"}', "Another name of guided_json."),
    _guide("guided_regex", "regex", "a+", "A regular expression that the whole answer matches."),
    _guide("regex", "regex", "a+", "Another name of guided_regex."),
    _guide("guided_choice", "choice", ["a"], "Texts, one of which the answer is."),
    _guide("guided_grammar", "grammar", 'start: "a"', "A grammar in Lark's notation, or in EBNF: root ::= …"),
    _guide("grammar", "grammar", 'start: "a"', "Another name of guided_grammar."),
    _guide("ebnf", "grammar", 'root ::= "a"', "Another name of guided_grammar."),
    _guide("structural_tag", "structural_tag", _STRUCTURAL_TAG, "Parts of the answer that keep to a form, as SGLang."),
    refused("use_beam_search", True, _BEAMS, harmless=(False,)),
    refused("logits_processors", ["x"], "not supported; use logit_bias", harmless=([],)),
    refused("bad_words", ["x"], "not supported; use logit_bias", harmless=([],)),
    refused("truncate_prompt_tokens", 5, "prompts are never cut; shorten it"),
    refused("include_stop_str_in_output", True, "stop strings are never returned", harmless=(False,)),
    refused("prompt_embeds", "x", "prompts are text or token ids"),
    ignored("store", True, "nothing is stored", harmless=(False,)),
    ignored("service_tier", "flex", "there is one tier", harmless=("auto", "default")),
    ignored("safety_identifier", "x", "not used"),
    ignored("prompt_cache_retention", "24h", "prefixes are reused without it"),
    ignored("skip_special_tokens", False, "special tokens are never text", harmless=(True,)),
    ignored("spaces_between_special_tokens", False, "special tokens are never text", harmless=(True,)),
    ignored("add_special_tokens", True, "Qwen3 has none to add", harmless=(False,)),
    ignored("length_penalty", 1.5, "belongs to beam search", harmless=(1.0,)),
    ignored("early_stopping", True, "belongs to beam search", harmless=(False,)),
    ignored("kv_transfer_params", {"a": 1}, "the router decides", harmless=({},)),
    ignored("vllm_xargs", {"a": 1}, "belongs to another server", harmless=({},)),
)

TABLE: tuple[Field, ...] = _COMMON + _SAMPLING + _CHAT_ONLY + _COMPLETION_ONLY


def fields_of(face: Face) -> Mapping[str, Field]:
    """Returns the rows of one endpoint by name."""
    return {field.name: field for field in TABLE if face in field.faces}
