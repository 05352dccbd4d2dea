"""The endpoints that generate nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import pytest

from qwenserve.router.http.openai.fields import TABLE
from qwenserve.router.http.transport.field_rows import Face
from tests.router.http.conftest import Served
from tests.router.http.fake_backend import MAX_MODEL_LEN


async def test_models_with_their_limits(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(served.url + "/v1/models") as reply:
        listed = await reply.json()
    async with http.get(served.url + "/v1/models/Fake-Model") as reply:
        one = await reply.json()

    assert listed == {"object": "list", "data": [one]}
    assert (one["id"], one["object"], one["max_model_len"]) == ("fake-model", "model", MAX_MODEL_LEN)
    assert one["thinking_defaults"] == {"temperature": 0.7, "top_p": 0.8}


@pytest.mark.parametrize("name", ["nothing", "Qwen/Nothing", "%FF%FE", "a%0Ab"])
async def test_an_unknown_model_is_404(name: str, served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{served.url}/v1/models/{name}") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "model_not_found")


async def test_text_to_tokens_and_back(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(served.url + "/tokenize", json={"prompt": "hé", "return_token_strs": True}) as reply:
        tokens = await reply.json()
    async with http.post(served.url + "/detokenize", json={"tokens": tokens["tokens"]}) as reply:
        text = await reply.json()

    assert tokens == {
        "count": 3,
        "max_model_len": MAX_MODEL_LEN,
        "tokens": [104, 195, 169],
        "token_strs": ["h", "0xc3", "0xa9"],
    }
    assert text == {"prompt": "hé"}


async def test_what_clients_that_tokenize_here_ask_first(served: Served, http: aiohttp.ClientSession) -> None:
    """lm-eval's remote tokenizer takes the tokens by these names, null where there are none, and the template."""
    async with http.get(served.url + "/tokenizer_info") as reply:
        info = await reply.json()
    served.backend.tool_template = "{{ tools }}"
    async with http.get(served.url + "/tokenizer_info") as reply:
        with_two = await reply.json()

    assert info == {
        "bos_token": None,
        "eos_token": "<end>",
        "pad_token": None,
        "model": "fake-model",
        "tokenizer_class": "Qwen2Tokenizer",
        "vocab_size": 256,
        "model_max_length": MAX_MODEL_LEN,
        "eos_token_ids": [0],
        "added_tokens_decoder": {"0": {"content": "<end>", "special": True}},
        "chat_template": "{{ messages }}",
    }
    assert with_two["chat_template"] == [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]


async def test_conversations_to_tokens(served: Served, http: aiohttp.ClientSession) -> None:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "return_prompt": True,
        "enable_thinking": False,
        "foo": 1,
    }
    async with http.post(served.url + "/tokenize", json=body) as reply:
        tokens = await reply.json()
        assert reply.headers["x-ignored-params"] == "foo"

    assert (tokens["tokens"], tokens["prompt"], tokens["starts_in_reasoning"]) == ([104, 105], "hi", False)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": [{"role": "usr"}]}, "messages[0].role"),
        ("/tokenize", {"prompt": "x", "model": "other"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [256]}, "tokens"),
        ("/explain", {}, "prompt"),
        ("/explain", {"messages": []}, "messages"),
    ],
)
async def test_wrong_fields_are_named(
    path: str, body: dict[str, object], param: str, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(served.url + path, json=body) as reply:
        assert (await reply.json())["error"]["param"] == param
        assert reply.status in (400, 404)


@pytest.mark.parametrize("body", [{"Messages": [{"role": "user", "content": "hi"}]}, {"prompt": "hi"}])
async def test_explain_generates_nothing(body: dict[str, object], served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(served.url + "/explain", json={**body, "temperature": 0.7, "store": True}) as reply:
        explained = await reply.json()

    assert explained["sampling"] == {"temperature": 0.7}
    assert (explained["defaulted_fields"], explained["ignored_params"]) == (["top_p"], ["store"])
    assert explained["candidates"][0]["name"] == "worker-0"
    assert not served.backend.running


async def test_health_and_readiness_differ(served: Served, http: aiohttp.ClientSession) -> None:
    served.backend.not_ready = "no worker is ready"
    async with http.get(served.url + "/healthz") as reply:
        assert reply.status == 200
    async with http.get(served.url + "/readyz") as reply:
        assert (reply.status, (await reply.json())["reason"]) == (503, "no worker is ready")
    served.backend.not_ready = ""
    async with http.get(served.url + "/readyz") as reply:
        assert reply.status == 200


async def test_metrics_are_prometheus_text(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(served.url + "/metrics") as reply:
        text = await reply.text()
        assert reply.headers["Content-Type"].startswith("text/plain; version=")

    assert "# TYPE qwenserve_http_requests_total counter" in text


async def test_the_description_is_complete(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(served.url + "/openapi.json") as reply:
        document = await reply.json()

    described = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert described == {(endpoint.method, endpoint.path) for endpoint in served.shim.endpoints}
    schemas = document["components"]["schemas"]
    wanted = {row.name for row in TABLE if Face.CHAT in row.faces}
    assert wanted == schemas["ChatCompletionRequest"]["properties"].keys()
    for reference in re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', str(document).replace("'", '"')):
        assert reference in schemas


async def test_the_openapi_document_is_as_strict_as_the_server(served: Served, http: aiohttp.ClientSession) -> None:
    """What the document's schema refuses the server refuses, and what it takes just inside the limits is taken."""
    async with http.get(served.url + "/openapi.json") as reply:
        document = await reply.json()

    def schema(body: str, field: str) -> Any:
        found = document["components"]["schemas"][body]["properties"][field]
        return next((kind for kind in found.get("anyOf", ()) if kind.get("type") != "null"), found)

    headers = document["paths"]["/v1/chat/completions"]["post"]["parameters"]
    timeout = next(each["schema"] for each in headers if each["name"] == "x-request-timeout")
    assert timeout == {"type": "number", "exclusiveMinimum": 0}
    messages = schema("ChatCompletionRequest", "messages")
    assert (messages["minItems"], messages["items"]["required"]) == (1, ["role"])
    ids = {"type": "integer", "minimum": 0, "maximum": 255, "format": "token-id"}
    assert schema("ChatCompletionRequest", "stop_token_ids")["items"] == ids
    assert schema("DetokenizeRequest", "tokens")["items"] == ids
    prompts = schema("CompletionRequest", "prompt")
    assert {"type": "array", "minItems": 1, "items": ids} in document["components"]["schemas"]["CompletionRequest"][
        "properties"
    ]["prompt"]["anyOf"], prompts
    temperature = schema("ChatCompletionRequest", "temperature")
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert schema("ChatCompletionRequest", "top_p")["exclusiveMinimum"] == 0
    assert schema("ChatCompletionRequest", "n")["minimum"] == 1
    assert not re.findall(r'"(?:ge|le|gt|lt)":', json.dumps(document))


async def test_the_page_loads_nothing_from_elsewhere(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(served.url + "/docs") as reply:
        page = await reply.text()
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"

    assert not re.findall(r"https?://|<script|<link|<img", page)
    assert all(f"<code>{row.name}</code>" in page for row in TABLE)
