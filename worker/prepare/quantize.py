"""Carries a quantization out in three stages, each of which a broken run goes on from: calibrate, export, complete.

What is not finished is in `OUT.partial`. `OUT` appears at the end, whole, by one rename.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from qwenserve.worker.prepare.build import missing_package
from qwenserve.worker.prepare.describe import content_hash
from qwenserve.worker.prepare.quantize_plan import CannotQuantize, QuantizeOptions, QuantizePlan

RECORD = "qwenserve-quantize.json"
# What a router and the engines need beside the weights. The export writes none of them, or its own reading of them.
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)
_CALIBRATED, _EXPORT, _EXPORTED = "calibrated.pt", "export", "exported"


class Backend(Protocol):
    """Who does the computing."""

    def versions(self) -> Mapping[str, str]:
        """Returns the versions of the packages that decide what comes out."""

    def calibrate(self, source: Path, options: QuantizeOptions, state: Path, tell: Callable[[str], None]) -> None:
        """Loads the model, looks at its activations, and writes what `export` needs to `state`."""

    def export(
        self, source: Path, options: QuantizeOptions, state: Path, folder: Path, tell: Callable[[str], None]
    ) -> None:
        """Writes the quantized weights and their configuration to `folder`."""


def run_quantize(plan: QuantizePlan, backend: Backend, *, tell: Callable[[str], None]) -> bool:
    """Makes `plan.out`, going on where an earlier run of the same plan broke off. Returns False where it is there
    already. Raises CannotQuantize."""
    record = {
        "model": content_hash(plan.source),
        "options": asdict(plan.options),
        "calibration": _digest(plan.options),
        "versions": dict(backend.versions()),
    }
    partial = plan.partial
    if _is_there(plan, record, tell):
        # Left by a run that was killed after its last step but this one.
        shutil.rmtree(partial, ignore_errors=True)
        return False
    if _record_of(partial) != record:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial / RECORD, record)
    state, export, exported = partial / _CALIBRATED, partial / _EXPORT, partial / _EXPORTED
    if state.exists():
        tell("[1/3] calibrated: kept from an earlier run")
    else:
        tell("[1/3] calibrate")
        unfinished = state.with_suffix(".unfinished")
        backend.calibrate(plan.source, plan.options, unfinished, tell)
        unfinished.rename(state)
    if exported.exists():
        tell("[2/3] exported: kept from an earlier run")
    else:
        tell("[2/3] export")
        shutil.rmtree(export, ignore_errors=True)
        backend.export(plan.source, plan.options, state, export, tell)
        exported.touch()
    tell("[3/3] tokenizer, template and generation configuration")
    _complete(plan, export, record)
    shutil.rmtree(partial)
    return True


def run_command(
    plan: QuantizePlan,
    version: str,
    *,
    tell: Callable[[str], None],
    run: Callable[[Sequence[str]], int] = lambda command: subprocess.run(command, check=False).returncode,
) -> bool:
    """Makes `plan.out` by the plan's command, which starts over where it broke off. Returns False where it is there
    already. Raises CannotQuantize."""
    record = {
        "model": content_hash(plan.source),
        "options": asdict(plan.options),
        "calibration": _digest(plan.options),
        "versions": {"tensorrt_llm": version},
    }
    if _is_there(plan, record, tell):
        return False
    if missing := missing_package():
        raise CannotQuantize(missing)
    shutil.rmtree(plan.partial, ignore_errors=True)
    tell(" ".join(plan.command))
    if code := run(plan.command):
        raise CannotQuantize(f"the command failed with exit code {code}; its output above says why")
    _complete(plan, plan.partial, record)
    return True


def _is_there(plan: QuantizePlan, record: Mapping[str, Any], tell: Callable[[str], None]) -> bool:
    if not plan.out.exists():
        return False
    if _record_of(plan.out) != record:
        raise CannotQuantize(f"{plan.out} exists and is something else; remove it or choose another --out")
    tell(f"{plan.out} is this already: nothing to do")
    return True


def _complete(plan: QuantizePlan, made: Path, record: Mapping[str, Any]) -> None:
    for name in COPIED:
        if (plan.source / name).exists():
            shutil.copy2(plan.source / name, made / name)
    _write(made / RECORD, record)
    for file in made.iterdir():
        if file.is_file():
            file.chmod(0o644)  # the export's weights are their maker's alone, and a worker may be another user
    made.rename(plan.out)


def _digest(options: QuantizeOptions) -> str:
    return content_hash(Path(options.calibration)) if options.calibration else ""


def _write(file: Path, record: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _record_of(folder: Path) -> Any:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
