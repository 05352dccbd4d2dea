"""The tokenizer tier as a process."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.main import main

ROOT = Path(__file__).parents[2]


async def test_process_serves_and_drains():
    """It says when it is ready, answers health checks, and ends with 0 after SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qwenserve.tokenizer_svc", "--set", f"model.reference={ROOT / 'models' / 'qwen3-tiny'}",
        "--set", "tokenizer.port=0", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stderr.readline(), 30))
        assert ready["event"] == "ready"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ready['port']}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            session = tokenizer_pb2_grpc.PromptServiceStub(channel).Session()
            prompt = tokenizer_pb2.Prompt(handle=7, text="Hello")
            await session.write(tokenizer_pb2.PromptSessionRequest(prompts=[prompt]))
            assert [answer.handle for answer in (await session.read()).answers] == [7]

            # A router's stream, which has no end of its own, does not keep the process.
            process.send_signal(signal.SIGTERM)
            assert await session.read() is grpc.aio.EOF

        await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--set", "tokenizer.prt=1"], 2, "tokenizer.port"),
        (["--set", "nonsense"], 2, "KEY=VALUE"),
        (["--set", "model.reference=/no/such/model"], 1, "/no/such/model"),
    ],
)
def test_bad_configuration_ends_the_start(arguments, code, word, capfd):
    """A mistake stops start-up with a message that names it."""
    assert code == main(arguments)
    assert word in capfd.readouterr().err
