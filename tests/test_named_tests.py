"""Pages promise things and name the test that shows each: those tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NAMED = re.compile(r"`(tests/[a-z_/0-9]+\.py)(?:::([a-z_0-9]+))?`")
PAGES = sorted((*ROOT.glob("docs/*.md"), ROOT / "README.md"))


def functions_of(file: Path) -> set[str]:
    """Names of a test file's functions, in classes too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_tests_that_exist(page: Path):
    """Files, and the functions in them."""
    for name, function in _NAMED.findall(page.read_text(encoding="utf-8")):
        file = ROOT / name
        assert file.is_file(), f"{page.name} names {name}"
        assert not function or function in functions_of(file), f"{page.name} names {name}::{function}"


def test_each_promise_of_security_names_a_test():
    """Every part of the page that promises something does."""
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    parts = text.split("\n## ")[2:]
    assert len(parts) >= 6
    assert [part.splitlines()[0] for part in parts if not _NAMED.search(part)] == []
