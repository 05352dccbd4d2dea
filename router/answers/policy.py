"""Which answers may be kept and reused, and under which key. Pure."""

from __future__ import annotations

import copy
import functools
import re
import struct
from collections.abc import Collection, Sequence
from hashlib import blake2b, sha256
from operator import itemgetter
from typing import Literal, NamedTuple

from qwenserve.chat.v1 import chat_pb2
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.runtime.values import frozen_value
from qwenserve.type.v1 import sampling_pb2

ModeName = Literal["off", "read", "write", "readwrite"]

# How keys of answers begin. Behind it are digits of a digest.
ANSWERS = "answer:"
_KEY = re.compile(rf"{ANSWERS}[0-9a-f]{{64}}")

_MODES: dict[ModeName, int] = {
    "off": chat_pb2.CACHE_MODE_OFF,
    "read": chat_pb2.CACHE_MODE_READ,
    "write": chat_pb2.CACHE_MODE_WRITE,
    "readwrite": chat_pb2.CACHE_MODE_READ_WRITE,
}
_READS = frozenset({chat_pb2.CACHE_MODE_READ, chat_pb2.CACHE_MODE_READ_WRITE})
_WRITES = frozenset({chat_pb2.CACHE_MODE_WRITE, chat_pb2.CACHE_MODE_READ_WRITE})

# Fields of a request that do not decide which ids are generated for a prompt. Every other one goes into the key, new
# ones too: a field that was forgotten here can only cause a miss, never a wrong hit.
_NOT_IN_KEY = frozenset(
    (
        "model",  # the fingerprint says which
        "conversation",  # the prompt has it
        "prompts",
        "sampling",  # the complete parameters are taken
        "n",  # choices are kept one by one
        "echo",
        "return_token_ids",
        "user",
        "metadata",
        "request_id",
        "priority",
        "session",
        "cache",
    )
)

Request = chat_pb2.ChatCompletionRequest | chat_pb2.CompletionRequest

_KINDS: dict[type[Request], bytes] = {chat_pb2.ChatCompletionRequest: b"chat", chat_pb2.CompletionRequest: b"text"}
# The same fields as descriptors.
_FIELDS_NOT_IN_KEY = frozenset(
    field for kind in _KINDS for field in kind.DESCRIPTOR.fields if field.name in _NOT_IN_KEY
)
_FIELD = itemgetter(0)
# What is hashed is short, up to some 1,000 ids.
_SHORT_BYTES = 4096


@frozen_value
class CacheUse:
    """What a request may do: take kept answers of at most `max_age_s` seconds, keep fresh ones, or fail without one.

    `similar` is how near another prompt must be whose answer it takes; 0: it takes none.
    """

    read: bool
    write: bool
    max_age_s: float
    only_if_cached: bool
    similar: float = 0.0

    @property
    def nothing(self) -> bool:
        """Whether kept answers are left alone."""
        return not (self.read or self.write or self.only_if_cached)


OFF = CacheUse(False, False, 0.0, False)


class SimilarUse(NamedTuple):
    """What holds for requests that do not say: whether similar prompts count (`possible`: could), and from where on."""

    possible: bool = False
    wanted: bool = False
    threshold: float = 1.0


NO_SIMILAR = SimilarUse()


def cache_use(
    asked: chat_pb2.CachePolicy, default: ModeName, max_age_s: float, similar: SimilarUse = NO_SIMILAR
) -> CacheUse:
    """Returns what holds for a request. Raises InvalidRequest for a policy that contradicts itself."""
    if asked.max_age_s < 0:
        raise InvalidRequest(f"cache.max_age_s must be 0 or more, got {asked.max_age_s}", param="cache.max_age_s")
    if asked.mode not in (chat_pb2.CACHE_MODE_UNSPECIFIED, *_MODES.values()):
        raise InvalidRequest(f"cache.mode {asked.mode} is not known; use 1 to 4", param="cache.mode")
    mode: int = asked.mode or _MODES[default]
    reads = mode in _READS
    if asked.only_if_cached:
        if asked.mode and not reads:
            raise InvalidRequest("only_if_cached needs a mode that reads; use read or readwrite", param="cache")
        # An age without a mode asks to read kept answers, whatever the deployment's default mode is.
        reads = True
    oldest = min(max_age_s, asked.max_age_s) if asked.HasField("max_age_s") else max_age_s
    return CacheUse(reads, mode in _WRITES, oldest, asked.only_if_cached, _similar(asked, similar))


