"""Command-line parsing that names the nearest flag for one that does not exist."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any


class FlagParser(argparse.ArgumentParser):
    """An argument parser whose unknown flags are errors with the nearest flag of that very command.

    Parsers of commands made below it are of this class too, so a flag is compared with those of its own command.
    """

    def parse_known_args(  # type: ignore[override]  # argparse's overloads say the same, in three ways
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[Any, list[str]]:
        """Parses; whatever is left over is an error here, and not in the parser above."""
        values, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._unknown(left[0]))
        return values, left

    def _unknown(self, given: str) -> str:
        name = given.partition("=")[0]
        if not name.startswith("-"):
            return f"unexpected argument {given!r}"
        known = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"see `{self.prog} --help`"
        return f"unknown flag {name}; {remedy}"
