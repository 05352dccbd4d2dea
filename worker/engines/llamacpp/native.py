"""xllamacpp, the only module that touches it: llama.cpp's server in this process. Calls block."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp import memory_files
from qwenserve.worker.engines.llamacpp.config import Dimensions, LlamaCppConfig, llamacpp_environment
from qwenserve.worker.engines.llamacpp.slot_calls import SlotCalls

_log = logging.getLogger(__name__)


class NativeServer:
    """One loaded model. Use it from any thread; `close` only when no call is under way."""

    def __init__(self, config: LlamaCppConfig, dimensions: Dimensions) -> None:
        """Loads the model. Raises EngineError."""
        xllamacpp = _import_xllamacpp()
        self.version: str = xllamacpp.__version__
        # The server insists on a listener: a Unix socket that only this user reaches, behind a key that
        # nobody knows. mkdtemp makes the directory with mode 0700.
        self._directory = Path(tempfile.mkdtemp(prefix="qwenserve-", dir=_socket_parent()))
        params = _parameters(xllamacpp, config, dimensions)
        socket, key = str(self._directory / "engine.sock"), secrets.token_urlsafe(32)
        params.hostnames, params.api_keys = [socket], [key]
        self.slots = SlotCalls(socket, key)
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError as error:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise EngineError(
                f"llama.cpp cannot load {config.gguf} ({error}): is there memory for the model and for "
                f"{config.max_running} x {dimensions.slot_tokens} tokens of KV cache, and is the file whole?"
            ) from error

    def complete(self, body: Mapping[str, Any], on_chunk: Callable[[Mapping[str, Any]], bool]) -> None:
        """Runs one completion call to its end; `on_chunk` returns True to abort it and may raise."""
        raised: list[BaseException] = []

        def guarded(chunk: Mapping[str, Any]) -> bool:
            # llama.cpp's side would swallow the exception and end the request silently.
            try:
                return on_chunk(chunk)
            except BaseException as error:
                raised.append(error)
                return True

        self._server.handle_completions(dict(body), guarded)
        if raised:
            raise raised[0]

    def close(self) -> None:
        """Releases the model and the socket. A call still under way would end the process."""
        self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)


def _socket_parent() -> str | None:
    """Returns where to make the socket's directory; None is the usual place for temporary files."""
    # The address of a Unix socket has room for about 100 bytes, which some temporary directories exceed.
    return "/tmp" if len(tempfile.gettempdir()) > 70 and Path("/tmp").is_dir() else None


def _import_xllamacpp() -> Any:
    """Imports xllamacpp with OpenMP told not to spin; OpenMP reads its variables when it is loaded."""
    wanted = llamacpp_environment()
    missing = {k: v for k, v in wanted.items() if os.environ.get(k, "").lower() != v}
    if missing and _openmp_loaded():
        names = " ".join(f"{k}={v}" for k, v in missing.items())
        _log.warning("set %s before the process starts: OpenMP threads will spin and take time from others", names)
    os.environ.update(missing)
    try:
        import xllamacpp
    except ImportError as error:
        remedy = "apt-get install libgomp1" if "libgomp" in str(error) else "pip install xllamacpp"
        raise EngineError(f"xllamacpp cannot be imported ({error}); {remedy}") from error
    return xllamacpp


def _openmp_loaded() -> bool:
    try:
        return "libgomp" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _parameters(xllamacpp: Any, config: LlamaCppConfig, dimensions: Dimensions) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(config.gguf)
    params.verbosity = 0
    params.ui = False
    params.endpoint_slots = False
    params.slot_save_path = memory_files.DIRECTORY
    # Each slot's thread may wait at once for the step that comes before its state is copied.
    params.n_threads_http = config.max_running + 1
    params.n_parallel = config.max_running
    params.n_ctx = config.max_running * dimensions.slot_tokens
    params.fit_params = False  # this adapter chooses the lengths
    params.n_gpu_layers = config.gpu_layers
    params.n_batch = params.n_ubatch = config.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = dimensions.threads
    # Its own cache beside the slots knows nothing of tenants, and is not asked where a request names its slot.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    if config.kv_type == "f32":
        kind = xllamacpp.ggml_type.GGML_TYPE_F32
        params.cache_type_k = params.cache_type_v = kind
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params
