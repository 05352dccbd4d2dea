"""Requests being put together: what the fields of an OpenAI request write into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.openai.parts import TEXT_ALONE, Shown
from qwenserve.router.http.transport.guides import write_format, write_guide, write_structured_outputs
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.runtime.sampling_ranges import MAX_LOGIT_BIAS, RANGES

_CACHE_MODES = {
    "off": chat_pb2.CACHE_MODE_OFF,
    "read": chat_pb2.CACHE_MODE_READ,
    "write": chat_pb2.CACHE_MODE_WRITE,
    "readwrite": chat_pb2.CACHE_MODE_READ_WRITE,
}
_INT32 = range(-(2**31), 2**31)


class Draft:
    """A request that is being read. `ignored` collects fields without effect, in order."""

    __slots__ = (
        "echoes",
        "guide_field",
        "has_logprobs",
        "ignored",
        "include_reasoning",
        "include_usage",
        "max_completion_tokens",
        "max_tokens",
        "names",
        "prompt_top",
        "reasoning_logprobs",
        "request",
        "request_id",
        "sampling",
        "stop_ids",
        "stream",
        "stream_options",
        "token_ids",
        "tokens_as_ids",
        "top_logprobs",
        "usage_so_far",
    )

    def __init__(self, request: chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest) -> None:
        self.request = request
        self.sampling = request.sampling
        self.ignored: list[str] = []
        self.names: dict[str, str] = {}
        # The field that the guide came from.
        self.guide_field = ""
        self.stream = False
        self.stream_options = False
        self.include_usage = False
        self.usage_so_far = False
        self.token_ids = False
        self.include_reasoning = True
        self.reasoning_logprobs = False
        self.tokens_as_ids = False
        self.request_id = ""
        self.has_logprobs = False
        self.top_logprobs: int | None = None
        self.prompt_top: int | None = None
        self.max_tokens: int | None = None
        self.max_completion_tokens: int | None = None
        self.stop_ids: Sequence[int] = ()
        # Whether the prompt is part of the text.
        self.echoes = False

    def finish(self) -> None:
        """Writes what depends on more than one field. Raises InvalidRequest."""
        if self.top_logprobs is not None and not self.has_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        if self.has_logprobs:
            self.sampling.top_logprobs = self.top_logprobs or 0
        limit, name = self.max_tokens, "max_tokens"
        if self.max_completion_tokens is not None:
            if limit is not None and limit != self.max_completion_tokens:
                self.ignored.append("max_tokens")
            limit, name = self.max_completion_tokens, "max_completion_tokens"
        # 0 is for completions of which the prompt alone is wanted.
        if limit is not None:
            nothing = limit == 0 and isinstance(self.request, chat_pb2.CompletionRequest)
            if not nothing and not RANGES["max_tokens"].holds(limit):
                raise InvalidRequest(f"{name} must be {RANGES['max_tokens']}, got {limit}", param=name)
            self.sampling.max_tokens = limit
        if self.prompt_top is not None:
            self.request.prompt_logprobs = self.prompt_top
            if self.stream:
                raise InvalidRequest(
                    "prompt_logprobs come with whole answers; leave stream out", param="prompt_logprobs"
                )
        self.token_ids = self.request.return_token_ids
        if self.usage_so_far:
            self.request.return_token_ids = True  # what comes with an event is counted by its ids
        if self.stream_options and not self.stream:
            raise InvalidRequest("stream_options is for streams; set stream to true", param="stream_options")

    def shown(self) -> Shown:
        """Returns what of the answer its caller sees."""
        if not (
            self.has_logprobs
            or self.token_ids
            or self.tokens_as_ids
            or self.stop_ids
            or self.echoes
            or not self.include_reasoning
            or self.prompt_top is not None
        ):
            return TEXT_ALONE
        return Shown(
            logprobs=self.has_logprobs,
            token_ids=self.token_ids,
            tokens_as_ids=self.tokens_as_ids,
            reasoning=self.include_reasoning,
            thought_logprobs=self.reasoning_logprobs,
            stop_ids=frozenset(self.stop_ids),
            top=self.top_logprobs or 0,
            echo=self.echoes,
            prompt_top=self.prompt_top,
        )


class ChatDraft(Draft):
    """A chat request that is being read."""

    __slots__ = ("conversation", "thinking_token_budget")

    request: chat_pb2.ChatCompletionRequest

    def __init__(self) -> None:
        super().__init__(chat_pb2.ChatCompletionRequest())
        self.conversation = self.request.conversation
        self.thinking_token_budget: int | None = None

    def finish(self) -> None:
        """Writes what depends on more than one field. Raises InvalidRequest."""
        super().finish()
        second = self.thinking_token_budget
        if second is None:
            return
        if not self.request.HasField("thinking_budget"):
            self.request.thinking_budget = second
        elif self.request.thinking_budget != second:
            self.ignored.append("thinking_token_budget")


def write_thinking_token_budget(draft: ChatDraft, value: int) -> None:
    """The second name of `thinking_budget`."""
    draft.thinking_token_budget = value


class CompletionDraft(Draft):
    """A completion request that is being read."""

    __slots__ = ()

    request: chat_pb2.CompletionRequest

    def __init__(self) -> None:
        super().__init__(chat_pb2.CompletionRequest())

    def finish(self) -> None:
        """Writes what depends on more than one field. Raises InvalidRequest."""
        super().finish()
        # What is echoed has log-probabilities too, or they would not be those of the text.
        self.echoes = self.request.echo
        if self.has_logprobs and self.echoes:
            self.request.prompt_logprobs = max(self.top_logprobs or 0, self.prompt_top or 0)


def write_stream(draft: Draft, value: bool) -> None:
    """Whether the answer is streamed."""
    draft.stream = value


def write_stream_options(draft: Draft, value: Mapping[str, Any]) -> None:
    """Reads `include_usage` and `continuous_usage_stats`; others are listed."""
    draft.stream_options = True
    for name, option in value.items():
        if name == "include_usage":
            if not isinstance(option, bool | None):
                raise InvalidRequest("stream_options.include_usage must be true or false", param="stream_options")
            draft.include_usage = bool(option)
        elif name == "continuous_usage_stats":
            if not isinstance(option, bool | None):
                raise InvalidRequest(
                    "stream_options.continuous_usage_stats must be true or false", param="stream_options"
                )
            draft.usage_so_far = bool(option)
        elif option not in (None, False):
            draft.ignored.append(f"stream_options.{name}")


def write_include_reasoning(draft: Draft, value: bool) -> None:
    """Whether thought text is in the answer."""
    draft.include_reasoning = value


def write_reasoning_logprobs(draft: Draft, value: bool) -> None:
    """Whether the tokens of thought text have log-probabilities too."""
    draft.reasoning_logprobs = value


def write_tokens_as_ids(draft: Draft, value: bool) -> None:
    """Whether log-probabilities name tokens by their ids."""
    draft.tokens_as_ids = value


def write_allowed_token_ids(draft: Draft, value: list[int]) -> None:
    """Ids that may be generated."""
    draft.sampling.allowed_token_ids.extend(value)


def write_reasoning(draft: ChatDraft, value: Mapping[str, Any]) -> None:
    """The switch as an object: `enabled`, `effort`, or the most tokens of a thought."""
    for name, option in value.items():
        if name == "enabled" and isinstance(option, bool):
            draft.conversation.enable_thinking = option
        elif name == "effort" and isinstance(option, str):
            draft.request.reasoning_effort = option
        elif name == "exclude" and isinstance(option, bool):
            draft.include_reasoning = not option
        elif name == "max_tokens" and option is not None:
            _write_budget(draft, option, "reasoning.max_tokens")
        elif option is not None:
            draft.ignored.append(f"reasoning.{name}")


def _write_budget(draft: ChatDraft, value: Any, at: str) -> None:
    if type(value) is not int or value not in _INT32:
        raise InvalidRequest(f"{at} must be a number of tokens", param=at)
    draft.thinking_token_budget = value
    draft.names["thinking_budget"] = at


def write_thinking(draft: ChatDraft, value: Mapping[str, Any]) -> None:
    """The switch in yet another form: `type` is enabled or disabled, and `budget_tokens` bounds the thought."""
    for name, option in value.items():
        if name == "type" and option in ("enabled", "disabled"):
            draft.conversation.enable_thinking = option == "enabled"
        elif name == "type":
            raise InvalidRequest("thinking.type must be 'enabled' or 'disabled'", param="thinking")
        elif name == "budget_tokens" and option is not None:
            _write_budget(draft, option, "thinking.budget_tokens")
        elif option is not None:
            draft.ignored.append(f"thinking.{name}")


def write_response_format(draft: Draft, value: Mapping[str, Any]) -> None:
    """The form of the answer, as OpenAI spells it."""
    write_format(draft, value, "response_format")


def write_structured(draft: Draft, value: Mapping[str, Any]) -> None:
    """The form of the answer, as vLLM spells it."""
    write_structured_outputs(draft, value, "structured_outputs")


def guide_writer(name: str, kind: str) -> Callable[[Draft, Any], None]:
    """Returns what writes a field that is a guide itself."""

    def write(draft: Draft, value: Any) -> None:
        write_guide(draft, kind, value, name)

    return write


def write_request_id(draft: Draft, value: str) -> None:
    """The caller's id for the request."""
    draft.request_id = value


