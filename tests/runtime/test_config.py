"""Configuration: sources, precedence, and what a mistake is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from qwenserve.runtime.config import Config, ConfigError, LoadedConfig, Section, annotated_yaml, load_config
from qwenserve.worker.engine_choice import engine_settings


def load(
    text: str | None = None,
    *,
    tmp_path: Path | None = None,
    environment: dict[str, str] | None = None,
    overrides: dict[str, Any] | None = None,
) -> LoadedConfig:
    file = None
    if text is not None:
        assert tmp_path is not None
        file = tmp_path / "qwenserve.yaml"
        file.write_text(text, encoding="utf-8")
    return load_config(file, environment=environment or {}, overrides=overrides, engines=ENGINES)


class Magic(Section):
    """Settings of an engine that is made for these tests."""

    wands: int = Field(default=1, ge=1, description="Wands at hand.")
    spell: str = Field(default="hocus", description="What is said.")


class Stage(Section):
    """Settings of another one."""

    lights: bool = Field(default=True, description="On or off.")


ENGINES: Mapping[str, type[Section]] = {"llamacpp": Stage, "magic": Magic}


def test_defaults_listen_on_loopback_with_the_documented_ports() -> None:
    config = load().config

    assert (config.http.host, config.http.port) == ("127.0.0.1", 8000)
    assert (config.router.host, config.router.port) == ("127.0.0.1", 50051)
    assert config.worker.host == config.tokenizer.host == "127.0.0.1"


def test_later_sources_win_and_are_named(tmp_path: Path) -> None:
    loaded = load(
        "http:\n  port: 1001\n  host: 0.0.0.0\nworker:\n  max_running: 4\n",
        tmp_path=tmp_path,
        environment={"QWENSERVE_HTTP__PORT": "1002", "QWENSERVE_WORKER__MAX_RUNNING": "5", "OTHER": "x"},
        overrides={"http.port": "1003"},
    )

    assert (loaded.config.http.port, loaded.config.http.host, loaded.config.worker.max_running) == (1003, "0.0.0.0", 5)
    sources = {setting.key: setting.source for setting in loaded.settings()}
    assert sources["http.port"] == "--set"
    assert sources["http.host"] == f"file {tmp_path / 'qwenserve.yaml'}"
    assert sources["worker.max_running"] == "environment QWENSERVE_WORKER__MAX_RUNNING"
    assert sources["worker.engine"] == "default"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http:\n  prot: 1\n", ["'http.prot'", "did you mean 'http.port'"]),
        ("htp:\n  port: 1\n", ["'htp'", "did you mean"]),
        ("http: 8000\n", ["http is a section"]),
        ("http:\n  port: eight\n", ["http.port", "'eight'"]),
        ("http:\n  port: 99999\n", ["http.port", "65535"]),
        ("worker:\n  engine: magics\n", ["worker.engine", "llamacpp", "magic", "'magics'"]),
        ("worker:\n  magic:\n    wand: 2\n", ["'worker.magic.wand'", "did you mean 'worker.magic.wands'"]),
        ("worker:\n  magic:\n    wands: 0\n", ["worker.magic.wands", "greater than or equal to 1"]),
        ("worker:\n  magic: 3\n", ["worker.magic is a section"]),
        ("worker:\n  tragic:\n    wands: 2\n", ["'worker.tragic'", "did you mean"]),
        ("worker:\n  engine_settings: {magic: {wands: 2}}\n", ["worker.engine_settings"]),
        ("- a\n- b\n", ["expected sections"]),
        ("http: [\n", ["no valid YAML"]),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path=tmp_path)

    for part in told:
        assert part in str(caught.value)
    assert str(tmp_path / "qwenserve.yaml") in str(caught.value)


def test_settings_of_engines_are_part_of_the_configuration(tmp_path: Path) -> None:
    loaded = load(
        "worker:\n  engine: magic\n  magic:\n    wands: 2\n  llamacpp:\n",
        tmp_path=tmp_path,
        environment={"QWENSERVE_WORKER__MAGIC__SPELL": "pocus"},
    )

    assert loaded.engines["magic"] == Magic(wands=2, spell="pocus")
    assert loaded.config.worker.engine_settings == {
        "llamacpp": {"lights": True},
        "magic": {"wands": 2, "spell": "pocus"},
    }
    shown = {setting.key: (setting.value, setting.source.partition(" ")[0]) for setting in loaded.settings()}
    assert shown["worker.magic.wands"] == (2, "file")
    assert shown["worker.magic.spell"] == ("pocus", "environment")
    assert shown["worker.llamacpp.lights"] == (True, "default")


def test_a_tier_without_engines_carries_their_settings_along(tmp_path: Path) -> None:
    file = tmp_path / "qwenserve.yaml"
    file.write_text("worker:\n  engine: new\n  new:\n    a: 1\n    b: {c: x}\n  old:\n", encoding="utf-8")
    config = load_config(file, environment={}, overrides={"worker.new.d": "2"}).config

    assert config.worker.engine_settings == {"new": {"a": 1, "b": {"c": "x"}, "d": 2}}
    with pytest.raises(ConfigError, match=r"'worker\.max_runing'; did you mean"):
        load_config(environment={}, overrides={"worker.max_runing": "2"})


def test_an_unknown_variable_stops_start_up_and_is_named() -> None:
    with pytest.raises(ConfigError, match=r"QWENSERVE_HTTP__PROT.*did you mean 'http.port'"):
        load(environment={"QWENSERVE_HTTP__PROT": "1"})


def test_variables_of_the_command_line_are_no_settings() -> None:
    environment = {"QWENSERVE_CONFIG": "/x.yaml", "QWENSERVE_STATE_DIR": "/y"}

    assert load(environment=environment).config == load().config


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml", environment={})


def test_setting_one_sampling_default_keeps_the_others() -> None:
    defaults = load(overrides={"model.non_thinking_defaults.top_k": "5"}).config.model.non_thinking_defaults

    assert (defaults.top_k, defaults.temperature, defaults.top_p) == (5, 0.7, 0.8)


def test_lists_can_be_given_as_text() -> None:
    config = load(environment={"QWENSERVE_ROUTER__WORKERS": "[a:1, b:2]"}).config

    assert config.router.workers == ("a:1", "b:2")


def test_the_annotated_file_has_every_key_and_loads_to_the_same_value(tmp_path: Path) -> None:
    text = annotated_yaml(load())

    assert load(text, tmp_path=tmp_path).config == load().config
    keys = {setting.key.rsplit(".", 1)[-1] for setting in load().settings()}
    assert all(f"{key}:" in text for key in keys)
    assert isinstance(yaml.safe_load(text), dict)


def test_every_setting_says_what_it_means() -> None:
    loaded = load_config(environment={}, engines=engine_settings())
    assert [setting.key for setting in loaded.settings() if not setting.description.endswith(".")] == []


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().http.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("reference", "name"),
    [("models/qwen3-tiny/", "models/qwen3-tiny"), ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("/data/m.gguf", "m")],
)
def test_the_model_is_named_after_its_reference(reference: str, name: str) -> None:
    assert load(overrides={"model.reference": reference}).config.model_name == name


def test_every_setting_is_read_somewhere() -> None:
    """A key that nothing reads would be accepted and ignored."""
    root = Path(__file__).parents[2]
    tiers = ("bench", "cli", "router", "runtime", "store", "tokenizer_svc", "worker")
    files = [file for tier in tiers for file in (root / tier).rglob("*.py") if file.name != "config.py"]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    # Sampling defaults are read as a whole.
    loaded = load_config(environment={}, engines=engine_settings())
    names = {s.key.rsplit(".", 1)[-1] for s in loaded.settings() if "_defaults." not in s.key}
    whole = {"cache_dir": "cache_path"}

    assert [name for name in sorted(names) if f".{whole.get(name, name)}" not in source] == []


@pytest.mark.parametrize("password", ["123456", "0017", "1e5", "no", "plain", "'quoted'"])
def test_a_password_is_taken_as_it_is_written(password: str) -> None:
    """YAML would make numbers and more of some; quotes around one are still YAML's."""
    overrides = {"store.password": password}
    environment = {"QWENSERVE_STORE__PASSWORD": password}

    assert load(overrides=overrides).config.store.password == password.strip("'")
    assert load_config(environment=environment).config.store.password == password.strip("'")
