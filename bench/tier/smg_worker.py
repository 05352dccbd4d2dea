"""A worker that the peer gateway smg can talk to: TensorRT-LLM's gRPC service as smg speaks it, with made-up tokens.

Run by `bench tier --rows peer` with an interpreter that has `smg-grpc-proto`. It needs nothing else of this project's
dependencies but grpcio.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
from smg_grpc_proto.generated import trtllm_service_pb2, trtllm_service_pb2_grpc

from qwenserve.bench.tier.floor import Beat

_VOCABULARY = 4000
_WINDOW = 16_384


class Servicer(trtllm_service_pb2_grpc.TrtllmServiceServicer):
    """One token a beat for every request, until its limit."""

    def __init__(self, model: str, step_s: float) -> None:
        self._model = model
        self._beat = Beat(step_s)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's name
        """Streams one chunk a token, then the end."""
        loop = asyncio.get_running_loop()
        prompt = len(request.tokenized.input_token_ids)
        ids = []
        for number in range(request.max_tokens):
            if self._beat.step_s:
                turn = loop.create_future()
                self._beat.next(lambda turn=turn: None if turn.done() else turn.set_result(None))  # type: ignore[misc]
                await turn
            token = 1000 + (prompt + number) % (_VOCABULARY - 1000)
            ids.append(token)
            if request.streaming:
                chunk = trtllm_service_pb2.GenerateStreamChunk(
                    token_ids=[token], prompt_tokens=prompt, completion_tokens=number + 1
                )
                yield trtllm_service_pb2.GenerateResponse(request_id=request.request_id, chunk=chunk)
        end = trtllm_service_pb2.GenerateComplete(
            output_token_ids=ids, finish_reason="length", prompt_tokens=prompt, completion_tokens=len(ids)
        )
        yield trtllm_service_pb2.GenerateResponse(request_id=request.request_id, complete=end)

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Always well."""
        return trtllm_service_pb2.HealthCheckResponse(status="OK")

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        """A cancelled call ends by itself."""
        return trtllm_service_pb2.AbortResponse(success=True)

    async def GetModelInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The model's limits."""
        return trtllm_service_pb2.GetModelInfoResponse(
            model_id=self._model,
            max_input_len=_WINDOW,
            max_seq_len=_WINDOW,
            max_batch_size=1024,
            vocab_size=_VOCABULARY,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        """What a worker says of itself."""
        return trtllm_service_pb2.GetServerInfoResponse(version="made-up tokens", backend="pytorch", world_size=1)


async def _serve(port: int, model: str, step_s: float) -> None:
    server = grpc.aio.server()
    trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server(Servicer(model, step_s), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(1.0)


def main() -> None:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--step-ms", type=float, default=10.0)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.model, given.step_ms / 1000))


if __name__ == "__main__":
    main()
