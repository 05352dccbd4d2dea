from google.rpc import status_pb2 as _status_pb2
from qwenserve.chat.v1 import message_pb2 as _message_pb2
from qwenserve.type.v1 import guide_pb2 as _guide_pb2
from qwenserve.type.v1 import sampling_pb2 as _sampling_pb2
from qwenserve.type.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CacheMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_MODE_UNSPECIFIED: _ClassVar[CacheMode]
    CACHE_MODE_OFF: _ClassVar[CacheMode]
    CACHE_MODE_READ: _ClassVar[CacheMode]
    CACHE_MODE_WRITE: _ClassVar[CacheMode]
    CACHE_MODE_READ_WRITE: _ClassVar[CacheMode]

class CacheStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_STATUS_UNSPECIFIED: _ClassVar[CacheStatus]
    CACHE_STATUS_MISS: _ClassVar[CacheStatus]
    CACHE_STATUS_HIT: _ClassVar[CacheStatus]
    CACHE_STATUS_JOINED: _ClassVar[CacheStatus]
    CACHE_STATUS_SIMILAR: _ClassVar[CacheStatus]
CACHE_MODE_UNSPECIFIED: CacheMode
CACHE_MODE_OFF: CacheMode
CACHE_MODE_READ: CacheMode
CACHE_MODE_WRITE: CacheMode
CACHE_MODE_READ_WRITE: CacheMode
CACHE_STATUS_UNSPECIFIED: CacheStatus
CACHE_STATUS_MISS: CacheStatus
CACHE_STATUS_HIT: CacheStatus
CACHE_STATUS_JOINED: CacheStatus
CACHE_STATUS_SIMILAR: CacheStatus

class ToolChoice(_message.Message):
    __slots__ = ("mode", "names", "parallel")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[ToolChoice.Mode]
        MODE_NONE: _ClassVar[ToolChoice.Mode]
        MODE_AUTO: _ClassVar[ToolChoice.Mode]
        MODE_REQUIRED: _ClassVar[ToolChoice.Mode]
    MODE_UNSPECIFIED: ToolChoice.Mode
    MODE_NONE: ToolChoice.Mode
    MODE_AUTO: ToolChoice.Mode
    MODE_REQUIRED: ToolChoice.Mode
    MODE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_FIELD_NUMBER: _ClassVar[int]
    mode: ToolChoice.Mode
    names: _containers.RepeatedScalarFieldContainer[str]
    parallel: bool
    def __init__(self, mode: _Optional[_Union[ToolChoice.Mode, str]] = ..., names: _Optional[_Iterable[str]] = ..., parallel: bool = ...) -> None: ...

class CachePolicy(_message.Message):
    __slots__ = ("mode", "max_age_s", "only_if_cached", "similar", "similar_threshold")
    MODE_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_S_FIELD_NUMBER: _ClassVar[int]
    ONLY_IF_CACHED_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    mode: CacheMode
    max_age_s: int
    only_if_cached: bool
    similar: bool
    similar_threshold: float
    def __init__(self, mode: _Optional[_Union[CacheMode, str]] = ..., max_age_s: _Optional[int] = ..., only_if_cached: bool = ..., similar: bool = ..., similar_threshold: _Optional[float] = ...) -> None: ...

