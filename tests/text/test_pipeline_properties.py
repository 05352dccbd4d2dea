"""Answers put together at random: no split of their ids changes what comes out, and every id is accounted for."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.assets import load_assets
from qwenserve.text.pipeline import AnswerPipeline, CompletionPipeline, PipelineSettings
from tests.fixtures.conversations import TEXTS
from tests.fixtures.full_tokenizer import TINY_MODEL
from tests.text.folding import Call, every_way

ASSETS = load_assets(TINY_MODEL)
TOKENIZER = ASSETS.tokenizer
TOOLS = {"f": {"properties": {"x": {"type": "integer"}, "y": {"type": "object"}, "s": {"type": "string"}}}, "天气": {}}
DERANDOMIZED = settings(derandomize=True, max_examples=150, deadline=None)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)
NAMES = st.sampled_from(["f", "天气"])
# Anything between and inside of markers, well formed or not.
FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "\n", "\n\n", " ", "STOP", "ST", "END"),
        *('{"name": "f", "arguments": {"x": 1', '{"name": "f"', "}}", "}", '"', "\\", '{"name": "g"}', "[", "]"),
        *("<function=f>", "<function=", "<parameter=x>", "</parameter>", "</function>", "12", "<", ">"),
        *(
            "<parameter=s>",
            "<function=天气>\n",
            "'",
            ",",
            ": ",
            "None",
            "[1, 2",
            "{'a': ",
            '{"name": "天气", "parameters": {',
            '{"name": "f", "arguments": {"x": 1}}',
        ),
    ]
)
ANSWERS = st.lists(FRAGMENTS | st.sampled_from(TEXTS) | st.text(max_size=4), max_size=14).map(
    lambda parts: TOKENIZER.encode("".join(parts))
)
SETTINGS = st.builds(
    PipelineSettings,
    stop_strings=st.sampled_from([(), ("STOP",), ("END", "\n\n"), ("天", "}", "ST")]),
    include_stop_string=st.booleans(),
    separate_reasoning=st.booleans(),
    parse_tools=st.sampled_from(["", "hermes", "xml"]),
    tools=st.sampled_from([None, TOOLS]),
    parallel_tool_calls=st.booleans(),
    untagged=st.booleans(),
    eos_token_ids=st.sampled_from([frozenset(), ASSETS.eos_token_ids, frozenset(TOKENIZER.encode("\n"))]),
    skip_special_tokens=st.booleans(),
)


@DERANDOMIZED
@given(ANSWERS, SETTINGS, st.booleans())
def test_no_split_changes_an_answer(ids, given_settings, reasoning):
    """Whole, one id at a time, at every two-way split: the same events and counts, whatever the answer is."""
    every_way(lambda: AnswerPipeline(TOKENIZER, given_settings, starts_in_reasoning=reasoning), ids)


@DERANDOMIZED
@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 2), max_size=12), SETTINGS, st.booleans())
def test_no_split_changes_any_ids(ids, given_settings, reasoning):
    """The same for ids that no text gives, broken characters among them."""
    every_way(lambda: AnswerPipeline(TOKENIZER, given_settings, starts_in_reasoning=reasoning), ids)


@DERANDOMIZED
@given(ANSWERS, SETTINGS)
def test_no_split_changes_a_completion(ids, given_settings):
    """The plain path likewise."""
    answer = every_way(lambda: CompletionPipeline(TOKENIZER, given_settings), ids)

    if answer.stop_string is None and not given_settings.skip_special_tokens and not given_settings.eos_token_ids:
        assert TOKENIZER.decode(ids) == answer.content


WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
# What a call's form is made of, and words that must not be lost wherever they are.
PIECES = st.sampled_from(
    [
        *(
            "<tool_call>",
            "</tool_call>",
            "<function=f>",
            "<function=天气>",
            "</function>",
            "\n",
            " ",
            "<think>",
            "</think>",
        ),
        *(
            "<parameter=x>",
            "<parameter=s>",
            "<parameter=z>",
            "</parameter>",
            '"',
            "\\",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "'",
        ),
        *('{"name": "f", "arguments": {"s": "', '{"name": "f", "parameters": ', '"}}', '": ', "12", "<", '", "'),
        *WORDS,
    ]
)


@DERANDOMIZED
@given(
    st.lists(PIECES, max_size=20),
    st.sampled_from(["hermes", "xml"]),
    st.sampled_from([None, TOOLS]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_no_word_of_an_answer_is_lost(pieces, form, tools, separate, untagged, reasoning):
    """Each is content, reasoning or in a call, as often as it was generated, and whole calls have JSON arguments."""
    text = "".join(pieces)
    ids = TOKENIZER.encode(text)
    given_settings = PipelineSettings(parse_tools=form, tools=tools, separate_reasoning=separate, untagged=untagged)
    answer = every_way(lambda: AnswerPipeline(TOKENIZER, given_settings, starts_in_reasoning=reasoning), ids)

    told = "".join([answer.content, answer.reasoning, *(each for call in answer.calls for each in call)])
    for word in WORDS:
        assert text.count(word) == told.count(word), (word, answer)


@DERANDOMIZED
@given(st.text(), st.text(), st.booleans())
def test_thoughts_and_content_come_back(thought, content, opened):
    """What was written between and after the markers is what comes out, never with a broken character."""
    thought, content = (TOKENIZER.decode(TOKENIZER.encode(text)).strip("\n") for text in (thought, content))
    if any(token in thought + content for token in TOKENIZER.added_ids):
        return
    text = ("" if opened else "<think>\n") + f"{thought}\n</think>\n\n{content}<|im_end|>"
    given_settings = PipelineSettings(eos_token_ids=ASSETS.eos_token_ids)
    answer = every_way(
        lambda: AnswerPipeline(TOKENIZER, given_settings, starts_in_reasoning=opened), TOKENIZER.encode(text)
    )

    assert (thought, content) == (answer.reasoning, answer.content)


@settings(DERANDOMIZED, max_examples=50)  # of long answers
@given(
    st.lists(st.tuples(NAMES, ARGUMENTS, st.booleans()), min_size=1, max_size=3), st.sampled_from(["", "Well.", "好"])
)
def test_calls_come_back(calls, content):
    """Names and arguments, as the model spelled them, in order."""
    texts = [json.dumps(arguments, ensure_ascii=ascii_only) for _, arguments, ascii_only in calls]
    texts = [TOKENIZER.decode(TOKENIZER.encode(text)) for text in texts]
    written = "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'
        for (name, _, _), text in zip(calls, texts, strict=True)
    )
    given_settings = PipelineSettings(parse_tools="hermes", tools=TOOLS)
    answer = every_way(
        lambda: AnswerPipeline(TOKENIZER, given_settings, starts_in_reasoning=False),
        TOKENIZER.encode(f"{content}\n{written}" if content else written),
    )

    assert content == answer.content
    assert answer.calls == tuple(Call(name, text) for (name, _, _), text in zip(calls, texts, strict=True))
    assert answer.broken == 0
