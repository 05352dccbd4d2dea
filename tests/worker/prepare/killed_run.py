"""A run of `run_quantize` that says where it is and waits to be killed there. For test_quantize.py: `FOLDER MOMENT`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qwenserve.worker.prepare import quantize
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.quantize_plan import QuantizeOptions, plan_quantize

TINY = Path(__file__).parents[3] / "models" / "qwen3-tiny"


class Scripted:
    """Writes what a real backend would, in name."""

    def __init__(self, moment: str) -> None:
        self._moment = moment

    def versions(self) -> Mapping[str, str]:
        return {"scripted": "1"}

    def calibrate(self, source: Path, options: QuantizeOptions, state: Path, tell: Callable[[str], None]) -> None:
        state.write_text("half")
        self.reached("calibrate")
        state.write_text("state")

    def export(
        self, source: Path, options: QuantizeOptions, state: Path, folder: Path, tell: Callable[[str], None]
    ) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        self.reached("export")
        (folder / "config.json").write_text("{}")

    def reached(self, moment: str) -> None:
        print(moment, flush=True)
        if moment == self._moment:
            time.sleep(300)


def main(folder: Path, moment: str) -> None:
    backend = Scripted(moment)
    copy, remove = shutil.copy2, shutil.rmtree

    def copying(*arguments: Any) -> Any:
        backend.reached("complete")
        return copy(*arguments)

    def removing(path: Path, *arguments: Any, **more: Any) -> None:
        if (folder / "out").exists():
            backend.reached("renamed")
        remove(path, *arguments, **more)

    shutil.copy2, shutil.rmtree = copying, removing  # type: ignore[assignment]  # the module's own, for all its users
    plan = plan_quantize(describe(TINY), QuantizeOptions("fp8"), folder / "out", Path("/examples"))
    quantize.run_quantize(plan, backend, tell=lambda line: None)
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
