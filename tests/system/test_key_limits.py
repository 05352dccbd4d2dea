"""Keys with limits, made by the command and told over every face."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.cli.main import main
from qwenserve.runtime.keys import KeyRecord, digest, keys_text
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from tests.system.stack import running_stack, stack_config

MESSAGES = [{"role": "user", "content": "Hello"}]
FACES = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 4},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 16},
    "/v1/messages": {"model": "qwen3-tiny", "messages": MESSAGES, "max_tokens": 4},
}
TEXTS: dict[str, dict[str, object]] = {
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [1]},
    "/explain": {"messages": MESSAGES},
}
pytestmark = pytest.mark.timeout(240)


def added(file: Path, capsys: pytest.CaptureFixture[str], name: str, *limits: str) -> str:
    assert main(["keys", "add", name, "--file", str(file), *limits]) == 0
    return capsys.readouterr().out.strip()


async def test_every_face_tells_what_is_left_and_when_to_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Headers on answers and on refusals; over gRPC a status with the time to wait; metrics and a log by key."""
    file, log = tmp_path / "keys.yaml", tmp_path / "usage.jsonl"
    keys = {path: added(file, capsys, f"face-{n}", "--rpm", "1") for n, path in enumerate(FACES)}
    rpc_key = added(file, capsys, "rpc", "--rpm", "1", "--tpm", "100000", "--concurrency", "4")
    text_key = added(file, capsys, "texts", "--rpm", str(len(TEXTS)))
    config = stack_config(auth__keys_file=str(file), auth__usage_log=str(log))
    async with (
        running_stack(config) as stack,
        aiohttp.ClientSession(f"http://127.0.0.1:{stack.router.http_port}") as web,
    ):
        for path, body in FACES.items():
            headers = {"Authorization": f"Bearer {keys[path]}"}
            async with web.post(path, json=body, headers=headers) as reply:
                assert reply.status == 200, await reply.text()
                assert reply.headers["x-ratelimit-limit-requests"] == "1"
                assert reply.headers["x-ratelimit-remaining-requests"] == "0"
            async with web.post(path, json={**body, "stream": True}, headers=headers) as reply:
                assert reply.status == 429
                assert 1 <= int(reply.headers["Retry-After"]) <= 61
                assert "x-ratelimit-reset-requests" in reply.headers
                assert "1 requests a minute" in await reply.text()
            async with web.post(path, json=body, headers={"Authorization": "Bearer forged"}) as reply:
                assert reply.status == 401

        # What generates nothing is a request, too.
        other = {"Authorization": f"Bearer {text_key}"}
        for path, body in TEXTS.items():
            async with web.post(path, json=body, headers=other) as reply:
                assert reply.status == 200, await reply.text()
                assert reply.headers["x-ratelimit-limit-requests"] == str(len(TEXTS))
        async with web.post("/tokenize", json=TEXTS["/tokenize"], headers=other) as reply:
            assert reply.status == 429
        tokens = tokenizer_pb2_grpc.TokenizerServiceStub(stack.channel)
        asked = tokenizer_pb2.TokenizeRequest(texts=["Hello"])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tokens.Tokenize(asked, metadata=(("authorization", f"Bearer {text_key}"),), timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        request = chat_pb2.ChatCompletionRequest(
            conversation=message_pb2.Conversation(
                messages=[message_pb2.Message(role=message_pb2.ROLE_USER, content="Hello")]
            )
        )
        request.sampling.max_tokens = 4
        chats = chat_pb2_grpc.ChatServiceStub(stack.channel)
        metadata = (("authorization", f"Bearer {rpc_key}"),)
        await chats.CreateChatCompletion(request, metadata=metadata, timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await chats.CreateChatCompletion(request, metadata=metadata, timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(refused.value)
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in status.details if detail.Is(retry.DESCRIPTOR))
        assert 0 < retry.retry_delay.ToNanoseconds() <= 61e9
        exposed = stack.router.metrics.render()[0].decode()

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["key"] for line in lines if line["outcome"] == "ok"] == ["face-0", "face-1", "face-2", "face-3", "rpc"]
    assert {line["outcome"] for line in lines} == {"ok", "rate_limited"}
    assert all(line["completion_tokens"] for line in lines if line["outcome"] == "ok")
    assert 'qwenserve_key_requests_total{key="rpc",outcome="ok"} 1.0' in exposed
    assert keys["/v1/chat/completions"] not in file.read_text() + log.read_text() + exposed


async def test_a_hundred_keys_in_a_storm_get_what_is_theirs(tmp_path: Path):
    """All at once over HTTP, each key twice as often as it may: nobody gets more, nobody less, and a key that does not
    overdo it is answered every time.
    """
    names = [f"k{n}" for n in range(100)]
    records = [KeyRecord(name=name, sha256=digest(name), rpm=1 + n % 2) for n, name in enumerate(names)]
    file = tmp_path / "keys.yaml"
    file.write_text(keys_text([*records, KeyRecord(name="modest", sha256=digest("modest"), rpm=20)]))
    answered: Counter[str] = Counter()
    body = {"prompt": "Hello", "max_tokens": 1}
    async with (
        running_stack(stack_config(auth__keys_file=str(file))) as stack,
        aiohttp.ClientSession(f"http://127.0.0.1:{stack.router.http_port}") as web,
    ):

        async def ask(name: str) -> None:
            async with web.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {name}"}) as reply:
                assert reply.status in (200, 429)
                answered[name] += reply.status == 200

        storm = [name for name, record in zip(names, records, strict=True) for _ in range(2 * (record.rpm or 0))]
        await asyncio.gather(*map(ask, [*storm, *["modest"] * 20]))

    assert answered == {record.name: record.rpm for record in records} | {"modest": 20}


async def test_a_forged_key_is_refused_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A request whose body never comes is answered; over gRPC its bytes are not even decoded."""
    file = tmp_path / "keys.yaml"
    added(file, capsys, "alice")
    async with running_stack(stack_config(auth__keys_file=str(file))) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.router.http_port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Authorization: Bearer forged\r\nContent-Length: 1000000\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), 60)
        writer.close()

        raw = stack.channel.unary_unary("/qwenserve.chat.v1.ChatService/CreateChatCompletion")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(b"\xff no message", metadata=(("authorization", "Bearer forged"),), timeout=60)

    assert b" 401 " in status
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_keys_are_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Names and limits are shown, keys never again; names are taken once."""
    file = tmp_path / "keys.yaml"
    key = added(file, capsys, "alice", "--tpm", "1000", "--expires", "90d", "--priority", "-3")
    added(file, capsys, "bob")

    assert main(["keys", "add", "alice", "--file", str(file)]) == 1
    assert main(["keys", "list", "--file", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "1000" in shown
    assert "bob" in shown
    assert key not in shown
    assert file.stat().st_mode & 0o077 == 0
    assert main(["keys", "revoke", "alice", "--file", str(file)]) == 0
    assert main(["keys", "revoke", "alice", "--file", str(file)]) == 1
    assert "alice" not in file.read_text()
    assert main(["keys", "add", "no such name", "--file", str(file)]) == 1
    assert main(["keys", "add", "eve", "--expires", "soon", "--file", str(file)]) == 1