def write_cache(draft: Draft, value: str) -> None:
    """What is done with kept answers."""
    draft.request.cache.mode = _CACHE_MODES[value]


def write_similar(draft: Draft, value: bool) -> None:
    """Whether the answer to a similar prompt will do."""
    draft.request.cache.similar = value


def write_similar_threshold(draft: Draft, value: float) -> None:
    """How similar it must be."""
    draft.request.cache.similar_threshold = value


def write_top_k(draft: Draft, value: int) -> None:
    """-1 is the other common way to write off."""
    draft.sampling.top_k = 0 if value == -1 else value


def write_logit_bias(draft: Draft, value: Mapping[str, float]) -> None:
    """JSON has no integer keys: OpenAI sends the ids as strings."""
    if len(value) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias has {len(value)} entries; at most {MAX_LOGIT_BIAS} are allowed", param="logit_bias"
        )
    for key, bias in value.items():
        token_id = int(key) if key.isascii() and key.isdigit() and len(key) <= 10 else -1
        if token_id not in _INT32 or token_id < 0:
            raise InvalidRequest(f"logit_bias: {key[:40]!r} is no token id", param="logit_bias")
        draft.sampling.logit_bias[token_id] = bias


def write_max_tokens(draft: Draft, value: int) -> None:
    """The older of two names for the same limit."""
    draft.max_tokens = value


