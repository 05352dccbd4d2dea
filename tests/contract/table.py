"""What engines honour, field by field, as a table: `python -m tests.contract.table` writes it into docs/engines.md.

It runs the contract suite first, and writes nothing where an engine fails it: what the table says is proven by the
suite or declared by the engine. Engines whose package is not installed keep the column that they have.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

from qwenserve.worker.engine_interface import Engine, EngineInfo, EngineRequest, GuideKind, Sampling
from qwenserve.worker.engines.trtllm.engine import describe
from tests.contract.engine_contract import driving
from tests.contract.test_engine_llamacpp import TestLlamaCppEngine
from tests.contract.test_engine_sglang_double import TestSglangEngine
from tests.contract.test_engine_simulated import TestSimulatedEngine
from tests.contract.test_engine_trtllm_double import engine_over_double
from tests.contract.test_engine_vllm_double import engine_over
from tests.worker.engines.trtllm.double import install
from tests.worker.engines.vllm.double import VllmDouble

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "engines.md"
HAS_TORCH = find_spec("torch") is not None
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
EXACT, NO = "exact", "no"
ENGINES = ("llamacpp", "transformers", "vllm", "sglang", "trtllm", "simulated")
# Those that run over a stand-in here.
STAND_INS = frozenset({"sglang", "trtllm"})
NOT_FIELDS = frozenset({"key", "prompt_token_ids", "sampling", "guide", "guide_offset", "traceparent"})
SPECIAL = {"<think>": 7, "</think>": 8, "<tool_call>": 9, "</tool_call>": 10}

# By row: `exact`, `no`, or what is different.
Column = Mapping[str, str]


def rows() -> list[str]:
    """The names of the rows: fields of a request, then kinds of guides."""
    named = [field.name for field in fields(Sampling)]
    named += [field.name for field in fields(EngineRequest) if field.name not in NOT_FIELDS]
    return [*named, "guide", *(f"guide: {kind.name.lower()}" for kind in GuideKind)]


def column_of(info: EngineInfo) -> Column:
    """Returns what an engine declares, row by row."""
    cells = {}
    for row in rows():
        if row.startswith("guide: "):
            kind = GuideKind[row.removeprefix("guide: ").upper()]
            cells[row] = EXACT if kind in info.guide_kinds else NO
        elif row in info.unsupported_fields or (row == "guide" and not info.guide_kinds):
            cells[row] = NO
        else:
            cells[row] = info.approximate_fields.get(row, EXACT)
    return cells


def columns() -> Iterator[tuple[str, Column]]:
    """The columns of all engines that can be made here, with everything that they can do switched on."""
    with tempfile.TemporaryDirectory() as folder:
        for name, made in _makers(Path(folder)).items():
            yield name, column_of(made())


def _makers(folder: Path) -> Mapping[str, Callable[[], EngineInfo]]:
    def started(engine: Engine) -> EngineInfo:
        async def info() -> EngineInfo:
            async with driving(engine) as driver:
                return driver.info

        return asyncio.run(info())

    def llamacpp() -> EngineInfo:
        suite = TestLlamaCppEngine()
        suite.use_model_below(folder)
        return started(suite.make_engine())

    def transformers() -> EngineInfo:
        from tests.engines.test_transformers import TestTransformersEngine

        suite = TestTransformersEngine()
        suite.use_model_below(folder)
        return started(suite.make_engine())

    def trtllm() -> EngineInfo:
        with pytest.MonkeyPatch.context() as patched:
            install(patched)
            return describe(engine_over_double(guides=True, special_ids=SPECIAL)._config)

    makers: dict[str, Callable[[], EngineInfo]] = {
        "llamacpp": llamacpp,
        "vllm": lambda: started(engine_over(VllmDouble(), guides=True, special_ids=SPECIAL)),
        "sglang": lambda: started(TestSglangEngine().make_engine()),
        "trtllm": trtllm,
        "simulated": lambda: started(TestSimulatedEngine().make_engine()),
    }
    if HAS_TORCH:
        makers["transformers"] = transformers
    return makers


def rendered(found: Mapping[str, Column]) -> str:
    """Returns the table and its notes."""
    notes: dict[str, int] = {}

    def cell(text: str) -> str:
        if text in (EXACT, NO):
            return text
        return f"nearly ({notes.setdefault(text, len(notes) + 1)})"

    heads = [f"{name}{' *' if name in STAND_INS else ''}" for name in ENGINES]
    lines = [f"| field | {' | '.join(heads)} |", "|---" * (len(ENGINES) + 1) + "|"]
    lines += [f"| {_code(row)} | {' | '.join(cell(found[name][row]) for name in ENGINES)} |" for row in rows()]
    lines += ["", *(f"{number}. {text}" for text, number in notes.items())]
    return "\n".join(lines) + "\n"


def parsed(text: str) -> dict[str, Column]:
    """Returns the columns of a rendered table."""
    lines = text.splitlines()
    notes = dict(line.split(". ", 1) for line in lines if line[:1].isdigit())
    table = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    found: dict[str, dict[str, str]] = {name: {} for name in ENGINES}
    for row, *cells in table[2:]:
        for name, text_of_cell in zip(ENGINES, cells, strict=True):
            number = text_of_cell.removeprefix("nearly (").removesuffix(")")
            found[name][row.replace("`", "")] = notes.get(number, text_of_cell)
    return dict(found)


def written() -> dict[str, Column]:
    """Returns the columns that the page has."""
    return parsed(PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0])


def _code(row: str) -> str:
    return f"`guide`: {row.removeprefix('guide: ')}" if row.startswith("guide: ") else f"`{row}`"


def main(arguments: Sequence[str]) -> int:
    """Returns an exit code."""
    suites = [str(path) for path in sorted((ROOT / "tests" / "contract").glob("test_engine_*.py"))]
    if HAS_TORCH:
        suites.append(str(ROOT / "tests" / "engines" / "test_transformers.py"))
    if code := pytest.main(["-q", *suites, *arguments]):
        print("an engine does not keep the contract: the table stays as it is", file=sys.stderr)
        return int(code)
    write()
    return 0


def write() -> None:
    """Writes the columns of the engines that can be made here into the page."""
    found = {**dict.fromkeys(ENGINES, dict.fromkeys(rows(), "?")), **written(), **dict(columns())}
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + rendered(found) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
