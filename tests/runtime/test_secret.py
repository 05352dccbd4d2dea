"""Keys and passwords are used like strings and never printed."""

from __future__ import annotations

import pytest

from qwenserve.runtime.config import SECRET_TEXTS, SECRETS, ConfigError, load_config
from qwenserve.runtime.secret import Secret


def test_a_secret_is_the_string_to_whoever_uses_it() -> None:
    """Compared, encoded, joined and split it is what was given."""
    secret = Secret("top:secret")

    assert secret == "top:secret"
    assert secret.encode() == b"top:secret"
    assert secret.partition(":") == ("top", ":", "secret")
    assert "".join(["a", secret]) == "atop:secret"
    assert type(secret.reveal()) is str
    assert secret.reveal() == "top:secret"


@pytest.mark.parametrize("form", ["{}", "{!r}", "{!s}", "{:>20}", "{0}"])
def test_a_secret_is_never_printed(form: str) -> None:
    """In whatever way it gets into a text."""
    assert "top" not in form.format(Secret("topsecret"))
    assert "top" not in "%s %r" % (Secret("topsecret"), [Secret("topsecret")])  # noqa: UP031
    assert str(Secret("")) == ""


@pytest.mark.parametrize("key", sorted(SECRETS))
@pytest.mark.parametrize("where", ["--set", "environment"])
@pytest.mark.parametrize(
    "value", ["[topsecret, {x: topsecret}]", "{a: topsecret}", "topsecret: [", "'topsecret", "topsecret"]
)
def test_no_error_repeats_a_secret(key: str, where: str, value: str) -> None:
    """A key that cannot be read, or is no key, is not in the message; neither is a good one in the configuration."""
    name = "QWENSERVE_" + key.upper().replace(".", "__")
    try:
        config = load_config(
            environment={name: value} if where == "environment" else {},
            overrides={key: value} if where == "--set" else {},
        ).config
    except ConfigError as error:
        told = str(error)
        assert key in told or name in told
    else:
        told = repr(config)

    assert "topsecret" not in told


def test_which_settings_are_secret() -> None:
    """They are found by their type."""
    assert {"auth.keys"} == SECRETS - SECRET_TEXTS
    assert {"store.password", "store.encryption_key", "store.url", "cache.similar.api_key"} <= SECRET_TEXTS
