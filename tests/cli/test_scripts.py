"""The scripts behind `make`: what they say when something is missing, and that they are what `make` runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The folder has Python files too, which these call.
SCRIPTS = sorted(
    path.name for path in (Path(__file__).parents[2] / "scripts").iterdir() if path.is_file() and not path.suffix
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a clone as scripts/setup looks at."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return folder


def setup(checkout: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {"PATH": os.environ["PATH"], "HOME": str(checkout), **environment}
    command = [str(checkout / "scripts" / "setup"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


def interpreter(folder: Path, body: str) -> str:
    """Writes a program that stands in for a Python interpreter of some machine."""
    path = folder / "python-there"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_missing_python_is_named(checkout: Path):
    """Without a usable Python the command that brings one is shown."""
    done = setup(checkout, QWENSERVE_PYTHON="python-that-is-not-there")

    assert done.returncode == 1
    assert "No Python 3.10 to 3.13 found" in done.stderr
    assert "apt-get install python3" in done.stderr


def test_old_python_is_not_taken(checkout: Path, tmp_path: Path):
    """A Python of another version counts as none."""
    done = setup(checkout, QWENSERVE_PYTHON=interpreter(tmp_path, "exit 1"))

    assert "No Python 3.10 to 3.13 found" in done.stderr


@pytest.mark.parametrize(("missing", "package"), [("ensurepip", "python3-venv"), ("libgomp", "libgomp1")])
def test_missing_parts_are_named(checkout: Path, tmp_path: Path, missing: str, package: str):
    """Debian ships Python without venv, and slim images without libgomp: each is named with its package."""
    body = f'case "$2" in *{missing}*) exit 1;; esac\nexec "{sys.executable}" "$@"'

    done = setup(checkout, QWENSERVE_PYTHON=interpreter(tmp_path, body))

    assert done.returncode == 1
    assert f"apt-get install {package}" in done.stderr
    assert not (checkout / ".venv").exists()


def test_up_to_date_environment_is_left_alone(checkout: Path):
    """The stamp makes a second run quick; it is void after a change of pyproject.toml."""
    venv = checkout / "elsewhere"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    wanted = subprocess.run(["sha256sum", checkout / "pyproject.toml"], capture_output=True, text=True, check=True)
    (venv / ".qwenserve-installed").write_text(f"{wanted.stdout[:64]} {checkout} dev\n")

    for purpose in ("run", "dev"):
        done = setup(checkout, purpose, QWENSERVE_VENV="elsewhere")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_network_is_said_at_once(checkout: Path):
    """In our words, with what would be downloaded and what to set; pip itself would try for minutes."""
    done = setup(
        checkout,
        QWENSERVE_PYTHON=sys.executable,
        PIP_INDEX_URL="http://127.0.0.1:1/simple",
        PIP_CONFIG_FILE="/dev/null",
    )

    assert done.returncode == 1, done.stdout
    assert "No connection to http://127.0.0.1:1/simple" in done.stderr
    assert "about 70 MB" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


def test_wrong_purpose_is_refused(checkout: Path):
    """There are two purposes."""
    assert "usage: scripts/setup [run|dev]" in setup(checkout, "production").stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_stop_at_errors(name: str):
    """Every script can be run, and does not go on after a failure."""
    path = ROOT / "scripts" / name

    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


def test_make_targets_are_scripts():
    """Every target calls a script of its own name, or says which."""
    targets = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)

    named = {target: recipe for target, recipe in targets if target not in ("help", "bench")}
    assert set(named) == set(SCRIPTS) - {"setup"}
    assert all(f"scripts/{target}" in recipe for target, recipe in named.items())
