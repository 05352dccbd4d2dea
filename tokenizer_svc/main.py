"""The tokenizer tier's process: `qwenserve tokenizer [--config FILE] [--set KEY=VALUE …]`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.runtime.grpc_setup import Health, listen, make_server
from qwenserve.runtime.lifecycle import Shutdown, freeze_loaded_objects
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics_port import metrics_port
from qwenserve.runtime.process import run_tier
from qwenserve.runtime.trust import Trust
from qwenserve.text.assets import AssetError, load_assets
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.announce import announced
from qwenserve.tokenizer_svc.metrics import TokenizerMetrics
from qwenserve.tokenizer_svc.prompt_session import PROMPT_SERVICE, PromptServicer
from qwenserve.tokenizer_svc.tokenizer_servicer import SERVICE, TokenizerServicer

_log = EventLog("tokenizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until told to stop; returns the exit code."""
    return run_tier(
        "tokenizer",
        lambda config, arguments: serve(config, Shutdown(), share_ports=arguments.share_ports),
        argv,
        flags=[("--share-ports", "let other tokenizers listen on the same port")],
    )


async def serve(config: Config, shutdown: Shutdown, *, share_ports: bool = False) -> int:
    """Serves until `shutdown` asks for a drain; returns the exit code."""
    trust = Trust.from_config(config)
    trust.check_listening(config.tokenizer.host, "tokenizer.host")
    with shutdown.on_signals():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(config.tokenizer.threads, "tokenize"))
        try:
            assets = await asyncio.to_thread(load_assets, Path(config.model.reference).expanduser())
        except AssetError as error:
            _log.error("model_not_loaded", model=config.model.reference, reason=str(error))
            return 1
        freeze_loaded_objects()
        server = make_server(config.grpc, trust=trust, share_port=share_ports)
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerServicer(assets, config), server)
        metrics = TokenizerMetrics()
        prompts = PromptServicer(assets, config, metrics)
        tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(prompts, server)
        health = Health(server, [SERVICE, PROMPT_SERVICE])
        address = f"{config.tokenizer.host}:{config.tokenizer.port}"
        try:
            port = listen(server, address, trust.certificate)
            if config.health_port:
                server.add_insecure_port(f"127.0.0.1:{config.health_port}")
        except RuntimeError:
            remedy = "stop what listens there, or set tokenizer.port or health_port"
            _log.error("port_taken", address=address, health_port=config.health_port, remedy=remedy)
            return 1
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(metrics_port(config, metrics.registry, share_port=share_ports))
            stack.push_async_callback(server.stop, None)
            await server.start()
            changed = await stack.enter_async_context(announced(config, port, shutdown.drain.is_set))
            await health.set(True)
            _log.info("ready", host=config.tokenizer.host, port=port, model=config.model_name)
            await shutdown.drain.wait()
            changed()
            await health.set(False)
            await shutdown.notice(config.drain_notice_s)
            stopping = asyncio.ensure_future(server.stop(config.drain_timeout_s))
            # The port is closed first: a router whose stream ends opens the next one at once, and not to this process.
            await asyncio.sleep(0)
            prompts.drain()
            finished = await shutdown.drained(_ended(stopping), config.drain_timeout_s)
        _log.info("stopped", drained=finished)
        return shutdown.exit_code


async def _ended(stopping: asyncio.Future[None]) -> None:
    await stopping
