"""Rows of the tables that say what happens to each field of a request; every face has one.

A field is *applied* (written where `target` says), *refused* (it would change the answer and cannot be had, so the
caller hears why), or *ignored* (it changes nothing that a caller could rely on; named in `x-ignored-params`, fatal
under `strict`). A field that is not in the table is ignored. `null` always means unset.

Only types are checked here. Ranges are the router's business, which checks them for gRPC and HTTP alike.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import BeforeValidator, WithJsonSchema
from pydantic import Field as Limits

from qwenserve.runtime.errors import Unsupported


def _whole(value: Any) -> Any:
    """Accepts 4.0 as the integer 4: clients whose JSON writer knows one kind of number send it so."""
    return int(value) if type(value) is float and value.is_integer() else value


# How the service's description marks token ids; how far they go depends on the model.
ID_FORMAT = "token-id"
ID_SCHEMA = WithJsonSchema({"type": "integer", "minimum": 0, "format": ID_FORMAT})
# For lists of ids: calls no Python function for each element.
Id = Annotated[int, Limits(ge=-(2**31), le=2**31 - 1), ID_SCHEMA]
Int32 = Annotated[int, BeforeValidator(_whole), Limits(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, BeforeValidator(_whole), Limits(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Limits(allow_inf_nan=False)]
Objects = list[dict[str, Any]]


class Effect(enum.Enum):
    """What a field does."""

    APPLIED = "applied"
    REFUSED = "refused"
    IGNORED = "ignored"


class Face(enum.Flag):
    """The endpoints that know a field."""

    CHAT = enum.auto()
    COMPLETION = enum.auto()
    BOTH = CHAT | COMPLETION
    MESSAGES = enum.auto()
    RESPONSES = enum.auto()


class Draft(Protocol):
    """A request that is being read. `ignored` collects fields without effect, in order."""

    ignored: list[str]


class Field(NamedTuple):
    """One row. `target` is a path into the request message for applied fields (or `shim.…` for what the shim does
    itself), `note` the reason of a refusal or the meaning. Values in `harmless` ask for what happens anyway.
    """

    name: str
    kind: Any
    effect: Effect
    target: str
    example: Any
    note: str
    faces: Face
    harmless: tuple[Any, ...]
    write: Callable[[Any, Any], None]

    @property
    def apply(self) -> Callable[[Any, Any], None]:
        """The function that applies a value that is not null to a draft. Raises InvalidRequest or Unsupported."""
        return self._write_unless_harmless if self.harmless else self.write

    def _write_unless_harmless(self, request: Any, value: Any) -> None:
        if value not in self.harmless:
            self.write(request, value)


def _attribute(part: str, attribute: str) -> Callable[[Any, Any], None]:
    def write(request: Any, value: Any) -> None:
        setattr(getattr(request, part), attribute, value)

    return write


def applied(
    name: str,
    kind: Any,
    target: str,
    example: Any,
    note: str,
    write: Callable[[Any, Any], None] | None = None,
    *,
    faces: Face = Face.BOTH,
) -> Field:
    if write is None:
        part, _, attribute = target.rpartition(".")
        write = _attribute(part or "request", attribute)
    return Field(name, kind, Effect.APPLIED, target, example, note, faces, (), write)


def refused(name: str, example: Any, note: str, *, harmless: tuple[Any, ...] = (), faces: Face = Face.BOTH) -> Field:
    def write(request: Any, value: Any) -> None:
        raise Unsupported(f"{name}: {note}", param=name)

    return Field(name, Any, Effect.REFUSED, "", example, note, faces, harmless, write)


def ignored(name: str, example: Any, note: str, *, harmless: tuple[Any, ...] = (), faces: Face = Face.BOTH) -> Field:
    def write(request: Any, value: Any) -> None:
        request.ignored.append(name)

    return Field(name, Any, Effect.IGNORED, "", example, note, faces, harmless, write)


def fill(draft: Draft, appliers: Mapping[str, Callable[[Any, Any], None]], values: Mapping[str, Any]) -> None:
    """Applies the fields of a body to a draft; `appliers` has each row's `apply` by the field's name. Raises
    InvalidRequest or Unsupported, naming the field.
    """
    for name, value in values.items():
        if value is None:
            continue
        apply = appliers.get(name)
        if apply is None:
            draft.ignored.append(name)
        else:
            apply(draft, value)
