"""From what SGLang says of a request to chunks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.worker.engine_interface import Chunk, EngineRequest, Finish, FinishReason, TokenLogprob

# What it calls the end of an answer whose logits were none; the id that it then names was not computed.
_NOT_A_NUMBER = "NaN happened"


class AnswerReader:
    """Reads one answer, step by step; each step is a dictionary with what is new in it."""

    def __init__(self, request: EngineRequest, eos_token_ids: frozenset[int]) -> None:
        sampling = request.sampling
        self._ends = sampling.stop_token_ids | eos_token_ids
        self._key = request.key
        self._top = sampling.top_logprobs
        self._prompt_top = request.prompt_logprobs
        self._guided = request.guide is not None
        # With ignore_eos it looks for no stop tokens at all.
        self._stops = sampling.stop_token_ids if sampling.ignore_eos and not self._guided else frozenset()
        self._cached = 0

    def read(self, step: Mapping[str, Any], *, aborted: bool) -> Chunk:
        """Returns a step as a chunk, perhaps an empty one. `aborted`: somebody here has asked for its end."""
        meta = step["meta_info"]
        self._cached = meta.get("cached_tokens", self._cached)
        reason = meta["finish_reason"]
        if reason is not None and reason["type"] == "abort":
            # Its ids are the last one once more.
            return Chunk(self._key, (), finish=self._finish(reason, aborted))
        ids: Sequence[int] = step["output_ids"]
        prompt = None
        if self._prompt_top is not None:
            prompt, self._prompt_top = _prompt_rows(meta, self._prompt_top), None
        scored = None if self._top is None else _answer_rows(meta, self._top)
        finish = None if reason is None else self._finish(reason, aborted)
        if self._stops:
            place = next((number for number, each in enumerate(ids) if each in self._stops), -1)
            if place >= 0:
                finish = Finish(FinishReason.STOP, ids[place], self._cached)
                ids, scored = ids[: place + 1], scored and scored[: place + 1]
        return Chunk(self._key, ids, scored, finish, prompt)

    def _finish(self, reason: Mapping[str, Any], aborted: bool) -> Finish:
        if reason["type"] == "stop" and reason.get("matched") != _NOT_A_NUMBER:
            # Where a guide is complete it names the last id, whichever that is.
            matched = reason.get("matched")
            return Finish(FinishReason.STOP, matched if matched in self._ends else None, self._cached)
        if reason["type"] == "length":
            return Finish(FinishReason.LENGTH, None, self._cached)
        message = str(reason.get("message") or reason.get("matched") or reason["type"])
        error = "" if aborted else f"{'guide' if self._guided else 'SGLang'}: {message}"
        return Finish(FinishReason.ABORTED, None, self._cached, error)


def _answer_rows(meta: Mapping[str, Any], top: int) -> list[TokenLogprob]:
    own = meta["output_token_logprobs"]
    likeliest = meta["output_top_logprobs"] if top else [()] * len(own)
    return [_row(pair, others, top) for pair, others in zip(own, likeliest, strict=True)]


def _prompt_rows(meta: Mapping[str, Any], top: int) -> list[TokenLogprob]:
    # The first id has nothing before it.
    own = meta["input_token_logprobs"][1:]
    likeliest = meta["input_top_logprobs"][1:] if top else [()] * len(own)
    return [_row(pair, others, top) for pair, others in zip(own, likeliest, strict=True)]


def _row(own: tuple[float, int, Any], others: Sequence[tuple[float, int, Any]] | None, top: int) -> TokenLogprob:
    logprob, token, _ = own
    pairs = [(other, value) for value, other, _ in others or ()]
    # Its own id first among equals, as greedy choice has it.
    pairs.sort(key=lambda pair: (-pair[1], pair[0] != token))
    return TokenLogprob(token, logprob, pairs[:top])
