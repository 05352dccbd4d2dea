"""Tuning kernels for mixtures of experts: the engines' own commands, and the tables that a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenserve.cli.main import main
from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.tune_moe import CannotTune, fitting_tables, plan_tuning, table_name, tables
from tests.worker.prepare.test_quantize_plan import TINY, moe

FOLDER, SOURCES = Path("/tuned"), Path("/sources")


def test_each_engine_is_tuned_by_its_own_command(tmp_path: Path):
    """The scripts' flags, and the variable by which the engine finds the result."""
    model = describe(moe(tmp_path / "moe"))

    vllm, sglang, trtllm = (plan_tuning(model, name, 2, FOLDER, SOURCES) for name in ("vllm", "sglang", "trtllm"))

    assert " ".join(vllm.command) == (
        f"python3 /sources/benchmarks/kernels/benchmark_moe.py --model {model.path} --tp-size 2 --dtype auto --tune "
        "--save-dir /tuned"
    )
    assert vllm.environment == {"VLLM_TUNED_CONFIG_FOLDER": "/tuned"}
    assert vllm.table == "E=128,N=384,device_name=*.json"
    assert " ".join(sglang.command) == (
        "python3 /sources/benchmark/kernels/fused_moe_triton/tuning_fused_moe_triton.py "
        f"--model {model.path} --tp-size 2 --dtype auto --tune"
    )
    assert sglang.environment == {"SGLANG_MOE_CONFIG_DIR": "/tuned"}
    assert trtllm.environment == {"TLLM_AUTOTUNER_CACHE_PATH": "/tuned/trtllm-tp2.cache"}
    assert trtllm.command[0] == "trtllm-bench"


@pytest.mark.parametrize(
    ("method", "dtype", "table"),
    [
        ({"quant_method": "fp8"}, "fp8_w8a8", "E=128,N=768,device_name=*,dtype=fp8_w8a8.json"),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            "fp8_w8a8",
            "E=128,N=768,device_name=*,dtype=fp8_w8a8,block_shape=[128,128].json",
        ),
        ({"quant_method": "gptq"}, "int4_w4a16", "E=128,N=768,device_name=*,dtype=int4_w4a16.json"),
    ],
)
def test_quantized_experts_have_tables_of_their_own(tmp_path: Path, method: dict[str, Any], dtype: str, table: str):
    tuning = plan_tuning(describe(moe(tmp_path / "moe", quantization_config=method)), "vllm", 1, FOLDER, SOURCES)

    assert tuning.command[tuning.command.index("--dtype") + 1] == dtype
    assert tuning.table == table


def test_the_tables_that_an_engine_takes(tmp_path: Path):
    """Those of the folder for this shape and number format; a dense model has none."""
    model, folder = moe(tmp_path / "moe"), tmp_path / "tuned"
    folder.mkdir()
    fits = "E=128,N=384,device_name=NVIDIA_H100_80GB_HBM3.json"
    for name in (fits, fits.replace("384", "768"), fits.replace(".json", ",dtype=fp8_w8a8.json"), "notes.json"):
        (folder / name).write_text('{"1": {}}')

    assert fitting_tables(str(folder), "vllm", model, 2) == (fits,)
    assert fitting_tables(str(folder), "vllm", TINY, 1) == ()
    assert fitting_tables("", "sglang", model, 2) == ()


def test_what_cannot_be_tuned_is_refused(tmp_path: Path):
    """Dense models, ranks that do not divide an expert, and weights that have no tables."""
    with pytest.raises(CannotTune, match="no mixture of experts"):
        plan_tuning(describe(TINY), "vllm", 1, FOLDER, SOURCES)
    with pytest.raises(CannotTune, match="--tp 5 does not divide moe_intermediate_size, 768"):
        plan_tuning(describe(moe(tmp_path / "a")), "vllm", 5, FOLDER, SOURCES)
    nvfp4 = moe(tmp_path / "b", quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    with pytest.raises(CannotTune, match="no tuned tables for NVFP4"):
        plan_tuning(describe(nvfp4), "sglang", 1, FOLDER, SOURCES)


def test_tables_are_told_with_card_and_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Those that the model will use are marked; what is no table is left out."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    card = "NVIDIA H100 80GB HBM3"
    for name in (table_name(128, 768, card, "auto", ""), table_name(64, 768, card, "fp8_w8a8", "FP8_BLOCK_SCALES")):
        (folder / name).write_text(json.dumps({"triton_version": "3.5.1", "1": {}, "64": {}}))
    (folder / "notes.json").write_text("{}")
    (folder / "E=1,N=1,device_name=X.json").write_text("[")

    assert [(each.experts, each.card, each.dtype, each.batch_sizes) for each in tables(folder)] == [
        (128, "NVIDIA_H100_80GB_HBM3", "auto", (1, 64)),
        (64, "NVIDIA_H100_80GB_HBM3", "fp8_w8a8", (1, 64)),
    ]
    arguments = ["engine", "tune-moe", str(moe(tmp_path / "moe")), "--folder", str(folder)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.count("for this model") == told.count("for another shape or dtype") == 1
    assert main([*arguments, "--json"]) == 0
    assert [each["fits"] for each in json.loads(capsys.readouterr().out)["tables"]] == [True, False]
    assert main(["engine", "tune-moe", str(TINY), "--folder", str(folder)]) == 1
    assert "no mixture of experts" in capsys.readouterr().err
