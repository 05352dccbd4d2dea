"""Datasets in files: one job a line.

Written: `{"prompt_token_ids": [...] | "prompt": "..." | "messages": [...], "max_tokens": N}`, and conversations as
`{"turns": [{...}, ...]}` with one such object a turn. Read: the same, and the names that other tools use
(`input_ids`, `prompt_tokens` as ids; `output_tokens`, `output_len`, `max_completion_tokens` as limits).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenserve.bench.samples import ChatMessage, Job, Sample

_ID_NAMES = ("prompt_token_ids", "input_ids")
_LIMIT_NAMES = ("max_tokens", "max_completion_tokens", "output_tokens", "output_len")


def write_jobs(file: Path, jobs: Iterable[Job]) -> int:
    """Writes jobs, one a line; returns how many. Raises OSError."""
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for job in jobs:
            rows = [_row(sample) for sample in job]
            out.write(json.dumps(rows[0] if len(rows) == 1 else {"turns": rows}, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jobs(file: Path, *, default_output: int, limit: int | None = None) -> list[Job]:
    """Reads jobs. Raises ValueError naming file and line, OSError when it cannot be opened."""
    jobs: list[Job] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if limit is not None and len(jobs) >= limit:
                break
            jobs.append(_read_line(line, f"{file}, line {number}", default_output))
    if not jobs:
        raise ValueError(f"{file}: no samples")
    return jobs


def _read_line(line: str, where: str, default_output: int) -> Job:
    try:
        row = json.loads(line)
        rows: Sequence[Any] = row.get("turns", [row])
        return tuple(_read_sample(row, default_output) for row in rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _read_sample(row: Mapping[str, Any], default_output: int) -> Sample:
    output = int(next((row[name] for name in _LIMIT_NAMES if name in row), default_output))
    expected = int(row.get("expected_prompt_tokens", 0))
    for name in _ID_NAMES:
        if name in row:
            ids = tuple(int(i) for i in row[name])
            return Sample(output, token_ids=ids, expected_prompt_tokens=len(ids))
    if "messages" in row:
        messages = tuple(ChatMessage(str(m["role"]), str(m["content"])) for m in row["messages"])
        return Sample(output, messages=messages, expected_prompt_tokens=expected)
    if "prompt" in row:
        return Sample(output, text=str(row["prompt"]), expected_prompt_tokens=expected)
    raise ValueError("expected one of prompt, prompt_token_ids and messages")


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {"max_tokens": sample.max_tokens}
    if sample.token_ids:
        row["prompt_token_ids"] = list(sample.token_ids)
    elif sample.messages:
        row["messages"] = [message._asdict() for message in sample.messages]
    else:
        row["prompt"] = sample.text
    if sample.expected_prompt_tokens and not sample.token_ids:
        row["expected_prompt_tokens"] = sample.expected_prompt_tokens
    return row
