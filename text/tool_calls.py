"""What reads the text of one tool call, whatever its form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

# Function name → JSON schema of its parameters, or None where any name will do.
ToolSchemas = Mapping[str, Mapping[str, Any]]


class CallParser(Protocol):
    """Reads one call from its text in any pieces; no text makes it raise.

    `name` is set once it is certain that this is a call of a known function; until then no arguments come out, and
    whoever drives the parser can still give all of the text back. `complete` is set when nothing more can come, and
    then the arguments are a JSON object and `rest` is the text behind the call. `broken` is set when the text is no
    call, or when a call was cut short.
    """

    name: str | None
    complete: bool
    broken: bool
    rest: str

    @property
    def in_value(self) -> bool:
        """Whether the text so far stops inside a string of the arguments."""

    @property
    def lacks_end_only(self) -> bool:
        """Whether nothing but closing brackets or tags is missing: no name, value or tag has been left half-written."""

    def push(self, text: str) -> str:
        """Takes more of the call; returns more of its arguments. Nothing may come after the call or a break."""

    def end(self, closed: bool) -> str:
        """Takes the call's end, by `</tool_call>` if `closed`; returns what is left of its arguments.

        A call that the model closed is made whole; one that was cut short with the answer is left as it is.
        """


class WrittenCall(NamedTuple):
    """A whole call."""

    name: str
    arguments: str


def tool_schemas(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """What parsers need of a request's tools, given in OpenAI's form or as bare functions.

    Parameters that are no object describe nothing, as missing ones do.
    """
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        parameters = function.get("parameters")
        schemas[function["name"]] = parameters if isinstance(parameters, Mapping) else {}
    return schemas
