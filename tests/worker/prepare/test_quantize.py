"""Quantizing in stages: whatever breaks off is gone on with, and the final name has everything or nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from models.train_qwen3_tiny import calibration
from qwenserve.cli.main import main
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.quantize import RECORD, run_command, run_quantize
from qwenserve.worker.prepare.quantize_plan import CannotQuantize, QuantizeOptions, QuantizePlan, plan_quantize
from qwenserve.worker.prepare.texts import CALIBRATION, CHECK, BadTexts, read_texts

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models" / "qwen3-tiny"
STAGES = ("calibrate", "export", "complete")


class Broken(Exception):
    """Stands for a kill in the middle of a stage."""


class Scripted:
    """A backend that writes what a real one would, in name, and breaks off where it is told."""

    def __init__(self) -> None:
        self.breaks_in = ""
        self.done: list[str] = []
        self.version = "1"

    def versions(self) -> Mapping[str, str]:
        return {"scripted": self.version}

    def calibrate(self, source: Path, options: QuantizeOptions, state: Path, tell: Callable[[str], None]) -> None:
        state.write_text("half")
        self._stage("calibrate")
        state.write_text("state")

    def export(
        self, source: Path, options: QuantizeOptions, state: Path, folder: Path, tell: Callable[[str], None]
    ) -> None:
        assert state.read_text() == "state"
        folder.mkdir()
        (folder / "config.json").write_text("{")
        self._stage("export")
        (folder / "config.json").write_text("{}")

    def _stage(self, name: str) -> None:
        if self.breaks_in == name:
            raise Broken
        self.done.append(name)


def made_plan(folder: Path, **options: object) -> QuantizePlan:
    chosen = QuantizeOptions(**{"format": "fp8", **options})  # type: ignore[arg-type]
    return plan_quantize(describe(TINY), chosen, folder / "out", Path("/examples"))


def quiet(line: str) -> None:
    """Nobody listens."""


def break_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise Broken

    monkeypatch.setattr("qwenserve.worker.prepare.quantize.shutil.copy2", broken)


@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_run_is_gone_on_with(tmp_path: Path, stage: str):
    """Broken in each stage: nothing stands under the final name, and finished stages are not done again."""
    plan, backend = made_plan(tmp_path), Scripted()
    backend.breaks_in = stage
    with pytest.MonkeyPatch.context() as patched:
        if stage == "complete":
            break_copying(patched)
        with pytest.raises(Broken):
            run_quantize(plan, backend, tell=quiet)
    assert not plan.out.exists()
    assert backend.done == list(STAGES[: STAGES.index(stage)])

    backend.breaks_in = ""
    assert run_quantize(plan, backend, tell=quiet)

    assert backend.done == ["calibrate", "export"]
    assert json.loads((plan.out / "config.json").read_text()) == {}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (plan.out / name).read_bytes() == (TINY / name).read_bytes()
    assert list(tmp_path.iterdir()) == [plan.out]
    assert not run_quantize(plan, backend, tell=quiet)
    assert backend.done == ["calibrate", "export"]


@pytest.mark.parametrize("moment", [*STAGES, "renamed"])
def test_a_killed_run_is_gone_on_with(tmp_path: Path, moment: str):
    """SIGKILL in each stage, and after the last one: the same command makes the result, and leaves nothing else."""
    command = [sys.executable, "-m", "tests.worker.prepare.killed_run", str(tmp_path), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if said[-1] == moment:
                break
        process.kill()
    assert said[-1] == moment
    assert process.returncode == -signal.SIGKILL
    plan, backend = made_plan(tmp_path), Scripted()
    assert plan.out.exists() == (moment == "renamed")

    assert run_quantize(plan, backend, tell=quiet) == (moment != "renamed")

    assert backend.done == ["calibrate", "export"][STAGES.index(moment) if moment in STAGES else 2 :]
    assert json.loads((plan.out / "config.json").read_text()) == {}
    assert list(tmp_path.iterdir()) == [plan.out]


@pytest.mark.parametrize("changed", ["options", "versions", "calibration"])
def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path: Path, changed: str):
    """Another option, version or calibration text starts over, and does not overwrite what is finished."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one"}\n')
    folder = tmp_path / "made"
    plan, backend = made_plan(folder, calibration=str(texts)), Scripted()
    backend.breaks_in = "export"
    with pytest.raises(Broken):
        run_quantize(plan, backend, tell=quiet)
    if changed == "options":
        plan = made_plan(folder, calibration=str(texts), samples=3)
    elif changed == "versions":
        backend.version = "2"
    else:
        texts.write_text('{"text": "two"}\n')
    backend.breaks_in = ""

    assert run_quantize(plan, backend, tell=quiet)

    assert backend.done == ["calibrate", "calibrate", "export"]
    with pytest.raises(CannotQuantize, match="exists and is something else"):
        run_quantize(made_plan(folder, format="int4_awq"), backend, tell=quiet)


