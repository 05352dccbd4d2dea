"""Texts that are never printed: keys and passwords."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_HIDDEN = "(hidden)"


class Secret(str):
    """A string to whoever uses it, and `(hidden)` to whoever prints it: in a message, a log line or a traceback."""

    __slots__ = ()

    def reveal(self) -> str:
        """Returns the plain text. For code that must pass it on, such as to a server."""
        return str.__str__(self)

    def __str__(self) -> str:
        return _HIDDEN if self else ""

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Reads like a string."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
