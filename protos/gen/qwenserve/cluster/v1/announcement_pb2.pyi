from qwenserve.worker.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_WORKER: _ClassVar[Tier]
    TIER_ROUTER: _ClassVar[Tier]
    TIER_TOKENIZER: _ClassVar[Tier]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_NOT_READY: _ClassVar[State]
    STATE_READY: _ClassVar[State]
    STATE_DRAINING: _ClassVar[State]
TIER_UNSPECIFIED: Tier
TIER_WORKER: Tier
TIER_ROUTER: Tier
TIER_TOKENIZER: Tier
STATE_UNSPECIFIED: State
STATE_NOT_READY: State
STATE_READY: State
STATE_DRAINING: State

class Announcement(_message.Message):
    __slots__ = ("tier", "name", "address", "http_address", "model", "state", "host", "pid", "started_ms", "worker", "tls")
    TIER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    name: str
    address: str
    http_address: str
    model: str
    state: State
    host: str
    pid: int
    started_ms: int
    worker: _worker_pb2.WorkerInfo
    tls: bool
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., http_address: _Optional[str] = ..., model: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., started_ms: _Optional[int] = ..., worker: _Optional[_Union[_worker_pb2.WorkerInfo, _Mapping]] = ..., tls: bool = ...) -> None: ...
