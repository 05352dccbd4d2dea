"""Records of deployments on disk."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from qwenserve.cli.errors import CommandError
from qwenserve.cli.processes import ProcessIdentity, identify
from qwenserve.cli.ps import process_table_of, table_of
from qwenserve.cli.state import DeploymentRecord, ProcessRecord, StateDirectory, default_root, name_from

GONE = ProcessIdentity(pid=1, started="long ago")


def record(name: str = "tiny", **fields: Any) -> DeploymentRecord:
    values = {"model": "m", "path": "/p", "http": "127.0.0.1:8000", "grpc": "127.0.0.1:50051", "drain_timeout_s": 1.0}
    return DeploymentRecord(name=name, **{**values, "supervisor": identify(os.getpid()), **fields})


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


def write(state: StateDirectory, *records: DeploymentRecord) -> None:
    for each in records:
        deployment = state.deployment(each.name)
        deployment.prepare()
        deployment.write(each)


def test_records_are_read_back(state: StateDirectory):
    """What one command writes another one reads; what is forgotten is gone."""
    process = ProcessRecord(name="worker-0", tier="worker", address="a:1", identity=GONE, restarts=2)
    written = record(processes=(process,))
    write(state, written)

    assert state.records() == [written]
    state.deployment("tiny").forget()
    assert state.records() == []


def test_only_the_owner_may_look(state: StateDirectory):
    """Logs and plans may hold what others should not see."""
    write(state, record())

    assert stat.S_IMODE(state.deployment("tiny").folder.stat().st_mode) == 0o700


def test_broken_record_is_no_deployment(state: StateDirectory):
    """A record of another version does not break `ps`."""
    write(state, record())
    (state.deployment("tiny").folder / "record.json").write_text('{"format": 99}')

    assert state.records() == []


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [((), None, "qwenserve up"), (("a", "b"), None, "a, b"), (("a",), "z", "'z'.*there is: a")],
)
def test_find_says_what_there_is(state: StateDirectory, names: tuple[str, ...], asked: str | None, words: str):
    """A name that is missing or ambiguous is answered with the names to choose from."""
    write(state, *(record(name) for name in names))

    with pytest.raises(CommandError, match=words):
        state.find(asked)


def test_find_takes_the_only_one(state: StateDirectory):
    """With one deployment no name is needed."""
    write(state, record("only"))

    assert state.find(None).name == state.find("only").name == "only"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "A", ".x", "x" * 80])
def test_bad_names_are_refused(state: StateDirectory, name: str):
    """A name becomes a folder, so it must be a harmless one."""
    with pytest.raises(CommandError):
        state.deployment(name)


@pytest.mark.parametrize(
    ("model", "name"), [("qwen3-tiny", "qwen3-tiny"), ("Qwen3 0.6B/é", "qwen3-0.6b"), ("...", "default")]
)
def test_default_name(model: str, name: str):
    """The default name is the model's, in allowed letters."""
    assert name_from(model) == name


def test_a_name_is_taken_once(state: StateDirectory):
    """A second deployment of the same name is refused with the remedy, until the first is gone."""
    with (
        state.deployment("tiny").lock(),
        pytest.raises(CommandError, match="qwenserve stop tiny"),
        state.deployment("tiny").lock(),
    ):
        pass
    with state.deployment("tiny").lock():
        pass


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"QWENSERVE_STATE_DIR": "/s", "XDG_STATE_HOME": "/x"}, "/s"),
        ({"XDG_STATE_HOME": "/x"}, "/x/qwenserve"),
        ({"HOME": "/h"}, "/h/.local/state/qwenserve"),
    ],
)
def test_state_directory(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], root: str):
    """The environment decides where records are kept."""
    for name in ("QWENSERVE_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert default_root() == Path(root)


@pytest.mark.parametrize(
    ("fields", "state_shown"),
    [
        ({"state": "ready"}, "ready"),
        ({"state": "degraded", "processes": (ProcessRecord(name="w", tier="worker", address="a"),)}, "degraded 0/1"),
        ({"state": "ready", "supervisor": GONE}, "dead"),
        ({"state": "failed", "supervisor": GONE}, "failed"),
        (
            {
                "supervisor": GONE,
                "processes": (ProcessRecord(name="w", tier="worker", address="a", identity=identify(os.getpid())),),
            },
            "orphaned",
        ),
    ],
)
def test_shown_state(fields: dict[str, Any], state_shown: str):
    """A record outlives a supervisor that was killed, and `ps` says so."""
    header, rows = table_of([record(**fields)])

    assert header == ("PORT(HTTP,RPC)", "NAME", "PID", "STATE", "PATH")
    assert [(row[0], row[1], row[3], row[4]) for row in rows] == [("8000,50051", "tiny", state_shown, "/p")]


def test_dead_process_is_shown_as_dead():
    """A process that is gone is not shown in the state that it was last seen in."""
    process = ProcessRecord(name="worker-0", tier="worker", address="a:1", state="ready", identity=GONE)

    _, rows = process_table_of([record(processes=(process,))])

    assert rows == [("a:1", "tiny", "worker-0", "1", "dead", "0")]


def test_a_deployment_keeps_its_token(tmp_path):
    """The next supervisor has the same one, and nobody else can read it."""
    first = StateDirectory(tmp_path).deployment("a").token()

    assert StateDirectory(tmp_path).deployment("a").token() == first
    assert StateDirectory(tmp_path).deployment("b").token() != first
    assert [file.stat().st_mode & 0o077 for file in tmp_path.rglob("token")] == [0, 0]
    assert len(first) > 32
