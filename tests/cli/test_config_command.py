"""`qwenserve config` and how the command line treats settings."""

from pathlib import Path

import pytest

from qwenserve.cli.main import main
from qwenserve.runtime.config import annotated_yaml, load_config
from qwenserve.worker.engine_choice import engine_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QWENSERVE_CONFIG", raising=False)
    monkeypatch.setenv("QWENSERVE_STATE_DIR", str(tmp_path / "state"))


def rows_of(text: str) -> dict[str, tuple[str, str]]:
    """Key → (value, source) of the printed table."""
    lines = [line.split(maxsplit=2) for line in text.splitlines()[1:]]
    return {key: (value, source) for key, value, source in lines}


def test_explain_names_every_source(tmp_path, monkeypatch, capsys):
    """Each value is shown with where it came from, later sources winning."""
    file = tmp_path / "q.yaml"
    file.write_text("http:\n  port: 8001\nworker:\n  max_running: 4\n  max_queued: 5\n")
    monkeypatch.setenv("QWENSERVE_WORKER__MAX_RUNNING", "6")
    monkeypatch.setenv("QWENSERVE_WORKER__MAX_QUEUED", "7")

    assert main(["config", "explain", "--config", str(file), "--set", "worker.max_queued=8", "--grpc-port", "9"]) == 0

    rows = rows_of(capsys.readouterr().out)
    assert rows["http.port"] == ("8001", f"file {file}")
    assert rows["worker.max_running"] == ("6", "environment QWENSERVE_WORKER__MAX_RUNNING")
    assert rows["worker.max_queued"] == ("8", "--set")
    assert rows["router.port"] == ("9", "--set")
    assert rows["log.level"] == ('"info"', "default")


def test_explain_reads_the_file_of_the_environment(tmp_path, monkeypatch, capsys):
    """QWENSERVE_CONFIG names the file where --config does not."""
    file = tmp_path / "q.yaml"
    file.write_text("http:\n  port: 8001\n")
    monkeypatch.setenv("QWENSERVE_CONFIG", str(file))

    assert main(["config", "explain", "--changed"]) == 0

    assert rows_of(capsys.readouterr().out) == {"http.port": ("8001", f"file {file}")}


def test_secrets_are_hidden(capsys):
    """API keys are counted, not shown."""
    assert main(["config", "explain", "--set", "auth.keys=[topsecret, other]"]) == 0

    output = capsys.readouterr().out
    assert "topsecret" not in output
    assert "(2 hidden)" in output


def test_a_stores_url_is_shown_without_its_password(capsys):
    """Where the store is may be known, how to get in may not."""
    assert main(["config", "explain", "--set", "store.url=redis://me:topsecret@kv:6379/1"]) == 0

    output = capsys.readouterr().out
    assert "topsecret" not in output
    assert "redis://kv:6379/1" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "explain", "--set", "http.prt=1"], "'http.prt'; did you mean 'http.port'?"),
        (["config", "explain", "--set", "http.port=many"], "http.port"),
        (["config", "explain", "--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["up", "--http-port", "99999"], "http.port"),
        (["up", "--set", "auth.key_file=/no/such/keys"], "/no/such/keys"),
    ],
)
def test_bad_settings_stop_the_command(arguments, words, capsys):
    """A mistake is named on standard error, and the exit code is 2."""
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "explain", "--set", "http.port"], "KEY=VALUE"),
        (["up", "--workers", "0"], "store.url"),
        (["up", "--model", "/no/such/model", "--http-port", "0", "--grpc-port", "0"], "/no/such/model"),
        (["stop"], "nothing is running"),
        (["stop", "x"], "no deployment is named 'x'"),
        (["logs"], "nothing is running"),
        (["chat"], "nothing is running"),
        (["chat", "--address", "127.0.0.1:1"], "nothing listens at 127.0.0.1:1 (Connection refused)"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, words, capsys):
    """A command that cannot go on says why, and the exit code is 1."""
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_template_is_the_file_in_deploy(capsys):
    """The annotated file in the repository is what the command prints."""
    assert main(["config", "template"]) == 0

    assert capsys.readouterr().out == (ROOT / "deploy" / "qwenserve.yaml").read_text(encoding="utf-8")


def test_template_changes_nothing():
    """Starting with the template as it is equals starting without one."""
    defaults = load_config(environment={}, engines=engine_settings())

    deployed = load_config(ROOT / "deploy" / "qwenserve.yaml", environment={}, engines=engine_settings())
    assert deployed.config == defaults.config
    text = annotated_yaml(defaults)
    assert text.count("\n    # ") + text.count("\n  # ") > 40