class SimilarPrompt(_message.Message):
    __slots__ = ("id", "score")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: float
    def __init__(self, id: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class ChatCompletionRequest(_message.Message):
    __slots__ = ("model", "conversation", "sampling", "stop_strings", "n", "tool_choice", "guide", "separate_reasoning", "return_token_ids", "user", "metadata", "request_id", "priority", "cache_salt", "session", "thinking_budget", "reasoning_effort", "cache", "prompt_logprobs")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_STRINGS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHOICE_FIELD_NUMBER: _ClassVar[int]
    GUIDE_FIELD_NUMBER: _ClassVar[int]
    SEPARATE_REASONING_FIELD_NUMBER: _ClassVar[int]
    RETURN_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    THINKING_BUDGET_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    model: str
    conversation: _message_pb2.Conversation
    sampling: _sampling_pb2.SamplingParams
    stop_strings: _containers.RepeatedScalarFieldContainer[str]
    n: int
    tool_choice: ToolChoice
    guide: _guide_pb2.Guide
    separate_reasoning: bool
    return_token_ids: bool
    user: str
    metadata: _containers.ScalarMap[str, str]
    request_id: str
    priority: int
    cache_salt: str
    session: str
    thinking_budget: int
    reasoning_effort: str
    cache: CachePolicy
    prompt_logprobs: int
    def __init__(self, model: _Optional[str] = ..., conversation: _Optional[_Union[_message_pb2.Conversation, _Mapping]] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., stop_strings: _Optional[_Iterable[str]] = ..., n: _Optional[int] = ..., tool_choice: _Optional[_Union[ToolChoice, _Mapping]] = ..., guide: _Optional[_Union[_guide_pb2.Guide, _Mapping]] = ..., separate_reasoning: bool = ..., return_token_ids: bool = ..., user: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., request_id: _Optional[str] = ..., priority: _Optional[int] = ..., cache_salt: _Optional[str] = ..., session: _Optional[str] = ..., thinking_budget: _Optional[int] = ..., reasoning_effort: _Optional[str] = ..., cache: _Optional[_Union[CachePolicy, _Mapping]] = ..., prompt_logprobs: _Optional[int] = ...) -> None: ...

class CompletionRequest(_message.Message):
    __slots__ = ("model", "prompts", "sampling", "stop_strings", "n", "echo", "return_token_ids", "user", "request_id", "priority", "cache_salt", "guide", "session", "cache", "prompt_logprobs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_STRINGS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    RETURN_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    GUIDE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompts: _containers.RepeatedCompositeFieldContainer[CompletionPrompt]
    sampling: _sampling_pb2.SamplingParams
    stop_strings: _containers.RepeatedScalarFieldContainer[str]
    n: int
    echo: bool
    return_token_ids: bool
    user: str
    request_id: str
    priority: int
    cache_salt: str
    guide: _guide_pb2.Guide
    session: str
    cache: CachePolicy
    prompt_logprobs: int
    def __init__(self, model: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[CompletionPrompt, _Mapping]]] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., stop_strings: _Optional[_Iterable[str]] = ..., n: _Optional[int] = ..., echo: bool = ..., return_token_ids: bool = ..., user: _Optional[str] = ..., request_id: _Optional[str] = ..., priority: _Optional[int] = ..., cache_salt: _Optional[str] = ..., guide: _Optional[_Union[_guide_pb2.Guide, _Mapping]] = ..., session: _Optional[str] = ..., cache: _Optional[_Union[CachePolicy, _Mapping]] = ..., prompt_logprobs: _Optional[int] = ...) -> None: ...

class CompletionPrompt(_message.Message):
    __slots__ = ("text", "token_ids")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: TokenIdList
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIdList, _Mapping]] = ...) -> None: ...

class TokenIdList(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ChatEvent(_message.Message):
    __slots__ = ("choice_index", "content_delta", "reasoning_delta", "tool_call_start", "tool_call_arguments", "finish", "usage", "start", "logprobs", "token_ids", "of_prompt")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DELTA_FIELD_NUMBER: _ClassVar[int]
    REASONING_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_START_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    OF_PROMPT_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    content_delta: str
    reasoning_delta: str
    tool_call_start: ToolCallStart
    tool_call_arguments: ToolCallArguments
    finish: ChoiceFinish
    usage: _sampling_pb2.Usage
    start: StreamStart
    logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.TokenLogprob]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    of_prompt: bool
    def __init__(self, choice_index: _Optional[int] = ..., content_delta: _Optional[str] = ..., reasoning_delta: _Optional[str] = ..., tool_call_start: _Optional[_Union[ToolCallStart, _Mapping]] = ..., tool_call_arguments: _Optional[_Union[ToolCallArguments, _Mapping]] = ..., finish: _Optional[_Union[ChoiceFinish, _Mapping]] = ..., usage: _Optional[_Union[_sampling_pb2.Usage, _Mapping]] = ..., start: _Optional[_Union[StreamStart, _Mapping]] = ..., logprobs: _Optional[_Iterable[_Union[_sampling_pb2.TokenLogprob, _Mapping]]] = ..., token_ids: _Optional[_Iterable[int]] = ..., of_prompt: bool = ...) -> None: ...

