"""The shim: every face that a router has over HTTP, behind one dispatcher."""

from __future__ import annotations

from qwenserve.router.chat.interface import Backend
from qwenserve.router.http.anthropic.endpoints import MessagesEndpoints
from qwenserve.router.http.openai.errors import OPENAI_ERRORS
from qwenserve.router.http.openai.generation import GenerationEndpoints
from qwenserve.router.http.openai.texts import TextEndpoints
from qwenserve.router.http.responses.endpoints import ResponsesEndpoints
from qwenserve.router.http.service_pages import ServicePages
from qwenserve.router.http.transport.dispatcher import Dispatcher
from qwenserve.router.http.transport.exchange import LimitHeaders
from qwenserve.router.http.transport.origins import Origins
from qwenserve.runtime.addresses import is_loopback
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.metrics import RouterMetrics


def make_shim(
    backend: Backend,
    config: HttpConfig,
    *,
    strict: bool,
    keys: KeyRing,
    metrics: RouterMetrics,
    limits: LimitHeaders | None = None,
) -> Dispatcher:
    """Returns what serves all faces. A new face adds its endpoints here."""
    faces = (
        *GenerationEndpoints(backend, config).endpoints(),
        *TextEndpoints(backend, config).endpoints(),
        *ResponsesEndpoints(backend, config).endpoints(),
        *MessagesEndpoints(backend, config).endpoints(),
    )
    pages = ServicePages(backend, metrics, faces, OPENAI_ERRORS)
    origins = Origins(config.allowed_origins, keyed=keys.required, local=is_loopback(config.host))
    return Dispatcher(
        (*faces, *pages.endpoints()),
        OPENAI_ERRORS,
        strict=strict,
        keys=keys,
        metrics=metrics,
        origins=origins,
        limits=limits,
    )
