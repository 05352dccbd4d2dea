"""YAML without the surprises of its version 1.1."""

from __future__ import annotations

from typing import Any

import pytest

from qwenserve.runtime.config import ConfigError, load_config
from qwenserve.runtime.yaml_text import YamlError, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("2026-01-02", "2026-01-02"),
        (".inf", ".inf"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("17", 17),
        ("-3", -3),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        ("[1, two, 3.0]", [1, "two", 3.0]),
        ("a: {b: c}", {"a": {"b": "c"}}),
        ("'17'", "17"),
    ],
)
def test_words_are_what_they_look_like(text: str, value: Any) -> None:
    found = read_yaml(text)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http: {port: 1}\nhttp: {port: 2}", "'http' stands twice, the second time in line 2"),
        ("a: {b: 1, b: 2}", "'b' stands twice"),
        ("[" * 20_000, "nested too deeply"),
        ("a: [", "line"),
        ("9" * 6_000, "more digits"),
        ("a: &a [*a]", "use fewer aliases"),
        (
            "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(10)),
            "use fewer aliases",
        ),
    ],
)
def test_what_cannot_be_used_is_said(text: str, why: str) -> None:
    with pytest.raises(YamlError, match=why):
        read_yaml(text)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("http.port", "yes"), ("http.port", "12:30"), ("drain_timeout_s", ".inf"), ("drain_timeout_s", "inf")],
)
def test_a_setting_of_the_wrong_kind_is_named(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        load_config(environment={}, overrides={setting: value})


def test_a_worker_may_be_called_no() -> None:
    assert load_config(environment={}, overrides={"worker.name": "no"}).config.worker.name == "no"
