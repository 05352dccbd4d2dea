"""Texts to calibrate with and to compare on: JSONL files, one conversation a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CALIBRATION = Path(__file__).with_name("calibration.jsonl")
CHECK = Path(__file__).with_name("check.jsonl")
_FORMS = '{"prompt": …, "answer": …}, {"text": …} or {"messages": […]}'


class BadTexts(Exception):
    """A file of texts that cannot be used. The text names file, line and remedy."""


class Text(NamedTuple):
    """A text in token ids. The answer begins at `prompt_tokens`, which is the end where there is none."""

    token_ids: tuple[int, ...]
    prompt_tokens: int


def read_texts(
    file: Path,
    encode: Callable[[str], Sequence[int]],
    render: Callable[[Sequence[Any]], str] | None = None,
    *,
    limit: int,
    max_tokens: int,
) -> list[Text]:
    """Returns up to `limit` texts of two ids or more, each cut after `max_tokens`. `render` makes text of messages.
    Raises BadTexts."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTexts(f"{file} cannot be read: {error}") from None
    found: list[Text] = []
    for number, line in enumerate(lines, 1):
        if len(found) == limit:
            break
        if line.strip():
            prompt, answer = _parts(line, f"{file}:{number}", render)
            before = list(encode(prompt))
            ids = (before + list(encode(answer)) if answer else before)[:max_tokens]
            if len(ids) > 1:
                found.append(Text(tuple(ids), min(len(before), len(ids))))
    if not found:
        raise BadTexts(f"{file} has no text; a line is {_FORMS}")
    return found


def _parts(line: str, where: str, render: Callable[[Sequence[Any]], str] | None) -> tuple[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        prompt, answer, text, messages = (value.get(key) for key in ("prompt", "answer", "text", "messages"))
        if isinstance(prompt, str) and isinstance(answer, str | None):
            return prompt, answer or ""
        if isinstance(text, str):
            return text, ""
        if isinstance(messages, list) and render is not None:
            return render(messages), ""
    raise BadTexts(f"{where} is none of {_FORMS}")
