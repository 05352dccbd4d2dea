"""What `qwenserve top` makes of metrics, and the command against a real deployment."""

import re

import pytest

from qwenserve.cli.state import StateDirectory
from qwenserve.cli.top.metrics import Look, Span, quantile, rate, read_metrics, values_by
from qwenserve.cli.top.view import view_of
from tests.cli.conftest import CommandLine
from tests.cli.test_chat_terminal import Terminal
from tests.cli.test_deployment import FAST
from tests.system.processes import free_port

PAGE = """
process_start_time_seconds 1000.0
qwenserve_process_id {pid}
qwenserve_ready 1.0
qwenserve_requests_total{{kind="chat",outcome="ok"}} {ok}
qwenserve_requests_total{{kind="chat",outcome="worker_lost"}} {lost}
qwenserve_errors_total{{reason="WORKER_LOST"}} {lost}
qwenserve_worker_ready{{worker="a"}} 1.0
qwenserve_worker_ready{{worker="b"}} {b}
qwenserve_worker_free_kv_blocks{{worker="a"}} 25.0
qwenserve_worker_total_kv_blocks{{worker="a"}} 100.0
qwenserve_worker_connections_total{{worker="a"}} 3.0
qwenserve_time_to_first_token_seconds_bucket{{le="0.1"}} {fast}
qwenserve_time_to_first_token_seconds_bucket{{le="0.2"}} {ok}
qwenserve_time_to_first_token_seconds_bucket{{le="+Inf"}} {ok}
"""


def look(at: float, *, ok: int, lost: int = 0, fast: int = 0, b: int = 1, pid: int = 7) -> Look:
    return read_metrics(PAGE.format(ok=ok, lost=lost, fast=fast, b=b, pid=pid), at)


def test_rates_are_of_the_time_between_two_looks():
    """Over all series, or those with a label; two routers add up."""
    span = Span(look(10.0, ok=100), look(12.0, ok=120, lost=4))

    assert rate([span], "qwenserve_requests_total") == 12.0
    assert rate([span], "qwenserve_requests_total", outcome="worker_lost") == 2.0
    assert rate([span, span], "qwenserve_requests_total") == 24.0
    assert rate([Span(span.now, span.now)], "qwenserve_requests_total") == 0.0


def test_quantiles_are_of_what_was_observed_between():
    """Half of ten new answers took up to 0.1 s; nothing new has no quantile."""
    span = Span(look(0.0, ok=100, fast=100), look(1.0, ok=110, fast=105))

    assert quantile(0.5, [span], "qwenserve_time_to_first_token_seconds") == pytest.approx(0.1)
    assert quantile(0.75, [span], "qwenserve_time_to_first_token_seconds") == pytest.approx(0.15)
    assert quantile(0.5, [Span(span.now, span.now)], "qwenserve_time_to_first_token_seconds") is None


def test_a_worker_is_ready_if_any_router_can_use_it():
    looks = [look(0.0, ok=1, b=0), look(0.0, ok=1, b=1)]

    assert values_by(looks, "qwenserve_worker_ready", "worker") == {"a": 1.0, "b": 1.0}


def test_the_screen_tells_of_routers_errors_and_workers():
    view = view_of([Span(look(0.0, ok=0, b=0), look(2.0, ok=10, lost=2, b=0))], ["http://gone:8000"])

    told = dict(view.summary)
    assert told["routers"] == "1 seen, 1 ready; not reached: http://gone:8000"
    assert told["errors"] == "worker_lost 1.0/s"
    rows = {row[0]: dict(zip(view.header, row, strict=True)) for row in view.rows}
    assert (rows["a"]["STATE"], rows["a"]["KV USED"], rows["a"]["LOST"]) == ("ready", "75 %", "2")
    assert (rows["b"]["STATE"], rows["b"]["KV USED"]) == ("not ready", "-")


def test_processes_that_started_in_the_same_moment_are_two():
    assert look(0.0, ok=0).process == look(1.0, ok=5).process
    assert look(0.0, ok=0).process != look(0.0, ok=0, pid=8).process


@pytest.mark.timeout(240)
def test_a_deployment_with_two_routers_is_seen_whole(qwenserve: CommandLine):
    """Both routers behind one port, both workers, by name and by address; on a terminal it goes on until ctrl-C."""
    qwenserve("up", "--name", "seen", "--detach", *FAST, "--workers", "2", "--routers", "2")
    address = StateDirectory(qwenserve.state).find("seen").http
    try:
        # Which router answers is the kernel's choice; each run asks a dozen times.
        seen = (qwenserve("top", "seen", "--once", "--interval", "0.1") for _ in range(5))
        whole = next(text for text in seen if "2 seen, 2 ready" in text)
        by_address = qwenserve("top", "--address", address, "--once", "--interval", "0.1")
        terminal = Terminal(qwenserve.command("top", "seen"), qwenserve.environment)
        try:
            terminal.expect("worker-1 ")
            terminal.type("\x03")
            code = terminal.end()
        finally:
            terminal.close()
    finally:
        qwenserve("stop", "seen")

    assert "worker-0" in whole
    assert "worker-1" in whole
    assert re.search(r"^routers +([12]) seen, \1 ready$", by_address, re.MULTILINE)
    assert code == 0


def test_nobody_there_is_said_and_the_exit_code_is_one(qwenserve: CommandLine):
    address = f"127.0.0.1:{free_port()}"

    said = qwenserve("top", "--address", address, "--once", "--interval", "0.1", code=1)

    assert f"0 seen, 0 ready; not reached: http://{address}" in said