def write_max_completion_tokens(draft: Draft, value: int) -> None:
    """The newer of two names for the same limit."""
    draft.max_completion_tokens = value


def write_stop_token_ids(draft: Draft, value: list[int]) -> None:
    """Ids that end the answer."""
    draft.stop_ids = value
    draft.sampling.stop_token_ids.extend(value)


def write_stop(draft: Draft, value: Any) -> None:
    """One string, or several."""
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
        raise InvalidRequest("stop must be a string or a list of strings", param="stop")
    draft.request.stop_strings.extend(strings)


def write_chat_logprobs(draft: Draft, value: bool) -> None:
    """A switch; the number of alternatives is a field of its own."""
    draft.has_logprobs = value


def write_completion_logprobs(draft: Draft, value: int) -> None:
    """Switch and number in one."""
    draft.has_logprobs = True
    draft.top_logprobs = value


def write_top_logprobs(draft: Draft, value: int) -> None:
    """Number of alternatives."""
    draft.top_logprobs = value


def write_prompt_logprobs(draft: Draft, value: int) -> None:
    """Log-probabilities of the prompt's tokens."""
    draft.prompt_top = value


def write_metadata(draft: ChatDraft, value: Mapping[str, str]) -> None:
    """Labels."""
    draft.request.metadata.update(value)


def write_prompts(draft: CompletionDraft, value: Any) -> None:
    """A text, texts, token ids, or lists of token ids."""
    prompts = value if isinstance(value, list) and not _is_ids(value) else [value]
    if not prompts:
        raise InvalidRequest("prompt is empty", param="prompt")
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            draft.request.prompts.add(text=prompt)
        elif _is_ids(prompt):
            draft.request.prompts.add(token_ids=chat_pb2.TokenIdList(ids=prompt))
        else:
            param = "prompt" if prompts is not value else f"prompt[{index}]"
            raise InvalidRequest(f"{param} must be a text or a list of token ids", param=param)


def _is_ids(value: Any) -> bool:
    # `type(…) is int`: true and false are ints to isinstance.
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(item) is int for item in value)
        and min(value) in _INT32
        and max(value) in _INT32
    )
