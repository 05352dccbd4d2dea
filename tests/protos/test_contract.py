"""The promise of the protos: what may be added, and what is a break."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE = """syntax = "proto3";
package qwenserve.test.v1;
option go_package = "qwenserve/test/v1;testv1";
service Service {
  rpc Ask(Request) returns (stream Answer);
}
enum Kind {
  KIND_UNSPECIFIED = 0;
  KIND_ONE = 1;
}
message Request {
  string text = 1;
  repeated int32 ids = 2;
  optional int32 limit = 3;
  oneof more {
    string words = 4;
    Answer answer = 5;
  }
}
message Answer {
  message Inner {
    bool last = 1;
  }
  Inner inner = 1;
  Kind kind = 2;
}
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "contract.py"), "--protos", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of protos with a promise."""
    folder = tmp_path_factory.mktemp("protos")
    (folder / "test.proto").write_text(BEFORE)
    assert run(folder, "--accept").returncode == 0
    return folder


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("  string text = 1;\n", "  reserved 1;\n", "field 1 of qwenserve.test.v1.Request is gone"),
        ("text = 1", "words_of_it = 1", "now: words_of_it, string"),
        ("string text = 1", "string text = 9", "field 1 of qwenserve.test.v1.Request is gone"),
        ("string text", "bytes text", "now: text, bytes"),
        ("repeated int32 ids", "int32 ids", "was: ids, int32, repeated"),
        ("optional int32 limit", "int32 limit", "was: limit, int32, optional"),
        (
            "oneof more {\n    string words = 4;\n",
            "string words = 4;\n  oneof more {\n",
            "was: words, string, in oneof",
        ),
        ("bool last = 1", "int32 last = 1", "field 1 of qwenserve.test.v1.Answer.Inner was: last, bool"),
        ("KIND_ONE", "KIND_FIRST", "value 1 of qwenserve.test.v1.Kind was: KIND_ONE"),
        ("rpc Ask", "rpc Query", "method qwenserve.test.v1.Service/Ask is gone"),
        ("returns (stream Answer)", "returns (Answer)", "now: .qwenserve.test.v1.Request to .qwenserve.test.v1.Answer"),
        ("test/v1;testv1", "other/v1;testv1", "now: package qwenserve.test.v1, go qwenserve/other/v1;testv1"),
    ],
)
def test_a_break_is_told(promised: Path, tmp_path: Path, was: str, becomes: str, told: str) -> None:
    """Whatever callers or generated code rely on cannot go or change unseen."""
    assert was in BEFORE
    (tmp_path / "test.proto").write_text(BEFORE.replace(was, becomes))

    result = run(tmp_path, "--promise", str(promised / "contract.binpb"))

    assert result.returncode == 1, result.stderr
    assert told in result.stdout


def test_additions_and_reordering_are_no_break(promised: Path, tmp_path: Path) -> None:
    """New fields, values, methods and messages, in any place."""
    more = BEFORE.replace("message Request {", "message New {}\nmessage Request {\n  New fresh = 6;")
    more = more.replace("  KIND_ONE = 1;", "  KIND_TWO = 2;\n  KIND_ONE = 1;")
    more = more.replace("  rpc Ask", "  rpc Tell(New) returns (New);\n  rpc Ask")
    (tmp_path / "test.proto").write_text(more)

    result = run(tmp_path, "--promise", str(promised / "contract.binpb"))

    assert (result.returncode, result.stdout) == (0, "")


def test_our_own_protos_keep_their_promise() -> None:
    """What is committed holds, and is read."""
    result = run(ROOT / "protos")

    assert (result.returncode, result.stdout) == (0, "")
    assert (ROOT / "protos" / "contract.binpb").stat().st_size > 1000