def _similar(asked: chat_pb2.CachePolicy, default: SimilarUse) -> float:
    threshold = asked.similar_threshold if asked.HasField("similar_threshold") else default.threshold
    if not 0 < threshold <= 1:  # which NaN is not either
        raise InvalidRequest(
            f"cache.similar_threshold must be above 0 and at most 1, got {threshold}", param="cache.similar_threshold"
        )
    wanted = asked.similar if asked.HasField("similar") else default.wanted
    if wanted and not default.possible:
        if asked.HasField("similar"):
            raise InvalidRequest(
                "cache.similar needs an embedder, which this deployment has none of; leave it out, or set "
                "cache.similar.embedder in the configuration",
                param="cache.similar",
            )
        return 0.0
    return threshold if wanted else 0.0


def is_repeatable(
    sampling: sampling_pb2.SamplingParams, asked: sampling_pb2.SamplingParams, unsupported: Collection[str]
) -> bool:
    """Whether an engine would generate the same again: greedy, or with a seed that the request set and engines honour.

    `sampling` is complete, `asked` what the request said. A seed that the router drew does not count: the caller wants
    another answer each time.
    """
    return sampling.temperature == 0 or (asked.HasField("seed") and "seed" not in unsupported)


def request_identity(request: Request) -> bytes:
    """Returns what else of a request decides which ids are generated, besides prompt, sampling, model and tenant, in a
    few bytes.
    """
    kind = _KINDS[type(request)]
    # Most requests set no other field, and the copy of a conversation would be thrown away at once.
    if _FIELDS_NOT_IN_KEY.issuperset(map(_FIELD, request.ListFields())):
        return kind
    rest = copy.copy(request)
    for name in _NOT_IN_KEY:
        if name in rest.DESCRIPTOR.fields_by_name:
            rest.ClearField(name)
    return kind + sha256(rest.SerializeToString(deterministic=True)).digest()


@functools.lru_cache(1024)
def answer_scope(fingerprint: str, tenant: str, identity: bytes) -> bytes:
    """Returns what all answers have in common that may be given to one another, as a digest of 32 bytes."""
    return sha256(framed((fingerprint.encode(), tenant.encode(), identity))).digest()


def answer_key(scope: bytes, sampling: sampling_pb2.SamplingParams, prompt: bytes) -> str:
    """Returns the key of one choice's answer: equal exactly where everything that decides the answer is equal. `prompt`
    has its ids, as `runtime.packed_ids` packs them.
    """
    if sampling.HasField("seed") and sampling.temperature == 0:
        sampling = copy.copy(sampling)
        sampling.ClearField("seed")  # never used
    told = sampling.SerializeToString(deterministic=True)
    # The parts can be told again: the scope has always the same length, and the prompt is what is left.
    parts = b"%b%b%b%b" % (scope, len(told).to_bytes(4, "big"), told, prompt)
    # For long ones SHA-256 takes half the time, where the processor has instructions for it; but its library's code is
    # in no cache by then, and for a short one fetching that costs more than the digest.
    digest = blake2b(parts) if len(parts) < _SHORT_BYTES else sha256(parts)
    return f"{ANSWERS}{digest.hexdigest()[:64]}"


def is_answer_key(text: str) -> bool:
    """Whether a text is one that `answer_key` may have returned."""
    return _KEY.fullmatch(text) is not None


def framed(parts: Sequence[bytes]) -> bytes:
    """Returns parts as one, from which they could be told again: equal only where all of them are."""
    return b"".join([struct.pack(f">{len(parts) + 1}Q", len(parts), *map(len, parts)), *parts])
