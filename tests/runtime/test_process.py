"""The command line that the tiers share."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.process import run_tier


async def exit_with_port(config: Config, arguments: argparse.Namespace) -> int:
    return config.http.port + (1 if getattr(arguments, "loud", False) else 0)


def test_settings_and_flags_reach_the_tier() -> None:
    flags = [("--loud", "shout")]

    assert run_tier("router", exit_with_port, ["--set", "http.port=7"], flags=flags) == 7
    assert run_tier("router", exit_with_port, ["--set", "http.port=7", "--loud"], flags=flags) == 8


@pytest.mark.parametrize(
    ("argument", "told"), [("http.port", "expected KEY=VALUE"), ("http.prot=1", "did you mean 'http.port'")]
)
def test_a_bad_setting_is_named_and_ends_with_2(capsys: pytest.CaptureFixture[str], argument: str, told: str) -> None:
    assert run_tier("router", exit_with_port, ["--set", argument]) == 2

    assert told in capsys.readouterr().err


def test_a_tier_may_refuse_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(config: Config, arguments: argparse.Namespace) -> int:
        raise ConfigError("http.port: taken")

    assert run_tier("router", refuse, []) == 2
    assert "router: http.port: taken" in capsys.readouterr().err


@pytest.mark.parametrize("writable", [True, False])
def test_a_log_file_takes_what_standard_error_would(tmp_path: Path, writable: bool) -> None:
    """Where the file cannot be had the process serves all the same, and says so where it can."""
    log = tmp_path / "x.log" if writable else tmp_path / "no folder" / "x.log"
    program = (
        "import os, sys\nfrom qwenserve.runtime.process import run_tier\n"
        "async def serve(config, arguments):\n    os.write(2, b'native\\n')\n    return 3\n"
        f"sys.exit(run_tier('router', serve, ['--set', 'log.file={log}']))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 3
    if writable:
        assert (log.read_text(), done.stderr) == ("native\n", "")
    else:
        assert "log_file_not_opened" in done.stderr
        assert "native" in done.stderr
