"""Reads what pip-audit found, as JSON, and says it: 1 for a vulnerability, 3 where some was not audited."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

_OWN = "qwenserve"


def verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[int, list[str]]:
    """Returns the exit code and what to print."""
    known = [each for each in dependencies if each["name"] != _OWN]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no release'}"
        for each in known
        for found in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in known if "skip_reason" in each]
    audited = len(known) - len(skipped)
    code = 1 if lines else 3 if skipped or not known else 0
    if skipped:
        shown = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        lines.append(
            f"{len(skipped)} packages could not be audited ({shown}): the index has no advisories, as mirrors often "
            "have none; run this where the public index can be reached"
        )
    return code, [*lines, f"{audited} packages audited"]


def main() -> int:
    """Prints the verdict; returns the exit code."""
    code, lines = verdict(json.load(sys.stdin)["dependencies"])
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
