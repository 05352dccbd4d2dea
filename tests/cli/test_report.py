"""What `qwenserve report` puts together, and above all what it leaves out."""

import json
import stat
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from qwenserve.cli.report.redact import Scrubber, safe_line
from qwenserve.cli.state import StateDirectory
from tests.cli.conftest import CommandLine
from tests.cli.test_deployment import FAST

KEY = "a-key-that-nobody-else-should-read"
PROMPT = "The elephant's birthday is a secret"


def event(**fields: object) -> str:
    return json.dumps({"time": "t", "level": "warning", "tier": "router", "logger": "answer", "event": "x", **fields})


def kept(line: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(safe_line(line))
    return found


def test_numbers_and_known_names_stay():
    line = event(request_id="r-1", worker="worker-0", workers=["a", "b"], duration_ms=1.5, drained=True, first=None)

    assert kept(line) == json.loads(line)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": PROMPT},
        {"metadata": {"title": PROMPT}},
        {"path": f"/v1/{PROMPT}"},
        {"anything_new": PROMPT},
        {"event": "request", "model": PROMPT},
        {"event": "request", "method": PROMPT},
        {"error": f"messages[0]: got '{PROMPT}'"},
        {"level": "info", "error": f"stop: {PROMPT} is too long"},
        {"reason": f'bad value "{PROMPT}"'},
        {"workers": [{"x": PROMPT}]},
        {"traceback": f'Traceback (most recent call last):\n  File "a.py", line 1, in f\nValueError: {PROMPT}'},
    ],
)
def test_what_may_be_a_callers_does_not(fields: dict[str, object]):
    assert "elephant" not in safe_line(event(**fields))


def test_a_traceback_keeps_its_places_and_its_kind():
    trace = 'Traceback (most recent call last):\n  File "router/main.py", line 7, in serve\nKeyError: 3'

    assert kept(event(traceback=trace))["traceback"] == trace.replace("KeyError: 3", "KeyError: (left out)")


@pytest.mark.parametrize(
    ("line", "safe"),
    [
        ("CUDA error: out of memory", "CUDA error: out of memory"),
        (f"Received request 7: prompt: {PROMPT}", "(left out)"),
        (f"RuntimeError: {PROMPT}", "RuntimeError: (left out)"),
        ('  File "a.py", line 3, in f', '  File "a.py", line 3, in f'),
        (f"cannot read '{PROMPT[:12]}'", "cannot read '…'"),
        ('["not", "an", "object"]', "['…', '…', '…']"),
    ],
)
def test_lines_of_others(line: str, safe: str):
    assert safe_line(line) == safe


def test_secrets_go_wherever_they_are():
    scrubber = Scrubber([KEY, "abcd", "ab"])

    text = f"x={KEY} y=abcd z=ab redis://me:word@host sk-1234567890 Authorization: Bearer {KEY}"
    assert scrubber.clean(text) == ("x=(hidden) y=(hidden) z=ab redis://(hidden)@host (hidden) Authorization: (hidden)")


def ask(url: str, body: dict[str, object]) -> int:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            reply.read()
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.timeout(120)
def test_a_deployments_report_is_whole_and_holds_no_secret_and_no_prompt(qwenserve: CommandLine, tmp_path: Path):
    """Settings, metrics and logs of every process; asked well and badly before, with the prompt in each field."""
    archive = tmp_path / "report.tar.gz"
    qwenserve("up", "--name", "told", "--detach", *FAST, "--set", f"auth.keys=[{KEY}]", "--set", "log.level=debug")
    try:
        url = f"http://{StateDirectory(qwenserve.state).find('told').http}"
        messages = [{"role": "user", "content": PROMPT}]
        good = {"messages": messages, "max_tokens": 2, "user": PROMPT, "metadata": {"title": PROMPT}}
        assert ask(url, good) == 200
        for bad in ({"temperature": PROMPT}, {"tool_choice": PROMPT}, {"model": PROMPT}, {"stop": [PROMPT] * 99}):
            assert ask(url, {**good, **bad}) in (400, 404)
        said = qwenserve("report", "told", "-o", str(archive))
    finally:
        qwenserve("stop", "told")

    assert "look through it" in said
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as tar:
        texts = {
            member.name.removeprefix("qwenserve-report-told/"): tar.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in tar.getmembers()
        }
    assert {"README.txt", "about.json", "processes.txt", "metrics/0.txt"} <= set(texts)
    for process in ("worker-0", "router-0"):
        assert "worker.engine" in texts[f"settings/{process}.txt"]
        assert (
            '"event": "ready"' in texts[f"logs/{process}.log"] or '"event": "serving"' in texts[f"logs/{process}.log"]
        )
    assert "auth.keys = (1 hidden)" in texts["settings/router-0.txt"]
    assert "qwenserve_requests_total" in texts["metrics/0.txt"]
    assert "qwenserve" in json.loads(texts["about.json"])["versions"]
    assert '"event": "answer"' in texts["logs/router-0.log"]
    whole = "\n".join(texts.values())
    assert KEY not in whole
    assert "elephant" not in whole


def test_without_a_deployment_the_machine_is_told_of(tmp_path: Path, qwenserve: CommandLine):
    """A log of a process that a service manager runs can be named."""
    log = tmp_path / "router.log"
    log.write_text(event(request_id="r-1", user=PROMPT) + "\n", encoding="utf-8")
    archive = tmp_path / "machine.tar.gz"
    empty = CommandLine(tmp_path / "state")
    (tmp_path / "state").mkdir()

    empty("report", "-o", str(archive), "--log", str(log), "--set", f"auth.keys=[{KEY}]")

    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert names == {"README.txt", "about.json", "settings/qwenserve.txt", "logs/router.log"}
    assert KEY.encode() not in archive.read_bytes()


def test_an_unknown_name_is_told_with_those_that_there_are(tmp_path: Path):
    said = CommandLine(tmp_path / "state")("report", "nobody", code=1)

    assert "no deployment is named 'nobody'; there is: none" in said
