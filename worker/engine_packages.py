"""What adapters of engines that are packages of others have in common: the package's version, options that are passed
on, weights, and a model that is loaded in a thread.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from qwenserve.runtime.config import Config
from qwenserve.runtime.deadlines import within
from qwenserve.worker.engine_interface import EngineError


class EnginePackage(NamedTuple):
    """An engine's package. `name` is that of the package and of the engine here, `title` what people call it.

    `least` and `below` bound the versions that the adapter takes; the extra in pyproject.toml says the same. `tried` is
    how it knows of them.
    """

    name: str
    title: str
    least: tuple[int, ...]
    below: tuple[int, ...]
    tried: str = "has been run with"

    def check_version(self, installed: str) -> None:
        """Raises EngineError for a version that is missing (empty) or not known."""
        wanted = f"{self.name}>={'.'.join(map(str, self.least))},<{'.'.join(map(str, self.below))}"
        if not installed:
            raise EngineError(
                f"worker.engine: {self.name} needs the package {wanted}; install qwenserve[{self.name}] on a machine "
                "with a GPU"
            )
        parts = tuple(int(part) for part in installed.split(".")[: len(self.least)] if part.isdigit())
        if not self.least <= parts < self.below:
            raise EngineError(
                f"{self.title} {installed} is installed; this adapter {self.tried} {wanted}: install that"
            )

    def check_installed(self) -> None:
        """Raises EngineError where the package is not there, or in a version that is not known."""
        self.check_version(installed_version(self.name))

    def check_directory(self, model: Path) -> None:
        """Raises EngineError for a model that is no directory."""
        if not model.is_dir():
            raise EngineError(
                f"{model}: {self.title} wants a Hugging Face directory; --engine llamacpp takes GGUF files"
            )

    def check_options(
        self, options: Mapping[str, Any], ours: Mapping[str, str], known: Collection[str], *, weights: str
    ) -> None:
        """Checks options that are passed on: `ours` says which key of our own decides one, `known` are the package's.

        Raises EngineError for an option that the package does not know, or that another key decides.
        """
        for name in options:
            key = f"worker.{self.name}.options.{name}"
            if name in ours and not (name == "load_format" and weights != "random"):
                raise EngineError(f"{key} is decided by {ours[name]}; take it out")
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {close[0]}?" if close else ""
                raise EngineError(f"{key} is no argument of this {self.title}{meant}")

    def weight_arguments(self, config: Config, options: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, Any]:
        """Returns the arguments that `model.weights` stands for; `dtypes` has the package's names of the formats.

        Raises EngineError for a format that it lacks.
        """
        weights = config.model.weights
        if weights not in dtypes:
            raise EngineError(f"model.weights: {self.title} has no {weights}; take one of {', '.join(dtypes)}")
        # A quantized checkpoint says itself what it is computed in.
        arguments = {} if "dtype" in options or "quantization" in options else {"dtype": dtypes[weights]}
        if weights == "random":
            arguments["load_format"] = "dummy"
        return arguments


def installed_version(package: str) -> str:
    """Returns a package's version, empty where it is not there. Importing an engine would take seconds and a GPU."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class Closable(Protocol):
    """A loaded model."""

    def close(self) -> None:
        """Releases it."""


ModelT = TypeVar("ModelT", bound=Closable)


async def load_in_time(load: Callable[[], ModelT], limit_s: float, package: EnginePackage) -> ModelT:
    """Loads a model in a thread. One that comes after the limit, or after nobody waits for it any more, is released.

    Raises EngineError after `limit_s`.
    """
    loading = asyncio.ensure_future(asyncio.to_thread(load))
    try:
        return await within(limit_s, asyncio.shield(loading))
    except asyncio.TimeoutError:
        loading.add_done_callback(_close_late)
        raise EngineError(
            f"{package.title} did not load the model within {limit_s:.0f} s; "
            f"set worker.{package.name}.start_timeout_s higher"
        ) from None
    except asyncio.CancelledError:
        loading.add_done_callback(_close_late)
        raise


def _close_late(loading: asyncio.Future[ModelT]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()
