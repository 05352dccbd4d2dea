"""What is no public API of a library is used in one module for each, in releases that somebody has looked at.

A newer release than those fails here first. Looking at it means: read how the library's new release does what the
module rests on, run the module's tests, and raise the bound here and in the module or pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from qwenserve.runtime import grpc_core, json_text
from qwenserve.text import tiktoken_core, tokenizers_parts

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "cli", "router", "runtime", "store", "text", "tokenizer_svc", "worker")


class Use(NamedTuple):
    """Where private names of a library are used: `modules`, and no others. `gate` is the first release that nobody has
    looked at as the module states it, None where pyproject.toml alone bounds the library."""

    library: str
    names: frozenset[str]
    modules: tuple[str, ...]
    not_looked_at: tuple[int, int]
    gate: tuple[int, int] | None = None


USES = (
    Use("tiktoken", frozenset({"CoreBPE"}), ("text/tiktoken_core.py",), (0, 15), tiktoken_core.NOT_LOOKED_AT),
    Use(
        "tokenizers",
        frozenset({"__getstate__"}),
        ("text/tokenizers_parts.py",),
        (0, 24),
        tokenizers_parts.NOT_LOOKED_AT,
    ),
    Use(
        "grpcio",
        frozenset({"GRPC_EXPERIMENTS", "socketpair"}),
        ("runtime/grpc_core.py", "runtime/grpc_wakeups.py"),
        (1, 86),
        grpc_core.NOT_LOOKED_AT,
    ),
    Use(
        "aiohttp",
        frozenset({"StreamResponse", "http_exceptions", "BadHttpMessage", "HttpProcessingError"}),
        (
            "router/http/transport/reply.py",
            "router/http/transport/parser_faults.py",
            "router/http/transport/connection.py",
        ),
        (3, 15),
    ),
    Use(
        "python",
        frozenset({"c_make_encoder", "encode_basestring"}),
        ("runtime/json_text.py",),
        (3, 14),
        json_text.NOT_LOOKED_AT,
    ),
)


# Every name of TensorRT-LLM that this module uses is held against a table of the package's own names by its tests; the
# package itself can be installed beside a GPU only.
NAMES_HELD_ELSEWHERE = "worker/engines/trtllm/native.py"
# Documented functions whose names begin with an underscore.
PUBLIC_IN_SPITE_OF_IT = frozenset({"os._exit"})


def installed(library: str) -> tuple[int, int]:
    if library == "python":
        return sys.version_info[:2]
    major, minor = version(library).split(".")[:2]
    return int(major), int(minor)


def bound(library: str) -> tuple[int, int] | None:
    """The upper bound in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = r'requires-python = "' if library == "python" else rf'^    "{library}>'
    line = re.search(rf"{wanted}.*", text, re.MULTILINE)
    assert line, f"{library} is no requirement"
    found = re.search(r"<(\d+)\.(\d+)", line.group())
    return (int(found[1]), int(found[2])) if found else None


@pytest.mark.parametrize("use", USES, ids=lambda use: use.library)
def test_only_releases_that_were_looked_at_are_trusted(use: Use) -> None:
    """The bound that counts is the one here, and what is installed is below it."""
    assert use.not_looked_at in (use.gate, bound(use.library))
    assert bound(use.library) in (None, use.not_looked_at)
    assert installed(use.library) < use.not_looked_at, f"look at what {use.modules} rest on, then raise the bound"


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def names_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # for getattr


def private_imports(tree: ast.Module) -> Iterator[str]:
    """Modules and names with a leading underscore."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            paths = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (path for path in paths if re.search(r"(^|\.)_(?!_)", path))


def private_attributes(tree: ast.Module) -> Iterator[str]:
    """Attributes with a leading underscore that this module gives to nothing of its own."""
    own = {"_asdict", "_fields", "_make", "_replace"}  # a named tuple's, which have it to stay out of the fields' way
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            own.add(node.value)  # slots
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and node.attr not in own:
            of = node.value
            # Of `self` and `super()` it is a base class's, which is ours: it is not looked at here.
            if not (isinstance(of, ast.Name) and of.id in ("self", "cls")) and not isinstance(of, ast.Call):
                yield f"{ast.unparse(of)}.{node.attr}"


def test_private_names_stay_in_their_modules() -> None:
    """Each is used where the table says, and nowhere else."""
    where: dict[str, set[str]] = {use.library: set() for use in USES}
    for name, tree in sources():
        seen = set(names_in(tree))
        for use in USES:
            if seen & use.names:
                where[use.library].add(name)

    assert where == {use.library: set(use.modules) for use in USES}


def test_nothing_private_is_imported_elsewhere() -> None:
    """No other module reaches for a name with an underscore in front, by import or on an object."""
    allowed = {module for use in USES for module in use.modules} | {NAMES_HELD_ELSEWHERE}
    found = {
        name: [*private_imports(tree), *private_attributes(tree)] for name, tree in sources() if name not in allowed
    }

    assert {name: left for name, paths in found.items() if (left := set(paths) - PUBLIC_IN_SPITE_OF_IT)} == {}


def test_the_search_sees_every_form() -> None:
    """Attributes, imports and names given to getattr; not the double underscores of Python's own."""
    tree = ast.parse("from __future__ import annotations\nfrom a._b import c\nimport d._e\nfrom f import _g\nh.i\n'j'")

    assert {"c", "_g", "i", "j"} <= set(names_in(tree))
    assert list(private_imports(tree)) == ["a._b.c", "d._e", "f._g"]
    assert list(private_attributes(ast.parse("self._z = x._y._replace(a=self._q)"))) == ["x._y"]
