"""Dashboards and alert rules ask for what there is: shown by a deployment from the compose file that is scraped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from qwenserve.runtime.errors import ServiceError
from tests.deploy.compose_file import Service, environment_file, read_services
from tests.deploy.compose_processes import DEPLOY, ROOT, Ports, free_ports, healthy, local, running
from tests.deploy.queries import Query, alert_rules, dashboard_queries, dashboards, selectors_of
from tests.system.processes import free_port

# Enough of the cluster for every tier to tell of itself.
NAMES = ("worker-1", "worker-2", "tokenizer", "router-1")
# Added by Prometheus to what it scrapes.
OF_THE_SCRAPE = frozenset({"job", "instance"})
QUICK = {
    "QWENSERVE_WORKER__ENGINE": "simulated",
    "QWENSERVE_CACHE__MODE": "readwrite",
}
LIMIT_S = 90.0


async def answered(url: str) -> bytes:
    """The body of a page."""
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        assert reply.status == 200, url
        return await reply.read()


async def use(url: str) -> None:
    """Asks in each of the ways that a query tells apart: twice the same, a stream, another text, a mistake."""
    same = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 8}
    bodies: list[dict[str, Any]] = [
        same | {"temperature": 0},
        same | {"stream": True},
        same | {"temperature": "hot"},
        {"messages": [{"role": "user", "content": "Another one, in other words"}], "max_tokens": 4},
    ]
    async with aiohttp.ClientSession() as session:
        for body in bodies:
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()
                assert reply.status == (400 if body.get("temperature") == "hot" else 200)
        async with session.post(f"{url}/v1/completions", json={"prompt": "Once", "max_tokens": 4}) as reply:
            assert reply.status == 200
        await asyncio.wait_for(until_kept(session, url, same | {"temperature": 0}), LIMIT_S)


async def until_kept(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    """Asks again until the kept answer comes: it is written after it has been given."""
    status = ""
    while status != "hit":
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            await reply.read()
            status = reply.headers["x-cache"]


@contextlib.asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[Ports]:
    """Runs the compose file's services, asks them something, and yields where they listen."""
    every = read_services(DEPLOY / "compose.yaml", environment_file(DEPLOY / ".env"))
    services: dict[str, Service] = {name: every[name] for name in NAMES}
    ports = free_ports(every)
    async with contextlib.AsyncExitStack() as stack:
        processes = {
            name: await stack.enter_async_context(running(service, ports, tmp_path / "cache", QUICK))
            for name, service in services.items()
        }
        for name, service in services.items():
            await healthy(service, ports, processes[name])
        await use(f"http://127.0.0.1:{ports['router-1', 8000]}")
        yield ports


def scrape_config(ports: Ports) -> dict[str, Any]:
    """The deployment's own, with this machine's ports, without what does not run here, and more often."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / file) for file in config["rule_files"]]
    for job in config["scrape_configs"]:
        for group in job["static_configs"]:
            targets = [target for target in group["targets"] if target.partition(":")[0] in NAMES]
            group["targets"] = [local(target, ports, "") for target in targets]
    return config


@contextlib.asynccontextmanager
async def prometheus(config: Mapping[str, Any], folder: Path) -> AsyncIterator[str]:
    """Runs Debian's Prometheus on loopback; yields its URL."""
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    arguments = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        *arguments,
        f"--web.listen-address={url.removeprefix('http://')}",
        "--log.level=error",
    )
    try:
        yield url
    finally:
        process.terminate()
        await process.wait()


