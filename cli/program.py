"""How a user can call this program again: what printed next steps begin with."""

from __future__ import annotations

import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

_NAME = "qwenserve"


@lru_cache(maxsize=1)
def program() -> str:
    """Returns `qwenserve` where the shell finds this very installation under that name, else a path that works."""
    own = Path(sys.executable).with_name(_NAME)
    if not own.exists():
        return f"{sys.executable} -m qwenserve.cli"
    found = shutil.which(_NAME)
    if found is not None and Path(found).absolute() == own:
        return _NAME
    relative = os.path.relpath(own)
    return str(own) if relative.startswith("..") else relative