def test_a_command_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TensorRT checkpoints: the final name comes with exit code 0, and the record with it."""
    monkeypatch.setattr("qwenserve.worker.prepare.quantize.missing_package", lambda: "")
    plan = made_plan(tmp_path, format="int8_wo")

    def convert(command: object, code: int = 0) -> int:
        plan.partial.mkdir()
        (plan.partial / "config.json").write_text("{}")
        return code

    with pytest.raises(CannotQuantize, match="exit code 3"):
        run_command(plan, "1.2.1", tell=quiet, run=lambda command: convert(command, 3))
    assert not plan.out.exists()
    assert run_command(plan, "1.2.1", tell=quiet, run=convert)
    assert json.loads((plan.out / RECORD).read_text())["versions"] == {"tensorrt_llm": "1.2.1"}
    assert not run_command(plan, "1.2.1", tell=quiet, run=convert)


def test_a_missing_package_is_told_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Before the model is read, in one line."""
    monkeypatch.setattr("qwenserve.worker.prepare.modelopt_backend._PACKAGES", {"no_such_module": "nvidia-modelopt"})
    arguments = ["engine", "quantize", str(TINY), "--format", "fp8", "--card", "H100", "--out", str(tmp_path / "out")]

    assert main(arguments) == 1
    assert "nvidia-modelopt not installed: `pip install 'qwenserve[quantize]'`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def by_word(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def test_texts_come_in_three_forms(tmp_path: Path):
    """Prompt and answer, plain text, and messages; long ones are cut, and the limit holds."""
    file = tmp_path / "texts.jsonl"
    lines = [{"prompt": "a bb ", "answer": "ccc"}, {"text": "a b c d e f"}, {"messages": [{"role": "user"}]}]
    file.write_text("\n\n".join(json.dumps(line) for line in lines))

    found = read_texts(file, by_word, lambda messages: "mm mm mm", limit=9, max_tokens=4)

    assert [(text.token_ids, text.prompt_tokens) for text in found] == [
        ((1, 2, 3), 2),
        ((1, 1, 1, 1), 4),
        ((2, 2, 2), 3),
    ]
    assert len(read_texts(file, by_word, lambda messages: "mm mm", limit=2, max_tokens=4)) == 2


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": 3}', '{"prompt": "a", "answer": []}', '{"messages": [1]}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str):
    file = tmp_path / "texts.jsonl"
    file.write_text(f'{{"text": "a b"}}\n{line}\n')

    with pytest.raises(BadTexts, match=r"texts\.jsonl:2 is none of"):
        read_texts(file, by_word, limit=9, max_tokens=9)


def test_the_texts_that_come_along_are_the_generators():
    """Half of them Chinese; what is asked is no part of what is calibrated with."""
    texts = {}
    for file in (CALIBRATION, CHECK):
        count, seed = calibration.FILES[file.name]
        texts[file] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert texts[file] == [sample._asdict() for sample in calibration.samples(count, seed)]
    asked = {line["prompt"] for line in texts[CHECK]}
    assert len([line for line in texts[CALIBRATION] if line["prompt"] in asked]) <= 1  # a greeting is a greeting
