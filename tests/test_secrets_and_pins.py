"""What the check of the repository finds, and what an audit makes of its answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "secrets_and_pins.py"
AUDIT = ROOT / "scripts" / "audit_findings.py"
CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}
# Put together here, so that this file is none of the finds.
LIKE_SECRETS = [
    "-----BEGIN " + "PRIVATE KEY-----\n" + "A" * 64,
    "-----BEGIN " + "EC PRIVATE KEY-----\n" + "A" * 64,
    "qs-" + "a" * 43,
    "sk-" + "a" * 40,
    "sk-ant-" + "a" * 40,
    "hf_" + "a" * 34,
    "ghp_" + "a" * 36,
    "AKIA" + "A" * 16,
    "AIza" + "a" * 35,
    "xoxb-" + "1" * 24,
]


def found(root: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git", "-C", folder, "add", "-A"], check=True)
    return folder


@pytest.mark.parametrize("secret", LIKE_SECRETS)
def test_a_secret_is_found_and_not_printed(tmp_path: Path, secret: str):
    """File and line are told, the text is not."""
    code, told = found(repository(tmp_path, {"a/b.txt": f"first line\nkey: {secret}\n"}))

    assert code == 1
    assert "a/b.txt:2:" in told
    assert secret[-30:] not in told


def test_what_has_no_version_is_found(tmp_path: Path):
    """Packages and images alike; stages and images of our own need none."""
    files = {
        "pyproject.toml": 'dependencies = [\n    "good>=1",\n    "bad",\n    "worse<3",\n]\n[project.scripts]\n',
        "deploy/Dockerfile": "ARG V=3\nFROM python:${V}-slim AS build\nFROM debian\nFROM build\n",
        "deploy/compose.yaml": "services:\n  a:\n    image: redis:latest\n  b:\n    image: ${X:-redis:7}\n",
    }

    code, told = found(repository(tmp_path, files))

    assert code == 1
    assert [line.split(";")[0] for line in told.splitlines()] == [
        "pyproject.toml: bad has no least version",
        "pyproject.toml: worse has no least version",
        "deploy/Dockerfile: image debian has no version",
        "deploy/compose.yaml: image redis:latest has no version",
    ]


@pytest.mark.parametrize(
    ("dependencies", "code", "told"),
    [
        ([{"name": "qwenserve", "skip_reason": "editable"}, CLEAN], 0, "1 packages audited"),
        ([BAD, UNKNOWN], 1, "b 2: PYSEC-1, mended in 3"),
        ([CLEAN, UNKNOWN], 3, "1 packages could not be audited (c)"),
        ([], 3, "0 packages audited"),
    ],
)
def test_an_audit_that_could_not_audit_says_so(dependencies: list[object], code: int, told: str):
    """A mirror of the index without advisories gives no clean bill of health."""
    given = json.dumps({"dependencies": dependencies})
    done = subprocess.run([sys.executable, AUDIT], input=given, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == code
    assert told in done.stdout