async def asked(session: aiohttp.ClientSession, url: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus's API; None where it does not answer yet."""
    try:
        async with session.get(url, params=parameters) as reply:
            if reply.status == 503:
                return None
            answer = await reply.json()
    except aiohttp.ClientConnectionError:
        return None
    assert answer["status"] == "success", (parameters, answer)
    return answer["data"]


def test_dashboards_are_whole():
    """Each has a uid of its own, panels with a meaning, no panel upon another, and the source that is provisioned."""
    found = dashboards()
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8"))
    uid = source["datasources"][0]["uid"]
    assert set(found) == {"cache", "fleet", "requests", "worker"}
    assert len({dashboard["uid"] for dashboard in found.values()}) == len(found)
    for dashboard in found.values():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            assert panel["description"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {uid}
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells


def test_every_alert_has_a_runbook_and_a_case():
    """docs/operations.md has a section for each, and one of promtool's cases shows that it fires."""
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^### (\w+)$", operations, re.MULTILINE))
    names = [rule["alert"] for rule in alert_rules()]
    cases = (ROOT / "tests" / "deploy" / "alerts_test.yml").read_text(encoding="utf-8")
    assert len(set(names)) == len(names)
    assert set(names) == sections
    for rule in alert_rules():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert set(re.findall(r'alertname="(\w+)"', cases)) == set(names)


def test_failures_that_raise_an_alarm_are_those_that_are_ours():
    """Every reason with an HTTP status of 500 or more is in the alert, but for those that somebody asked for, and those
    of shims, which count HTTP replies and no answers.
    """
    rule = next(rule for rule in alert_rules() if rule["alert"] == "ManyRequestsFail")
    named = set(re.search(r'outcome=~"([a-z_|]+)"', rule["expr"])[1].split("|"))  # type: ignore[index]
    reasons = {kind.reason.lower() for kind in _family(ServiceError) if kind.http_status >= 500}
    assert named == reasons - {"draining", "not_cached", "no_router", "router_lost"}


def _family(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _family(child))]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "deploy/prometheus/prometheus.yml"),
        ("check", "rules", "deploy/prometheus/alerts.yml"),
        ("test", "rules", "tests/deploy/alerts_test.yml"),
    ],
    ids=" ".join,
)
async def test_promtool(arguments: tuple[str, ...]):
    """Configuration and rules are well-formed; each rule fires when it should, and not when all is well."""
    tool = await asyncio.create_subprocess_exec(
        "promtool", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await tool.communicate()

    assert tool.returncode == 0, said.decode()


@pytest.mark.timeout(300)
async def test_every_query_finds_series(tmp_path: Path):
    """Each metric of each query is told by some process, with the labels that it is selected by; and where Prometheus
    can be had, it finds series for every query of the dashboards, and can evaluate every rule."""
    async with cluster(tmp_path) as ports:
        await told_by_some_process(ports)
        if shutil.which("prometheus") is None:
            pytest.skip("metric names were compared; Prometheus is not installed (Debian: prometheus)")
        async with prometheus(scrape_config(ports), tmp_path) as url, aiohttp.ClientSession() as session:
            waiting = dashboard_queries()
            try:
                await asyncio.wait_for(until_found(session, url, waiting), LIMIT_S)
            except asyncio.TimeoutError:
                pytest.fail(f"no series for {waiting}")


async def told_by_some_process(ports: Ports) -> None:
    """Compares metrics and labels that queries name with the pages themselves."""
    told: dict[str, set[str]] = {"up": set(OF_THE_SCRAPE)}
    for config in scrape_config(ports)["scrape_configs"]:
        for target in config["static_configs"][0]["targets"]:
            text = (await answered(f"http://{target}/metrics")).decode()
            for family in text_string_to_metric_families(text):
                # A family whose first series is still to come has a name and no samples.
                told.setdefault(family.name + "_total" * (family.type == "counter"), set()).update(OF_THE_SCRAPE)
                for sample in family.samples:
                    told.setdefault(sample.name, set()).update(sample.labels, OF_THE_SCRAPE)
    expressions = [query.expression for query in dashboard_queries()] + [rule["expr"] for rule in alert_rules()]
    named = [selector for expression in expressions for selector in selectors_of(expression)]
    assert len(named) > 50
    for selector in named:
        assert selector.metric in told, f"{selector.metric} is told by nobody"
        assert selector.labels <= told[selector.metric], selector


async def until_found(session: aiohttp.ClientSession, url: str, waiting: list[Query]) -> None:
    """Returns when every query has found series at least once, and every rule has been evaluated without error."""
    while waiting:
        query = waiting[0]
        answer = await asked(session, f"{url}/api/v1/query", query=query.expression)
        if answer is None or not answer["result"]:
            # Only time brings another scrape: a rate needs two.
            await asyncio.sleep(0.2)
            waiting.append(query)
        waiting.pop(0)
    while True:
        answer = await asked(session, f"{url}/api/v1/rules")
        health = [rule["health"] for group in answer["groups"] for rule in group["rules"]]
        assert "err" not in health, answer
        if set(health) == {"ok"}:
            assert len(health) == len(alert_rules())
            return
        await asyncio.sleep(0.2)
