"""What llama.cpp's server says while it works on a request, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import TokenLogprob


class Prefilled(NamedTuple):
    """A part of the prompt has been computed: `cached` of its tokens were there already, `unread` are left."""

    cached: int
    unread: int


class Generated(NamedTuple):
    """New ids, nearly always one. `logprobs` is None where they were not asked for."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None


class Ended(NamedTuple):
    """The call is over by itself. `at_end_token`: llama.cpp took the last id for an end token."""

    at_end_token: bool


class Failed(NamedTuple):
    """The call was refused or broke."""

    message: str


def read_chunk(raw: Mapping[str, Any], top_logprobs: int | None) -> Prefilled | Generated | Ended | Failed:
    """Reads one chunk of a verbose, streamed completion call. KeyError: it is not one."""
    if "error" in raw:
        return Failed(str(raw["error"].get("message", raw["error"])))
    progress = raw.get("prompt_progress")
    if progress is not None:
        # A progress chunk's own "tokens" entry is no token.
        return Prefilled(progress["cache"], progress["total"] - progress["processed"])
    detail = raw["__verbose"]
    if detail["stop"]:
        return Ended(detail["stop_type"] == "eos")
    if top_logprobs is None:
        return Generated(tuple(detail["tokens"]), None)
    rows = detail["completion_probabilities"]
    return Generated(tuple(detail["tokens"]), tuple(_logprob(row, top_logprobs) for row in rows))


def _logprob(row: Mapping[str, Any], top: int) -> TokenLogprob:
    others = row["top_logprobs"][:top]
    return TokenLogprob(row["id"], row["logprob"], tuple((o["id"], o["logprob"]) for o in others))
