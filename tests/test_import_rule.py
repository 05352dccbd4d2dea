"""Who may import whom: the layers stay what they are because this test says so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "cli", "router", "runtime", "store", "text", "tokenizer_svc", "worker")
# What faces know of the use case: who calls, what can be asked, and an answer put together.
USE_CASE = ("router.chat.call", "router.chat.events", "router.chat.fold", "router.chat.interface")
TIERS = frozenset({"router", "tokenizer_svc", "worker"})
# Whatever is ours in an import statement. The folders' bare names are here too: nothing may be imported by them.
OURS = frozenset({*PACKAGES, "qwenserve", "models", "tests"})
STUBS = re.compile(r"qwenserve\.[a-z_]+\.v1(\.|$)")


class Rule(NamedTuple):
    """Modules below `where` import, of ours, only what is below `allowed`, and stubs below `stubs`; nothing of
    `forbidden`.
    """

    where: str
    allowed: tuple[str, ...]
    forbidden: tuple[str, ...] = ()
    stubs: tuple[str, ...] = ("chat", "cluster", "tokenizer", "type", "worker")

    def allows(self, module: str) -> bool:
        if any(is_below(module, package) for package in self.forbidden):
            return False
        among = self.stubs if STUBS.match(module) else self.allowed
        return module.partition(".")[0] not in OURS or any(is_below(module, f"qwenserve.{each}") for each in among)


ENGINES = tuple(sorted(path.parent.name for path in ROOT.glob("worker/engines/*/__init__.py")))

RULES = (
    # Conversations are taken as they arrive; nothing else of the contracts is known to the text library. What makes a
    # class a value is for all.
    Rule("text", ("text", "runtime.values"), stubs=("chat.v1.message_pb2",)),
    Rule("runtime", ("runtime",)),
    Rule("tokenizer_svc", ("tokenizer_svc", "text", "runtime", "store")),
    Rule("store", ("store", "runtime"), stubs=()),
    Rule("router", ("router", "text", "runtime", "store")),
    Rule("worker", ("worker", "runtime", "store")),
    Rule("router.http", ("router.http", *USE_CASE, "runtime")),
    # A face knows what all faces share, and no other face.
    Rule("router.http.transport", ("router.http.transport", *USE_CASE, "runtime")),
    Rule("router.http.anthropic", ("router.http.anthropic", "router.http.transport", *USE_CASE, "runtime")),
    Rule(
        "router.http.responses",
        # Both are OpenAI's, and tell errors alike.
        ("router.http.responses", "router.http.openai.errors", "router.http.transport", *USE_CASE, "runtime"),
    ),
    Rule("router.http.openai", ("router.http.openai", "router.http.transport", *USE_CASE, "runtime")),
    # Nothing of a model, its text or its workers: only what faces ask for, over gRPC.
    Rule("router.shim", ("router.shim", "router.http", *USE_CASE, "runtime")),
    Rule(
        "router.generation",
        ("router.generation", "router.clients.worker_session", "router.tracing.request_trace", "runtime"),
    ),
    Rule("router.routing", ("router.routing", "runtime.block_hash", "runtime.values"), ("grpc", "redis")),
    *(
        Rule(
            f"worker.engines.{engine}",
            ("worker", "runtime", "store"),
            tuple(f"qwenserve.worker.engines.{other}" for other in ENGINES if other != engine),
        )
        for engine in ENGINES
    ),
)


class Import(NamedTuple):
    """One import of one module."""

    module: str
    line: int
    imported: str


def modules_below(package: str) -> Iterator[tuple[str, Path]]:
    """The modules of a folder, named as they are imported; links to the stubs are left out."""
    for path in sorted(ROOT.joinpath(*package.split(".")).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("qwenserve", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        if not STUBS.match(name):
            yield name, path


def imports_of(name: str, path: Path) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from router import http` imports router.http: what is named counts as well as where from.
            yield from (Import(name, node.lineno, f"{base}.{alias.name}") for alias in node.names)


def is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def violations(rule: Rule) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{each.line} imports {each.imported}"
        for name, path in modules_below(rule.where)
        for each in imports_of(name, path)
        # The package itself says where the installation is; it holds nothing else.
        if each.imported != "qwenserve" and not rule.allows(each.imported)
    ]


def engines() -> list[str]:
    return sorted(path.name for path in ROOT.joinpath("worker", "engines").iterdir() if (path / "__init__.py").exists())


def test_an_engine_is_known_in_its_own_folder_only():
    """The table of engines names them as text: what runs one engine loads no other."""
    assert len(engines()) > 1
    found = [
        f"{path.relative_to(ROOT)}:{each.line} imports {each.imported}"
        for name, path in modules_below("worker")
        for each in imports_of(name, path)
        if is_below(each.imported, "qwenserve.worker.engines")
        and not is_below(each.imported, ".".join(name.split(".")[:4]))
    ]
    assert found == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.where)
def test_layers(rule):
    """Each layer imports only what is below it."""
    assert violations(rule) == []


def test_tiers_do_not_import_each_other():
    """Routers, workers and tokenizers share contracts and runtime, never code of each other."""
    for rule in RULES:
        tier = rule.where.partition(".")[0]
        if tier in TIERS:
            assert not any(is_below(package, other) for package in rule.allowed for other in TIERS - {tier})


@pytest.mark.parametrize("package", PACKAGES)
def test_sources_do_not_import_tests(package):
    """What is shipped runs without the tests."""
    named = [each for name, path in modules_below(package) for each in imports_of(name, path)]
    assert named, f"{package} has no modules to look at"
    assert [each for each in named if is_below(each.imported, "tests")] == []


def test_rule_sees_every_form_of_import(tmp_path):
    """Plain, from, relative and nested imports are all seen."""
    source = "import qwenserve.router.http\ndef f():\n    from qwenserve.worker import main\n"
    source += "from . import a\nfrom ..b import c\n"
    path = tmp_path / "module.py"
    path.write_text(source)

    seen = [each.imported for each in imports_of("pack.inner.module", path)]

    assert sorted(seen) == ["pack.b.c", "pack.inner.a", "qwenserve.router.http", "qwenserve.worker.main"]
