"""One endpoint: what a face puts into the table that the dispatcher serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from qwenserve.router.http.transport.errors import ErrorFormat
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.field_rows import Field
from qwenserve.router.http.transport.json_body import BodyModel
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.values import frozen_value

# The placeholder in a path for a part that may be anything, slashes included; always at the end.
NAME = "{name}"


class BodySchema(NamedTuple):
    """The body that an endpoint takes. `name` is its schema's name in the service's description, `fields` the table of
    its face; empty where it has none.
    """

    name: str
    model: BodyModel
    fields: Mapping[str, Field]


@frozen_value
class Endpoint:
    """One endpoint. `guarded` ones want a key where keys are set. `quiet` ones are logged for developers only: probes
    and scrapes come every few seconds. `generates`: its log line names the model and whether the answer is streamed.
    """

    method: str
    path: str
    kind: str
    answer: Callable[[Exchange], Awaitable[Reply]]
    errors: ErrorFormat
    guarded: bool = True
    quiet: bool = False
    generates: bool = False
    body: BodySchema | None = None
    # A second name under which replies have the request's id, where the face's clients look for one.
    id_header: str = ""

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs that it answers."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def stem(self) -> str:
        """The path before its variable part."""
        return self.path.partition(NAME)[0]

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (self.answer.__doc__ or "").partition("\n")[0]

    def matches(self, path: str) -> bool:
        """Whether a request's path belongs to this endpoint."""
        if NAME not in self.path:
            return path == self.path
        stem = self.stem
        return path.startswith(stem) and len(path) > len(stem)
