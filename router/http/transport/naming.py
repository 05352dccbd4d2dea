"""Errors name the fields that their caller sent.

The router says which field of the request message is at fault. A face may know it by another name, or by several: the
table of its fields says which, and the request which of them it was.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Collection, Mapping
from typing import TypeVar

from qwenserve.router.http.transport.field_rows import Field
from qwenserve.runtime.errors import ServiceError

T = TypeVar("T")

# What the router calls these fields of its messages.
_CALLED = {"stop_strings": "stop", "prompts": "prompt"}
_FIRST = re.compile(r"\w*")


def other_names(fields: Mapping[str, Field]) -> Mapping[str, str]:
    """Returns the fields of a face that the router knows by another name: the face's name, and the router's."""
    found = {}
    for name, field in fields.items():
        part, _, last = field.target.rpartition(".")
        known = _CALLED.get(last, last)
        if part not in ("", "shim") and known != name:
            found[name] = known
    return found


def names_given(others: Mapping[str, str], given: Collection[str]) -> dict[str, str]:
    """Returns, by the router's names, those that a request has used instead."""
    names: dict[str, str] = {}
    if others.keys().isdisjoint(given):  # most use the router's
        return names
    for name in given:
        known = others.get(name)
        if known is not None and known not in given:
            names.setdefault(known, name)
    return names


async def naming(names: Mapping[str, str], work: Awaitable[T]) -> T:
    """Waits for work whose errors get the names of the fields that the caller sent.

    A path goes on behind the name of a guide only: elsewhere its parts are the router's too.
    """
    try:
        return await work
    except ServiceError as error:
        param = error.param or ""
        known = _FIRST.match(param)
        name = names.get(known.group()) if known is not None else None
        if known is None or name is None:
            raise
        rest = param[known.end() :] if known.group() == "guide" else ""
        named = name + rest
        message = error.message
        if message.startswith(param):
            message = named + message[len(param) :]
        elif message.startswith(known.group()):
            message = name + message[known.end() :]
        # Words that are nothing but names.
        for word in names:
            if "_" in word:
                message = re.sub(rf"\b{word}\b", names[word], message)
        raise type(error)(message, param=named, metadata=error.metadata, retry_after_s=error.retry_after_s) from None