class StreamStart(_message.Message):
    __slots__ = ("id", "created", "model", "prompt_token_ids", "ignored_params", "worker", "prompt_tokens", "cache", "similar", "system_fingerprint", "key_limits")
    class KeyLimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_PARAMS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEY_LIMITS_FIELD_NUMBER: _ClassVar[int]
    id: str
    created: int
    model: str
    prompt_token_ids: _containers.RepeatedCompositeFieldContainer[TokenIdList]
    ignored_params: _containers.RepeatedScalarFieldContainer[str]
    worker: str
    prompt_tokens: int
    cache: CacheStatus
    similar: SimilarPrompt
    system_fingerprint: str
    key_limits: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., created: _Optional[int] = ..., model: _Optional[str] = ..., prompt_token_ids: _Optional[_Iterable[_Union[TokenIdList, _Mapping]]] = ..., ignored_params: _Optional[_Iterable[str]] = ..., worker: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., cache: _Optional[_Union[CacheStatus, str]] = ..., similar: _Optional[_Union[SimilarPrompt, _Mapping]] = ..., system_fingerprint: _Optional[str] = ..., key_limits: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ToolCallStart(_message.Message):
    __slots__ = ("index", "id", "name")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: str
    name: str
    def __init__(self, index: _Optional[int] = ..., id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ToolCallArguments(_message.Message):
    __slots__ = ("index", "delta")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    index: int
    delta: str
    def __init__(self, index: _Optional[int] = ..., delta: _Optional[str] = ...) -> None: ...

class ChoiceFinish(_message.Message):
    __slots__ = ("reason", "stop_string", "stop_token_id", "thinking_cut")
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_STRING_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    THINKING_CUT_FIELD_NUMBER: _ClassVar[int]
    reason: _sampling_pb2.FinishReason
    stop_string: str
    stop_token_id: int
    thinking_cut: bool
    def __init__(self, reason: _Optional[_Union[_sampling_pb2.FinishReason, str]] = ..., stop_string: _Optional[str] = ..., stop_token_id: _Optional[int] = ..., thinking_cut: bool = ...) -> None: ...

class ChatCompletion(_message.Message):
    __slots__ = ("id", "created", "model", "choices", "usage", "prompt_token_ids", "ignored_params", "cache", "prompt_logprobs", "similar")
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_PARAMS_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_FIELD_NUMBER: _ClassVar[int]
    id: str
    created: int
    model: str
    choices: _containers.RepeatedCompositeFieldContainer[ChatChoice]
    usage: _sampling_pb2.Usage
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignored_params: _containers.RepeatedScalarFieldContainer[str]
    cache: CacheStatus
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.TokenLogprob]
    similar: SimilarPrompt
    def __init__(self, id: _Optional[str] = ..., created: _Optional[int] = ..., model: _Optional[str] = ..., choices: _Optional[_Iterable[_Union[ChatChoice, _Mapping]]] = ..., usage: _Optional[_Union[_sampling_pb2.Usage, _Mapping]] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., ignored_params: _Optional[_Iterable[str]] = ..., cache: _Optional[_Union[CacheStatus, str]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[_sampling_pb2.TokenLogprob, _Mapping]]] = ..., similar: _Optional[_Union[SimilarPrompt, _Mapping]] = ...) -> None: ...

