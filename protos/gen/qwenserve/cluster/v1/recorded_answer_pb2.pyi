from qwenserve.type.v1 import sampling_pb2 as _sampling_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LearnedPrompt(_message.Message):
    __slots__ = ("text", "embedding", "answer_key", "answer_id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ANSWER_KEY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    embedding: bytes
    answer_key: str
    answer_id: str
    def __init__(self, text: _Optional[str] = ..., embedding: _Optional[bytes] = ..., answer_key: _Optional[str] = ..., answer_id: _Optional[str] = ...) -> None: ...

class RecordedAnswer(_message.Message):
    __slots__ = ("token_ids", "logprobs", "reason", "stop_token_id", "created_ms", "thinking_cut")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    THINKING_CUT_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.TokenLogprob]
    reason: _sampling_pb2.FinishReason
    stop_token_id: int
    created_ms: int
    thinking_cut: bool
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_sampling_pb2.TokenLogprob, _Mapping]]] = ..., reason: _Optional[_Union[_sampling_pb2.FinishReason, str]] = ..., stop_token_id: _Optional[int] = ..., created_ms: _Optional[int] = ..., thinking_cut: bool = ...) -> None: ...
