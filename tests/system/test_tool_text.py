"""Tool calls as models write them, through router and HTTP: whole and streamed alike, and taken back afterwards."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from qwenserve.router.chat.model import ServedModel
from qwenserve.worker.engine_choice import BuiltEngine
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, Stack, running_stack, stack_config

# As templates of the coder models do it: arguments are gone through as the items of an object.
TAGS_TEMPLATE = """{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
<function={{ c.function.name }}>
{% for k, v in c.function.arguments | items %}<parameter={{ k }}>
{{ v }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}}
PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": ["integer", "null"]},
    "at": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
    "odd": {"enum": None, "type": [{}]},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": PROPERTIES, "$defs": {"Point": POINT}},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": None}},
]


class Case(NamedTuple):
    """What the model writes, and what becomes of it: arguments as values, or how they begin where the call was cut."""

    text: str
    arguments: list[Any]
    content: str = ""
    max_tokens: int = 400
    finish: str = "tool_calls"


HERMES = {
    "raw line breaks": Case(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "a\nb\t\\d"}}\n</tool_call>', [{"city": "a\nb\t\\d"}]
    ),
    "Python's words": Case(
        '<tool_call>\n{"name": "weather", "arguments": {"days": None, "odd": [True,],}}\n</tool_call>',
        [{"days": None, "odd": [True]}],
    ),
    "markers in a string": Case(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "<tool_call>x</tool_call> y"}}\n</tool_call>\nDone.',
        [{"city": "<tool_call>x</tool_call> y"}],
        "Done.",
    ),
    "parameters": Case('<tool_call>\n{"name": "weather", "parameters": {"city": "A"}}\n</tool_call>', [{"city": "A"}]),
    "another name": Case(
        '<tool_call>\n{"name": "weather", "args": {"city": "A"}}\n</tool_call>',
        [],
        '<tool_call>\n{"name": "weather", "args": {"city": "A"}}\n</tool_call>',
        finish="stop",
    ),
    "half of a surrogate pair": Case(
        '<tool_call>\n{"name": "weather", "arguments": "{\\"city\\": \\"\\ud83d\\"}"}\n</tool_call>',
        [{"city": "\ud83d"}],
    ),
    "in a thought that never closes": Case(
        '<think>\nI look.\n<tool_call>\n{"name": "now"}\n</tool_call>\n<tool_call>\n{"name": "now"}\n</tool_call>',
        [{}, {}],
    ),
    "cut short": Case(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "' + "word " * 100,
        ['{"city": "word'],
        max_tokens=40,
        finish="length",
    ),
    "ended in a string": Case(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Os', ['{"city": "Os'], finish="stop"
    ),
}
TAGS = {
    "references and odd schemas": Case(
        "<tool_call>\n<function=weather>\n<parameter=at>\n{'x': 1}\n</parameter>\n"
        "<parameter=days>\nnull\n</parameter>\n<parameter=odd>\n7\n</parameter>\n</function>\n</tool_call>",
        [{"at": {"x": 1}, "days": None, "odd": "7"}],
    ),
    "not closed": Case(
        "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n<parameter=days>\n3\n</function>\n</tool_call>",
        [{"city": "Oslo", "days": 3}],
    ),
    "the closing tag in a value": Case(
        "<tool_call>\n<function=weather>\n<parameter=city>\na </parameter> b\n</parameter>\n</function>\n</tool_call>",
        [{"city": "a </parameter> b"}],
    ),
    "without tags around it": Case(
        "Well.\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        [{"city": "Oslo"}],
        "Well.",
    ),
    "half of a surrogate pair": Case(
        '<function=weather>\n<parameter=at>\n{"x": "\\ud83d"}\n</parameter>\n</function>', [{"at": {"x": "\ud83d"}}]
    ),
    "no schema": Case(
        "<tool_call>\n<function=now>\n<parameter=a>\n1\n</parameter></function></tool_call>", [{"a": "1"}]
    ),
    "cut short": Case(
        "<tool_call>\n<function=weather>\n<parameter=city>\n" + "word " * 100,
        ['{"city": "word'],
        max_tokens=40,
        finish="length",
    ),
}


class Served(NamedTuple):
    """A deployment whose engine says `script`, and the form in which its template wants calls."""

    form: str
    stack: Stack
    session: aiohttp.ClientSession
    script: list[str]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["hermes", "xml"])
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    model = TINY
    if request.param == "xml":
        model = tmp_path_factory.mktemp("tags")
        for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            (model / name).write_bytes((TINY / name).read_bytes())
        (model / "chat_template.jinja").write_text(TAGS_TEMPLATE, encoding="utf-8")
    config = stack_config()
    assets = ServedModel.load(model, config).assets
    script = [""]
    engine = ScriptedEngine(
        assets.tokenizer, min(assets.eos_token_ids), max_model_len=2048, answer=lambda prompt: script[0]
    )
    built = BuiltEngine(engine, "scripted")
    async with running_stack(config, model_path=model, built=built) as stack, aiohttp.ClientSession() as session:
        yield Served(request.param, stack, session, script)


async def post(served: Served, body: dict[str, Any]) -> dict[str, Any]:
    async with served.session.post(f"{served.stack.url}/v1/chat/completions", json=body) as reply:
        told: dict[str, Any] = await reply.json()
        assert reply.status == 200, told
        return told


async def streamed(served: Served, body: dict[str, Any]) -> tuple[str, list[str], str]:
    """Content, the arguments of each call, and the reason of the end."""
    content, arguments, finish = "", list[str](), ""
    async with served.session.post(f"{served.stack.url}/v1/chat/completions", json={**body, "stream": True}) as reply:
        assert reply.status == 200
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[len(b"data: ") :])["choices"]:
                content += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
                for call in choice["delta"].get("tool_calls") or ():
                    if call["index"] == len(arguments):
                        arguments.append("")
                    arguments[call["index"]] += call["function"].get("arguments") or ""
    return content, arguments, finish


@pytest.mark.asyncio(loop_scope="module")
async def test_calls_whole_streamed_and_taken_back(served: Served) -> None:
    """The same either way; arguments are an object unless the call was cut; and the conversation goes on with them."""
    for name, case in (HERMES if served.form == "hermes" else TAGS).items():
        served.script[0] = case.text
        question = {"role": "user", "content": "go"}
        body: dict[str, Any] = {"messages": [question], "tools": TOOLS, "max_tokens": case.max_tokens}
        choice = (await post(served, body))["choices"][0]
        message = choice["message"]
        calls = message.get("tool_calls") or []
        written = [call["function"]["arguments"] for call in calls]

        assert (message["content"] or "", written, choice["finish_reason"]) == await streamed(served, body), name
        assert choice["finish_reason"] == case.finish, name
        assert (message["content"] or "") == case.content, name
        assert len(written) == len(case.arguments), name
        for arguments, expected in zip(written, case.arguments, strict=True):
            if isinstance(expected, str):
                assert arguments.startswith(expected), name
            else:
                assert json.loads(arguments) == expected, name

        served.script[0] = "Done."
        results = [{"role": "tool", "content": "1", "tool_call_id": call["id"]} for call in reversed(calls)]
        again = await post(served, {**body, "messages": [question, message, *results]})
        assert again["choices"][0]["message"]["content"] == "Done.", name