class ChatChoice(_message.Message):
    __slots__ = ("index", "message", "finish", "logprobs", "token_ids")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    index: int
    message: _message_pb2.Message
    finish: ChoiceFinish
    logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.TokenLogprob]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., finish: _Optional[_Union[ChoiceFinish, _Mapping]] = ..., logprobs: _Optional[_Iterable[_Union[_sampling_pb2.TokenLogprob, _Mapping]]] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Completion(_message.Message):
    __slots__ = ("id", "created", "model", "choices", "usage", "ignored_params", "cache")
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    IGNORED_PARAMS_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    id: str
    created: int
    model: str
    choices: _containers.RepeatedCompositeFieldContainer[CompletionChoice]
    usage: _sampling_pb2.Usage
    ignored_params: _containers.RepeatedScalarFieldContainer[str]
    cache: CacheStatus
    def __init__(self, id: _Optional[str] = ..., created: _Optional[int] = ..., model: _Optional[str] = ..., choices: _Optional[_Iterable[_Union[CompletionChoice, _Mapping]]] = ..., usage: _Optional[_Union[_sampling_pb2.Usage, _Mapping]] = ..., ignored_params: _Optional[_Iterable[str]] = ..., cache: _Optional[_Union[CacheStatus, str]] = ...) -> None: ...

class CompletionChoice(_message.Message):
    __slots__ = ("index", "text", "finish", "logprobs", "token_ids", "prompt_token_ids")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    index: int
    text: str
    finish: ChoiceFinish
    logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.TokenLogprob]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, index: _Optional[int] = ..., text: _Optional[str] = ..., finish: _Optional[_Union[ChoiceFinish, _Mapping]] = ..., logprobs: _Optional[_Iterable[_Union[_sampling_pb2.TokenLogprob, _Mapping]]] = ..., token_ids: _Optional[_Iterable[int]] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ChatSessionRequest(_message.Message):
    __slots__ = ("submits", "cancels")
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    submits: _containers.RepeatedCompositeFieldContainer[ChatSubmit]
    cancels: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, submits: _Optional[_Iterable[_Union[ChatSubmit, _Mapping]]] = ..., cancels: _Optional[_Iterable[int]] = ...) -> None: ...

