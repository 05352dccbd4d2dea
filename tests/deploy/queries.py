"""Every query of the dashboards and alert rules, and what they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tests.deploy.compose_processes import DEPLOY

# What Grafana fills in.
_VARIABLES = {"$__rate_interval": "10s", "$worker": ".*"}
_SELECTOR = re.compile(r"\b((?:qwenserve|process)_[a-z_]+|up)\b(?:\{([^}]*)\})?")
_LABEL_VALUES = re.compile(r"label_values\((.*), *([a-z_]+)\)\Z")


class Query(NamedTuple):
    """A PromQL query, and where it stands."""

    where: str
    expression: str


class Selector(NamedTuple):
    """A metric that a query names, and the labels that it is selected by."""

    metric: str
    labels: frozenset[str]


def dashboards() -> dict[str, dict[str, Any]]:
    """Returns the dashboards by their files' names."""
    files = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def dashboard_queries() -> list[Query]:
    """Returns the queries of all panels and variables, with Grafana's own variables filled in."""
    found = []
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            where = f"{name}: {panel['title']}"
            found += [Query(where, filled(target["expr"])) for target in panel["targets"]]
        for variable in dashboard["templating"]["list"]:
            match = _LABEL_VALUES.match(variable["definition"])
            assert match is not None, variable["definition"]
            found.append(Query(f"{name}: ${variable['name']}", f"count by ({match[2]}) ({match[1]})"))
    return found


def alert_rules() -> list[dict[str, Any]]:
    """Returns the alert rules."""
    document = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def selectors_of(expression: str) -> Iterator[Selector]:
    """Yields the metrics that a query names."""
    for match in _SELECTOR.finditer(expression):
        yield Selector(match[1], frozenset(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", match[2] or "")))


def filled(expression: str) -> str:
    """Returns a query with the variables that Grafana fills in."""
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression
