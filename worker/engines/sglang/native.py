"""All that touches SGLang itself. Imported by whoever loads a model, and by nobody else: importing it takes 15 s.

Names are those of SGLang 0.5.17; `tests/worker/engines/sglang` has what is known of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from qwenserve.worker.engine_interface import EngineError

# Of ServerArgs, besides those that were given.
_RESOLVED = ("attention_backend", "sampling_backend", "chunked_prefill_size", "mem_fraction_static", "quantization")


def argument_names() -> frozenset[str]:
    """Returns what `sglang.Engine` takes."""
    from dataclasses import fields

    from sglang.srt.server_args import ServerArgs

    return frozenset(field.name for field in fields(ServerArgs))


class NativeSglang:
    """A loaded engine and the class that its requests are made of."""

    def __init__(self, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Blocks until the model is loaded; to be called in a thread, or SGLang takes this process's signals. Raises
        EngineError.
        """
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        import sglang
        from sglang.srt.managers.io_struct import GenerateReqInput

        self._request: Any = GenerateReqInput
        self.version: str = sglang.__version__
        try:
            self.engine: Any = sglang.Engine(**arguments)
        except Exception as error:
            raise EngineError(f"SGLang could not load the model: {error}; its own messages are above") from error
        self._manager: Any = self.engine.tokenizer_manager
        self.vocab_size: int = self._manager.model_config.vocab_size
        # What SGLang made of options, or chose itself.
        told = self.engine.server_args
        self.options: Mapping[str, Any] = {
            **arguments,
            **{name: getattr(told, name) for name in (*arguments, *_RESOLVED) if hasattr(told, name)},
        }
        # A prompt has fewer ids than this, and with its answer there is room for four more than this.
        self.max_model_len: int = self._manager.max_req_input_len

    def attach(self, on_end: Callable[[str], None]) -> None:
        """Reads SGLang's answers on this event loop from now on. `on_end` is told why that ended."""
        loop = asyncio.get_running_loop()
        # Otherwise the first request would begin to read, and take over the signals that end this process.
        self._manager.event_loop = loop
        reading = loop.create_task(self._manager.handle_loop(), name="sglang-read")
        self._manager.asyncio_tasks.add(reading)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                on_end(str(task.exception() or "it reads no more"))

        reading.add_done_callback(ended)

    def detach(self) -> None:
        """Ends the reading."""
        for task in self._manager.asyncio_tasks:
            task.cancel()

    def generate(self, **fields: Any) -> AsyncGenerator[Mapping[str, Any], None]:
        """Returns the answer to a request: what is new in each step. Raises ValueError, when it is read."""
        answer: AsyncGenerator[Mapping[str, Any], None] = self._manager.generate_request(
            self._request(stream=True, **fields), None
        )
        return answer

    def abort(self, request_id: str) -> None:
        """Asks a request to stop, and every other whose id begins with this one. Unknown ones are ignored."""
        self._manager.abort_request(request_id)

    async def tokens(self) -> tuple[int, int]:
        """Returns how many tokens the KV cache holds of running requests, and could hold."""
        loads: Sequence[Any] = await self._manager.get_loads()
        return sum(each.num_used_tokens for each in loads), sum(each.max_total_num_tokens for each in loads)

    async def flush_cache(self) -> bool:
        """Empties the prefix cache; false where requests still run."""
        return bool((await self._manager.flush_cache()).success)

    def close(self) -> None:
        """Ends SGLang's processes. Blocks."""
        self.engine.shutdown()