class ChatSubmit(_message.Message):
    __slots__ = ("handle", "request", "completion", "timeout_ms", "traceparent", "strict")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    handle: int
    request: ChatCompletionRequest
    completion: CompletionRequest
    timeout_ms: int
    traceparent: str
    strict: bool
    def __init__(self, handle: _Optional[int] = ..., request: _Optional[_Union[ChatCompletionRequest, _Mapping]] = ..., completion: _Optional[_Union[CompletionRequest, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., traceparent: _Optional[str] = ..., strict: bool = ...) -> None: ...

class ChatSessionResponse(_message.Message):
    __slots__ = ("handles", "choice_indexes", "texts", "reasoning_positions", "events")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    CHOICE_INDEXES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    REASONING_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    choice_indexes: _containers.RepeatedScalarFieldContainer[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    reasoning_positions: _containers.RepeatedScalarFieldContainer[int]
    events: _containers.RepeatedCompositeFieldContainer[ChatSessionEvent]
    def __init__(self, handles: _Optional[_Iterable[int]] = ..., choice_indexes: _Optional[_Iterable[int]] = ..., texts: _Optional[_Iterable[str]] = ..., reasoning_positions: _Optional[_Iterable[int]] = ..., events: _Optional[_Iterable[_Union[ChatSessionEvent, _Mapping]]] = ...) -> None: ...

class ChatSessionEvent(_message.Message):
    __slots__ = ("handle", "event", "error")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    handle: int
    event: ChatEvent
    error: _status_pb2.Status
    def __init__(self, handle: _Optional[int] = ..., event: _Optional[_Union[ChatEvent, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("chat", "completion")
    CHAT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    chat: ChatCompletionRequest
    completion: CompletionRequest
    def __init__(self, chat: _Optional[_Union[ChatCompletionRequest, _Mapping]] = ..., completion: _Optional[_Union[CompletionRequest, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("model", "prompt", "token_ids", "starts_in_reasoning", "sampling", "defaulted_fields", "ignored_params", "candidates", "tool_call_format", "max_model_len", "policy", "renderings")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    STARTS_IN_REASONING_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    DEFAULTED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_PARAMS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RENDERINGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    starts_in_reasoning: bool
    sampling: _sampling_pb2.SamplingParams
    defaulted_fields: _containers.RepeatedScalarFieldContainer[str]
    ignored_params: _containers.RepeatedScalarFieldContainer[str]
    candidates: _containers.RepeatedCompositeFieldContainer[CandidateWorker]
    tool_call_format: str
    max_model_len: int
    policy: str
    renderings: _containers.RepeatedCompositeFieldContainer[Rendering]
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., starts_in_reasoning: bool = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., defaulted_fields: _Optional[_Iterable[str]] = ..., ignored_params: _Optional[_Iterable[str]] = ..., candidates: _Optional[_Iterable[_Union[CandidateWorker, _Mapping]]] = ..., tool_call_format: _Optional[str] = ..., max_model_len: _Optional[int] = ..., policy: _Optional[str] = ..., renderings: _Optional[_Iterable[_Union[Rendering, _Mapping]]] = ...) -> None: ...

class Rendering(_message.Message):
    __slots__ = ("prefix_stable", "prompt", "tokens", "expected_cached_tokens")
    PREFIX_STABLE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prefix_stable: bool
    prompt: str
    tokens: int
    expected_cached_tokens: int
    def __init__(self, prefix_stable: bool = ..., prompt: _Optional[str] = ..., tokens: _Optional[int] = ..., expected_cached_tokens: _Optional[int] = ...) -> None: ...

class CandidateWorker(_message.Message):
    __slots__ = ("name", "score", "running", "queued", "expected_cached_tokens", "ready", "pending_prompt_tokens", "free_kv_blocks", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PENDING_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    score: float
    running: int
    queued: int
    expected_cached_tokens: int
    ready: bool
    pending_prompt_tokens: int
    free_kv_blocks: int
    reason: str
    def __init__(self, name: _Optional[str] = ..., score: _Optional[float] = ..., running: _Optional[int] = ..., queued: _Optional[int] = ..., expected_cached_tokens: _Optional[int] = ..., ready: bool = ..., pending_prompt_tokens: _Optional[int] = ..., free_kv_blocks: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "created", "max_model_len", "vocab_size", "supports_thinking", "tool_call_format", "thinking_defaults", "non_thinking_defaults", "ready_workers", "simulated", "task_kinds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    SUPPORTS_THINKING_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    THINKING_DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    NON_THINKING_DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    READY_WORKERS_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    TASK_KINDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    created: int
    max_model_len: int
    vocab_size: int
    supports_thinking: bool
    tool_call_format: str
    thinking_defaults: _sampling_pb2.SamplingParams
    non_thinking_defaults: _sampling_pb2.SamplingParams
    ready_workers: int
    simulated: bool
    task_kinds: _containers.RepeatedScalarFieldContainer[_task_pb2.TaskKind]
    def __init__(self, name: _Optional[str] = ..., created: _Optional[int] = ..., max_model_len: _Optional[int] = ..., vocab_size: _Optional[int] = ..., supports_thinking: bool = ..., tool_call_format: _Optional[str] = ..., thinking_defaults: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., non_thinking_defaults: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., ready_workers: _Optional[int] = ..., simulated: bool = ..., task_kinds: _Optional[_Iterable[_Union[_task_pb2.TaskKind, str]]] = ...) -> None: ...
