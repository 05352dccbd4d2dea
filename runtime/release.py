"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Returns the installed version; "source" where the code runs from its folder without an installation."""
    try:
        return version("qwenserve")
    except PackageNotFoundError:
        return "source"
