"""Values: objects that are not changed once they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen_value(cls: type[T]) -> type[T]:
    """Makes a class with annotated fields a dataclass with slots, whose fields type checkers let nobody set.

    At run time nothing keeps anybody from it, because that costs more than the rest of a short-lived value: a frozen
    dataclass sets each field by a call. A NamedTuple, which is made quickly, finds each field that is read by a general
    look-up, at three times the cost of a slot's; so this is for values that are read often, NamedTuple for others.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
