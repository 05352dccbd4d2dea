"""JSON text made piece by piece, with the parts of Python's `json` that have no public name.

`json.dumps` makes a C encoder for every value, which takes longer than a log line's fields or a streamed token's text
do. In a Python that nobody has looked at, or that lacks these parts, the public encoder does the same, slower.
"""

from __future__ import annotations

import json
import json.encoder
import sys
from collections.abc import Callable
from typing import Any

# The first release of Python where nobody has looked at `c_make_encoder` and `encode_basestring`.
NOT_LOOKED_AT = (3, 14)


def _inside(name: str) -> Any:
    """What the module calls `name`; None where that cannot be relied on, or without CPython's accelerator."""
    return getattr(json.encoder, name, None) if sys.version_info < NOT_LOOKED_AT else None


def public_encoder() -> Callable[[Any], str]:
    """Returns what makes JSON of a value: text as it is, not as escapes; what JSON has no form for as its `str`."""
    return json.JSONEncoder(ensure_ascii=False, default=str).encode


def new_encoder() -> Callable[[Any], str]:
    """Returns what `public_encoder` does, as one kept C encoder, without its look for values that hold themselves."""
    make = _inside("c_make_encoder")
    if make is None:
        return public_encoder()
    encode = make(None, str, quoted, None, ": ", ", ", False, False, True)
    return lambda value: "".join(encode(value, 0))


def public_quoted(text: str) -> str:
    """Returns a text in quotation marks, with the escapes that JSON asks for; others as they are."""
    return json.dumps(text, ensure_ascii=False)


# The same, without an encoder.
quoted: Callable[[str], str] = _inside("encode_basestring") or public_quoted
