"""Who used how much: metrics for each key, and a log that is only added to.

The log is opened for every line, so that it can be moved away at any time. A line has no text of prompt or answer.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from qwenserve.router.chat.answer import AnswerOutcome
from qwenserve.router.outcomes import outcome_name
from qwenserve.runtime.config import AuthConfig
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics import RouterMetrics

_log = EventLog("usage")


class UsageRecorder:
    """Called once per answer; those without a key are nobody's."""

    def __init__(self, config: AuthConfig, metrics: RouterMetrics, model: str) -> None:
        self._file = Path(config.usage_log).expanduser() if config.usage_log else None
        self._model = model
        self._failing = False
        self._answers = metrics.counters(
            "qwenserve_key_requests", "Finished answers by key and outcome.", ["key", "outcome"]
        )
        self._tokens = metrics.counters("qwenserve_key_tokens", "Tokens by key: prompt or completion.", ["key", "kind"])

    def __call__(self, outcome: AnswerOutcome) -> None:
        """Records an outcome, and ends its place among the answers of its key."""
        call, usage = outcome.call, outcome.usage
        if call.admission is not None:
            call.admission.settle(usage.prompt_tokens + usage.completion_tokens)
        if not call.key_id:
            return
        name = outcome_name(outcome)
        self._answers.labels(call.key_id, name).inc()
        self._tokens.labels(call.key_id, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(call.key_id, "completion").inc(usage.completion_tokens)
        if self._file is not None:
            line = {
                "time": round(time.time(), 3),
                "key": call.key_id,
                "request_id": call.request_id,
                "model": self._model,
                "kind": outcome.kind,
                "outcome": name,
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
            }
            self._append(self._file, json.dumps(line) + "\n")

    def _append(self, file: Path, line: str) -> None:
        try:
            handle = os.open(file, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                # One write: lines of several routers stay whole.
                os.write(handle, line.encode())
            finally:
                os.close(handle)
            self._failing = False
        except OSError as error:
            if not self._failing:  # once, not for every answer
                _log.error("usage_not_written", file=str(file), reason=error.strerror or str(error))
            self._failing = True
