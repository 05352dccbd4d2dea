"""A router's shutdown takes every step, whatever one of them meets."""

from __future__ import annotations

import asyncio

import pytest

from qwenserve.router.chat.model import ServedModel
from qwenserve.router.clients.text_service import LocalTextService
from qwenserve.router.main import Router
from qwenserve.runtime.lifecycle import Shutdown
from tests.system.stack import TINY, stack_config


async def test_a_step_that_fails_does_not_keep_the_later_ones_from_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ports are free again, and the failure is still told."""

    async def fails(_: LocalTextService) -> None:
        raise RuntimeError("this step failed")

    monkeypatch.setattr(LocalTextService, "close", fails)
    config = stack_config()
    router = Router(config, ServedModel.load(TINY, config))

    with pytest.raises(RuntimeError, match="this step failed"):
        async with router.serving(Shutdown()):
            ports = (router.grpc_port, router.http_port)

    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
