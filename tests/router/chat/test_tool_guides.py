"""Guides for tool calls: whatever keeps to one is read as calls with arguments that fit their schema."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.tool_guides import is_guided, tools_guide
from qwenserve.runtime.errors import InvalidRequest, Unsupported
from qwenserve.text.assets import load_assets
from qwenserve.text.events import Content, ToolCallArguments, ToolCallStart
from qwenserve.text.pipeline import AnswerPipeline, PipelineSettings
from qwenserve.text.tool_calls import tool_schemas
from qwenserve.worker.engine_interface import Guide, GuideKind
from qwenserve.worker.guides.matcher import vocabulary_of

DIRECTORY = Path(__file__).parents[3] / "models" / "qwen3-tiny"
TOKENIZER = load_assets(DIRECTORY).tokenizer
ENDS = frozenset({TOKENIZER.added_ids["<|im_end|>"], TOKENIZER.added_ids["<|endoftext|>"]})
VOCABULARY = vocabulary_of(DIRECTORY, 4096, sorted(ENDS))
assert VOCABULARY is not None
AUTO, REQUIRED, NONE = (getattr(chat_pb2.ToolChoice, f"MODE_{name}") for name in ("AUTO", "REQUIRED", "NONE"))


def tool(name: str, properties: dict[str, Any], required: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [
    tool(
        "book",
        {
            "city": {"type": "string", "title": "City"},
            "class": {"type": "string", "enum": ["first", "second"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 31},
            "at": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
        },
        ["city", "days"],
        strict=True,
    ),
    tool("now", {}),
    {"type": "function", "function": {"name": "ping"}},
]
POINT = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"], "additionalProperties": False}
TOOLS[0]["function"]["parameters"]["$defs"] = {"Point": POINT}


def choice(mode: int, *names: str, parallel: bool | None = None) -> chat_pb2.ToolChoice:
    return chat_pb2.ToolChoice(mode=mode, names=names, parallel=parallel)  # type: ignore[arg-type]


def walk(guide: Guide, seed: int, longest: int = 400) -> list[int] | None:
    """Some ids that keep to a guide, up to where it may end; None where that does not come."""
    assert VOCABULARY is not None
    rng = random.Random(seed)
    matcher = VOCABULARY.matcher(guide)
    # Short texts: what closes something comes as often as all that goes on.
    closing = [
        token for text in ('"', "}", "]", "\n", "</parameter>", ",", '"}', "\n}") for token in TOKENIZER.encode(text)
    ]
    ids: list[int] = []
    while len(ids) < longest:
        allowed = sorted(matcher.allowed() - ENDS)
        if not allowed or (matcher.may_end and ids and rng.random() < 0.3):
            return ids
        likely = [token for token in closing if token in allowed]
        token = rng.choice(likely if likely and rng.random() < 0.5 else allowed)
        assert matcher.take(token)
        ids.append(token)
        if rng.random() < 0.2:
            for token in TOKENIZER.encode("\n</parameter>\n"):
                if not matcher.take(token):
                    break
                ids.append(token)
    return None


def read(ids: Sequence[int], form: str) -> tuple[str, list[tuple[str, str]], bool]:
    """What an answer's reader makes of ids: the text, the calls, and whether one was cut."""
    pipeline = AnswerPipeline(
        TOKENIZER,
        PipelineSettings(parse_tools=form, tools=tool_schemas(TOOLS), eos_token_ids=ENDS),
        starts_in_reasoning=False,
    )
    text, calls = "", []
    for event in [*pipeline.push(ids), *pipeline.finish()]:
        if isinstance(event, Content):
            text += event.text
        elif isinstance(event, ToolCallStart):
            calls.append((event.name, ""))
        elif isinstance(event, ToolCallArguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return text, calls, pipeline.has_cut_call


@pytest.mark.parametrize("form", ["hermes", "xml"])
@pytest.mark.parametrize(
    ("asked", "names", "most"),
    [
        (choice(REQUIRED), {"book", "now", "ping"}, 99),
        (choice(REQUIRED, parallel=False), {"book", "now", "ping"}, 1),
        (choice(REQUIRED, "book"), {"book"}, 1),
        (choice(REQUIRED, "now", "ping"), {"now", "ping"}, 99),
    ],
)
def test_calls_that_must_come_are_read_as_such(
    form: str, asked: chat_pb2.ToolChoice, names: set[str], most: int
) -> None:
    guide = tools_guide(asked, TOOLS, form, strict=False)
    ended = 0
    for seed in range(12):
        ids = walk(Guide(GuideKind(guide.kind), guide.text), seed)
        if ids is None:
            continue
        ended += 1
        text, calls, cut = read(ids, form)
        assert (text, cut) == ("", False), TOKENIZER.decode(ids)
        assert 1 <= len(calls) <= most
        for name, arguments in calls:
            assert name in names
            schema = tool_schemas(TOOLS)[name]
            jsonschema.validate(json.loads(arguments), {"type": "object", "additionalProperties": False, **schema})
    assert ended


@pytest.mark.parametrize("form", ["hermes", "xml"])
def test_what_the_model_says_by_itself_is_free(form: str) -> None:
    guide = tools_guide(choice(AUTO), TOOLS, form, strict=False)
    assert VOCABULARY is not None
    matcher = VOCABULARY.matcher(Guide(GuideKind(guide.kind), guide.text))
    matcher.replay(TOKENIZER.encode("<think>\nHm. {\n</think>\n\nLet me see.\n<tool_call>\n"))
    begin = '{"name": "no' if form == "hermes" else "<function=no"
    matcher.replay(TOKENIZER.encode(begin))
    # Only a name that is known goes on.
    assert all(TOKENIZER.decode([token]).startswith("w") for token in matcher.allowed())


def test_when_calls_are_bound() -> None:
    assert not is_guided(choice(AUTO), TOOLS[1:], strict=False)
    assert is_guided(choice(AUTO), TOOLS[1:], strict=True)
    assert is_guided(choice(AUTO), TOOLS, strict=False)
    assert is_guided(choice(AUTO, "now"), TOOLS[1:], strict=False)
    assert is_guided(choice(REQUIRED), None, strict=False)
    assert not is_guided(choice(NONE), TOOLS, strict=True)


def test_a_schema_that_cannot_be_followed_matters_to_strict_functions_only() -> None:
    odd = tool("f", {"a": {"not": {}}})
    assert tools_guide(choice(REQUIRED), [odd], "hermes", strict=False)
    odd["function"]["strict"] = True
    with pytest.raises(InvalidRequest) as refused:
        tools_guide(choice(AUTO), [odd], "hermes", strict=False)
    assert refused.value.param == "tools[0].function.parameters.properties.a.not"


def test_what_makes_no_sense_is_named() -> None:
    for asked, tools, form, kind in (
        (choice(REQUIRED), [], "hermes", InvalidRequest),
        (choice(REQUIRED, "no"), TOOLS, "hermes", InvalidRequest),
        (choice(REQUIRED), TOOLS, "", Unsupported),
    ):
        with pytest.raises(kind) as refused:
            tools_guide(asked, tools, form, strict=False)
        assert refused.value.param == "tool_choice"
