"""Lengths, threads and memory: what a configuration comes to on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig, dimensions
from qwenserve.worker.engines.llamacpp.gguf_files import ModelFacts
from qwenserve.worker.engines.llamacpp.machine import Machine, look_at_machine

# 1,000 numbers a token: 2,000 bytes in f16.
FACTS = ModelFacts("m", "qwen3", 4096, 320, (5, 6), (), True, 1000)
ROOMY = Machine(cores=3, free_memory_bytes=1 << 40)


def _config(**changes: Any) -> LlamaCppConfig:
    return LlamaCppConfig(Path("m.gguf"), **changes)


def test_the_models_own_values() -> None:
    assert dimensions(_config(), FACTS, ROOMY) == (4096, 4096, 3, frozenset({5, 6}), 2000, 512 << 20)


def test_the_configurations_values() -> None:
    sizes = dimensions(_config(max_model_len=300, threads=1, end_token_ids=frozenset({7})), FACTS, ROOMY)
    assert sizes[:4] == (300, 512, 1, frozenset({7}))


def test_unasked_lengths_give_way_to_memory() -> None:
    # Half of the memory holds 1,100 tokens for each of two slots; 1,024 is the next step of 256 below.
    machine = Machine(1, 2 * 2 * 1100 * 2000)
    assert dimensions(_config(max_running=2), FACTS, machine).max_model_len == 1024
    halved = dimensions(_config(max_running=2, kv_type="f32"), FACTS, machine)
    assert halved.max_model_len == 512


def test_kept_prefixes_give_way_to_memory() -> None:
    machine = Machine(1, 800 << 20)
    assert dimensions(_config(), FACTS, machine).kept_bytes == 100 << 20
    assert dimensions(_config(prefix_memory_mib=50), FACTS, machine).kept_bytes == 50 << 20
    assert dimensions(_config(prefix_memory_mib=0), FACTS, machine).kept_bytes == 0


def test_asked_lengths_do_not() -> None:
    machine = Machine(1, 2 * 2 * 1100 * 2000)
    with pytest.raises(EngineError, match="max_model_len to 1024"):
        dimensions(_config(max_running=2, max_model_len=2048), FACTS, machine)
    with pytest.raises(EngineError, match="lower max_running"):
        dimensions(_config(), FACTS, Machine(1, 1 << 20))


def test_a_containers_limits_count(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable:    2000 kB\n")
    free = look_at_machine(tmp_path, meminfo)
    assert free.free_memory_bytes == 2000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert look_at_machine(tmp_path, meminfo) == (1, 600000)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert look_at_machine(tmp_path, meminfo) == free
    assert look_at_machine(tmp_path / "none", tmp_path / "none").free_memory_bytes > 1 << 50
