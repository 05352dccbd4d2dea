"""ModelOpt itself on the small model: broken off at three moments, gone on with, and proved from the exported files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from qwenserve.worker.prepare.checkpoint import measure_checkpoint
from qwenserve.worker.prepare.compare import Thresholds, compare
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.formats import why_not
from qwenserve.worker.prepare.modelopt_backend import ModelOpt, calibration_texts, missing_packages
from qwenserve.worker.prepare.quantize import run_quantize
from qwenserve.worker.prepare.quantize_plan import QuantizeOptions, plan_quantize
from qwenserve.worker.prepare.texts import CHECK, read_texts

TINY = Path(__file__).parents[2] / "models" / "qwen3-tiny"

pytestmark = [
    pytest.mark.skipif(find_spec("modelopt") is None or find_spec("torch") is None, reason=missing_packages()),
    # ModelOpt and transformers warn of each other's versions.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(1200),
]


class Broken(Exception):
    """Stands for a kill."""


class BreaksOff(ModelOpt):
    """ModelOpt, broken off after its first texts, or in its export."""

    def __init__(self) -> None:
        self.breaks_in = ""
        self.calibrations = 0

    def calibrate(self, source: Path, options: QuantizeOptions, state: Path, tell: Callable[[str], None]) -> None:
        def broken(line: str) -> None:
            raise Broken

        super().calibrate(source, options, state, broken if self.breaks_in == "calibrate" else tell)
        self.calibrations += 1

    def export(
        self, source: Path, options: QuantizeOptions, state: Path, folder: Path, tell: Callable[[str], None]
    ) -> None:
        super().export(source, options, state, folder, tell)
        if self.breaks_in == "export":
            (folder / "model.safetensors").write_bytes(b"half")
            raise Broken


def test_fp8_is_made_on_a_cpu_and_agrees_with_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever broke off, the result is whole, has the original's tokenizer, and says nearly the same."""
    options = QuantizeOptions("fp8", samples=4, max_tokens=64)
    assert len(calibration_texts(TINY, options)) == 4
    plan = plan_quantize(describe(TINY), options, tmp_path / "fp8", Path("/examples"))
    backend = BreaksOff()
    for moment in ("calibrate", "export", "complete"):
        backend.breaks_in = moment
        with pytest.MonkeyPatch.context() as patched:
            if moment == "complete":
                patched.setattr("qwenserve.worker.prepare.quantize.shutil.copy2", _broken)
            with pytest.raises(Broken):
                run_quantize(plan, backend, tell=print)
        assert not plan.out.exists()
    backend.breaks_in = ""

    assert run_quantize(plan, backend, tell=print)

    assert backend.calibrations == 1
    made = describe(plan.out)
    assert (made.kind, made.tokenizer, why_not(made.kind, "vllm")) == ("FP8", describe(TINY).tokenizer, "")
    assert made.weight_bytes < 0.6 * describe(TINY).weight_bytes
    texts = read_texts(CHECK, _ids, limit=3, max_tokens=96)
    found = compare(*(measure_checkpoint(each, texts, 0, print) for each in (describe(TINY), made)))
    assert found.mean_kl > 0
    assert Thresholds().missed(found) == []


def _broken(*arguments: object) -> None:
    raise Broken


def _ids(text: str) -> list[int]:
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids
