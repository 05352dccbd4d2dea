"""JSON bodies: read and checked in one pass, and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import Required, TypedDict

from qwenserve.runtime.errors import InvalidRequest

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BodyModel:
    """A JSON object of known fields: checks types in one pass over the bytes, and leaves unknown fields in."""

    def __init__(self, name: str, kinds: Mapping[str, Any], required: str = "") -> None:
        optional = {field: kind if field == required else kind | None for field, kind in kinds.items()}
        if required:
            optional[required] = Required[optional[required]]
        make: Any = TypedDict  # built from the table at run time: there is no static type
        # Strict: "0.5" is no number and true is no count.
        body = with_config(ConfigDict(extra="allow", strict=True))(make(name, optional, total=False))
        self._names = optional.keys()
        self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(body)
        # The adapter's own method costs a quarter more: it offers every option that a validator may have.
        self._validate = self._adapter.validator.validate_json

    def read(self, body: bytes) -> dict[str, Any]:
        """Returns the fields. A name in the wrong case is taken where the right one is absent.

        Raises InvalidRequest naming the place: the position for broken JSON, else the field's path.
        """
        if body.startswith(_BYTE_ORDER_MARK):
            body = body[len(_BYTE_ORDER_MARK) :]
        try:
            values: dict[str, Any] = self._validate(body)
        except ValidationError as error:
            values = self._in_lower_case(body, error)
        if not values.keys() <= self._names:
            renamed = self._renamed(values)
            if renamed.keys() != values.keys():
                values = self._checked(renamed)
        return values

    def json_schema(self) -> dict[str, Any]:
        """The object's JSON schema."""
        return self._adapter.json_schema(ref_template="#/components/schemas/{model}")

    def _in_lower_case(self, body: bytes, error: ValidationError) -> dict[str, Any]:
        # The one required field may itself be spelt in another case.
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "missing" and len(first["loc"]) == 1 and isinstance(first["input"], dict):
            renamed = self._renamed(first["input"])
            if renamed.keys() != first["input"].keys():
                return self._checked(renamed)
        raise invalid(first)

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._adapter.validate_python(values)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_context=False)[0]) from None

    def _renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        renamed: dict[str, Any] = {}
        for name, value in values.items():
            lower = name.lower()
            wanted = name not in self._names and lower in self._names and lower not in values
            renamed[lower if wanted else name] = value
        return renamed


def invalid(problem: Mapping[str, Any]) -> InvalidRequest:
    """Returns a validation problem of pydantic's as an error that names the place."""
    message: str = problem["msg"]
    path = ""
    for part in problem["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if problem["type"] == "json_invalid":
        return InvalidRequest(f"the body is no valid JSON: {message.removeprefix('Invalid JSON: ')}")
    if not path:
        return InvalidRequest("the body must be a JSON object")
    if problem["type"] == "missing":
        return InvalidRequest(f"{path} is missing", param=path)
    return InvalidRequest(f"{path}: {message[:1].lower()}{message[1:]}", param=path)


def to_json(body: dict[str, Any] | list[Any]) -> bytes:
    """Returns compact JSON; text as it is, not as escapes."""
    # A third of the time of json.dumps, which makes a new encoder for every call.
    return pydantic_core.to_json(body)
