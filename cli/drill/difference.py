"""Where two greedy answers part, and how close the model was to saying the other: for engines whose numbers depend on
what else is computed at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp

from qwenserve.cli.drill.load import Target, client_session

_ALTERNATIVES = 20


class Parting(NamedTuple):
    """The first token in which a text differs from an answer. `gap`: by how much its log-probability was the lower one
    there; None where it is not among the likeliest.
    """

    place: int
    token: str
    other: str
    gap: float | None


def parting(tokens: Sequence[Mapping[str, Any]], text: str) -> Parting | None:
    """Finds where `text` leaves an answer of OpenAI's log-probabilities; None where it does not. Pure."""
    rest = text.encode()
    for index, item in enumerate(tokens):
        said = _bytes(item)
        if rest.startswith(said) and (rest or not said):
            rest = rest[len(said) :]
            continue
        others = [other for other in item.get("top_logprobs", ()) if _bytes(other) != said]
        # The longest one that fits is what was said there: shorter ones are its beginnings.
        fitting = [other for other in others if _bytes(other) and rest.startswith(_bytes(other))]
        if not rest:
            return Parting(index, item["token"], "its end", None)
        if not fitting:
            return Parting(index, item["token"], rest[:20].decode(errors="replace"), None)
        best = max(fitting, key=lambda other: len(_bytes(other)))
        return Parting(index, item["token"], best["token"], item["logprob"] - best["logprob"])
    return Parting(len(tokens), "its end", rest[:20].decode(errors="replace"), None) if rest else None


async def told_apart(target: Target, prompt: str, text: str) -> str:
    """Asks once more with log-probabilities, and says where `text` leaves that answer."""
    body = {**target.body(prompt), "stream": False, "logprobs": True, "top_logprobs": _ALTERNATIVES}
    del body["stream_options"]
    url = f"{target.url}/v1/chat/completions"
    try:
        async with client_session(target) as http, http.post(url, json=body, headers=target.headers()) as response:
            reply = await response.json()
            tokens = ((reply["choices"][0].get("logprobs") or {}).get("content")) or ()
    except (aiohttp.ClientError, KeyError, ValueError) as error:
        return f"an answer differs; where could not be asked: {error!r}"
    if not tokens:
        return "an answer differs; this engine gives no log-probabilities to say where"
    found = parting(tokens, text)
    if found is None:
        return "an answer differed; the same question now has that very answer"
    gap = "which is not among the likeliest" if found.gap is None else f"{found.gap:.4f} less likely in log-probability"
    return f"an answer differs from token {found.place}: {found.other!r} for {found.token!r}, {gap}"


def _bytes(item: Mapping[str, Any]) -> bytes:
    given = item.get("bytes")
    return str(item["token"]).encode() if given is None else bytes(given)
