from qwenserve.type.v1 import guide_pb2 as _guide_pb2
from qwenserve.type.v1 import sampling_pb2 as _sampling_pb2
from qwenserve.type.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("submits", "aborts", "ping", "cache_news")
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    ABORTS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    CACHE_NEWS_FIELD_NUMBER: _ClassVar[int]
    submits: _containers.RepeatedCompositeFieldContainer[Submit]
    aborts: _containers.RepeatedScalarFieldContainer[int]
    ping: bool
    cache_news: bool
    def __init__(self, submits: _Optional[_Iterable[_Union[Submit, _Mapping]]] = ..., aborts: _Optional[_Iterable[int]] = ..., ping: bool = ..., cache_news: bool = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("handle", "prompt_token_ids", "sampling", "request_id", "priority", "deadline_ms", "cache_salt", "answer_offset", "prompt_logprobs", "guide", "task", "guide_offset", "traceparent", "expected_cached_tokens")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_OFFSET_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    GUIDE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    GUIDE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    prompt_token_ids: bytes
    sampling: _sampling_pb2.SamplingParams
    request_id: str
    priority: int
    deadline_ms: int
    cache_salt: str
    answer_offset: int
    prompt_logprobs: int
    guide: _guide_pb2.Guide
    task: _task_pb2.TaskKind
    guide_offset: int
    traceparent: str
    expected_cached_tokens: int
    def __init__(self, handle: _Optional[int] = ..., prompt_token_ids: _Optional[bytes] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., request_id: _Optional[str] = ..., priority: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., cache_salt: _Optional[str] = ..., answer_offset: _Optional[int] = ..., prompt_logprobs: _Optional[int] = ..., guide: _Optional[_Union[_guide_pb2.Guide, _Mapping]] = ..., task: _Optional[_Union[_task_pb2.TaskKind, str]] = ..., guide_offset: _Optional[int] = ..., traceparent: _Optional[str] = ..., expected_cached_tokens: _Optional[int] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("handles", "counts", "token_ids", "finishes", "logprobs", "load", "prompt_logprobs", "cache")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISHES_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    finishes: _containers.RepeatedCompositeFieldContainer[Finish]
    logprobs: _containers.RepeatedCompositeFieldContainer[LogprobRun]
    load: Load
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[PromptLogprobRun]
    cache: CacheNews
    def __init__(self, handles: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., finishes: _Optional[_Iterable[_Union[Finish, _Mapping]]] = ..., logprobs: _Optional[_Iterable[_Union[LogprobRun, _Mapping]]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[PromptLogprobRun, _Mapping]]] = ..., cache: _Optional[_Union[CacheNews, _Mapping]] = ...) -> None: ...

class CacheNews(_message.Message):
    __slots__ = ("number", "removed", "stored")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    number: int
    removed: _containers.RepeatedScalarFieldContainer[int]
    stored: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., removed: _Optional[_Iterable[int]] = ..., stored: _Optional[_Iterable[int]] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("handle", "reason", "stop_token_id", "cached_tokens", "error_reason", "error_message", "queue_us", "retry_after_ms")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    reason: _sampling_pb2.FinishReason
    stop_token_id: int
    cached_tokens: int
    error_reason: str
    error_message: str
    queue_us: int
    retry_after_ms: int
    def __init__(self, handle: _Optional[int] = ..., reason: _Optional[_Union[_sampling_pb2.FinishReason, str]] = ..., stop_token_id: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., error_reason: _Optional[str] = ..., error_message: _Optional[str] = ..., queue_us: _Optional[int] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class LogprobRun(_message.Message):
    __slots__ = ("handle", "logprobs", "top_counts", "top_token_ids", "top_logprobs")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_counts: _containers.RepeatedScalarFieldContainer[int]
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, handle: _Optional[int] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_counts: _Optional[_Iterable[int]] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class PromptLogprobRun(_message.Message):
    __slots__ = ("handle", "start", "logprobs", "top_token_ids", "top_logprobs")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    start: int
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, handle: _Optional[int] = ..., start: _Optional[int] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("sequence", "running", "queued", "free_kv_blocks", "total_kv_blocks", "pending_prompt_tokens", "read_handle", "steps")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    FREE_KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PENDING_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    READ_HANDLE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    running: int
    queued: int
    free_kv_blocks: int
    total_kv_blocks: int
    pending_prompt_tokens: int
    read_handle: int
    steps: int
    def __init__(self, sequence: _Optional[int] = ..., running: _Optional[int] = ..., queued: _Optional[int] = ..., free_kv_blocks: _Optional[int] = ..., total_kv_blocks: _Optional[int] = ..., pending_prompt_tokens: _Optional[int] = ..., read_handle: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class GetLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("name", "engine", "engine_version", "model", "model_fingerprint", "max_model_len", "max_running", "max_queued", "vocab_size", "kv_block_tokens", "unsupported_fields", "max_top_logprobs", "draining", "simulated", "pid", "approximate_fields", "guide_kinds", "task_kinds", "check", "exact_cache_news", "engine_settings", "kernel_tables")
    class ApproximateFieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EngineSettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNSUPPORTED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_FIELDS_FIELD_NUMBER: _ClassVar[int]
    GUIDE_KINDS_FIELD_NUMBER: _ClassVar[int]
    TASK_KINDS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    EXACT_CACHE_NEWS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_TABLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    engine: str
    engine_version: str
    model: str
    model_fingerprint: str
    max_model_len: int
    max_running: int
    max_queued: int
    vocab_size: int
    kv_block_tokens: int
    unsupported_fields: _containers.RepeatedScalarFieldContainer[str]
    max_top_logprobs: int
    draining: bool
    simulated: bool
    pid: int
    approximate_fields: _containers.ScalarMap[str, str]
    guide_kinds: _containers.RepeatedScalarFieldContainer[_guide_pb2.GuideKind]
    task_kinds: _containers.RepeatedScalarFieldContainer[_task_pb2.TaskKind]
    check: ModelCheck
    exact_cache_news: bool
    engine_settings: _containers.ScalarMap[str, str]
    kernel_tables: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., max_model_len: _Optional[int] = ..., max_running: _Optional[int] = ..., max_queued: _Optional[int] = ..., vocab_size: _Optional[int] = ..., kv_block_tokens: _Optional[int] = ..., unsupported_fields: _Optional[_Iterable[str]] = ..., max_top_logprobs: _Optional[int] = ..., draining: bool = ..., simulated: bool = ..., pid: _Optional[int] = ..., approximate_fields: _Optional[_Mapping[str, str]] = ..., guide_kinds: _Optional[_Iterable[_Union[_guide_pb2.GuideKind, str]]] = ..., task_kinds: _Optional[_Iterable[_Union[_task_pb2.TaskKind, str]]] = ..., check: _Optional[_Union[ModelCheck, _Mapping]] = ..., exact_cache_news: bool = ..., engine_settings: _Optional[_Mapping[str, str]] = ..., kernel_tables: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelCheck(_message.Message):
    __slots__ = ("baseline", "positions", "top1_agreement", "mean_kl", "baseline_perplexity", "perplexity", "greedy_agreement", "passed")
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    TOP1_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MEAN_KL_FIELD_NUMBER: _ClassVar[int]
    BASELINE_PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    GREEDY_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    baseline: str
    positions: int
    top1_agreement: float
    mean_kl: float
    baseline_perplexity: float
    perplexity: float
    greedy_agreement: float
    passed: bool
    def __init__(self, baseline: _Optional[str] = ..., positions: _Optional[int] = ..., top1_agreement: _Optional[float] = ..., mean_kl: _Optional[float] = ..., baseline_perplexity: _Optional[float] = ..., perplexity: _Optional[float] = ..., greedy_agreement: _Optional[float] = ..., passed: bool = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("prompt_token_ids", "sampling", "request_id")
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: _sampling_pb2.SamplingParams
    request_id: str
    def __init__(self, prompt_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("token_ids", "logprobs", "finish")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: LogprobRun
    finish: Finish
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Union[LogprobRun, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ...) -> None: ...
