"""Guides followed id by id, in a byte-level vocabulary and in the small model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenserve.worker.engine_interface import Guide, GuideKind
from qwenserve.worker.guides.matcher import GuideError, GuideVocabulary, vocabulary_of
from tests.worker.engines.model_directories import END, OTHER_END, THINK, VOCAB, tokenizer

BYTES = GuideVocabulary(tokenizer(), VOCAB, (END, OTHER_END))
SCHEMA = '{"type":"object","properties":{"a":{"type":"string","maxLength":3}},"required":["a"]}'


def regions(*, free: bool, least: int, most: int) -> Guide:
    region = {"begin": "<think>x", "kind": 1, "text": SCHEMA, "end": "y<think>"}
    return Guide(GuideKind.REGIONS, json.dumps({"regions": [region], "free": free, "least": least, "most": most}))


REGION = [THINK, *b'x{"a": "b"}y', THINK]


def took(guide: Guide, ids: list[int]) -> int:
    """How many of the ids the guide takes before one that it does not."""
    matcher = BYTES.matcher(guide)
    for count, token in enumerate(ids):
        allowed = matcher.allowed()
        taken = matcher.take(token)
        assert taken == (token in allowed) or matcher.complete
        if not taken:
            return count
    return len(ids)


def test_every_id_is_checked_and_a_refused_one_changes_nothing():
    matcher = BYTES.matcher(Guide(GuideKind.REGEX, "[0-9]{2,3}"))
    assert [matcher.take(token) for token in b"1x2x"] == [True, False, True, False]
    assert (matcher.may_end, matcher.complete) == (True, False)
    assert matcher.allowed() == {*b"0123456789", END, OTHER_END}
    assert matcher.take(ord("3"))
    assert (matcher.may_end, matcher.complete) == (True, True)
    assert not matcher.take(ord("4"))


def test_characters_may_be_made_of_several_ids():
    guide = Guide(GuideKind.CHOICE, '["你","ä"]')
    matcher = BYTES.matcher(guide)
    assert matcher.allowed() == {0xE4, 258, 0xC3}  # a byte, the two bytes that are one id, and the other character
    for way in ([0xE4, 0xBD, 0xA0], [258, 0xA0]):
        assert took(guide, way) == len(way)
    assert took(guide, [0xE4, 0xBD, 0xA1]) == 2


def test_forced_ids():
    matcher = BYTES.matcher(Guide(GuideKind.CHOICE, '["abc","abd"]'))
    assert list(matcher.forced()) == [*b"ab"]
    matcher.replay([*b"ab"])
    assert matcher.forced() == []


def test_what_went_before_must_have_kept_to_it():
    with pytest.raises(GuideError, match="do not keep to it"):
        BYTES.matcher(Guide(GuideKind.REGEX, "a+")).replay([*b"aab"])


@pytest.mark.parametrize(
    ("guide", "ids", "taken"),
    [
        (regions(free=True, least=0, most=0), [*b"ab", *REGION, *b"c", *REGION], None),
        (regions(free=True, least=0, most=0), [*b"a", *REGION[:5], *b"zz"], 6),
        (regions(free=True, least=0, most=0), [], None),
        (regions(free=True, least=0, most=1), [*b"a", *REGION, ord("b")], 1 + len(REGION)),
        (regions(free=False, least=1, most=0), [*REGION, ord("\n"), *REGION], None),
        (regions(free=False, least=1, most=0), [ord("a")], 0),
        (regions(free=False, least=1, most=1), [*REGION, ord("\n")], len(REGION)),
    ],
)
def test_regions(guide: Guide, ids: list[int], taken: int | None):
    assert took(guide, ids) == (len(ids) if taken is None else taken)


def test_a_region_inside_holds_a_grammar_too():
    region = {"begin": "<think>", "kind": 5, "text": 'start: word\nword: "a" | "b"', "end": "<think>"}
    other = region | {"begin": "<think>-", "text": 'start: word\nword: "c"'}
    form = {"regions": [region, other], "free": False, "least": 1, "most": 1}
    guide = Guide(GuideKind.REGIONS, json.dumps(form))
    assert took(guide, [THINK, ord("b"), THINK]) == 3
    assert took(guide, [THINK, *b"-c", THINK]) == 4
    assert took(guide, [THINK, *b"-b"]) == 2


@pytest.mark.parametrize(
    "guide",
    [
        Guide(GuideKind.REGEX, "a(?=b)"),
        Guide(GuideKind.GRAMMAR, "start: nothing"),
        Guide(GuideKind.JSON_SCHEMA, '{"type":"string","uniqueItems":true}'),
        Guide(GuideKind.JSON_SCHEMA, "no json"),
        Guide(GuideKind.REGIONS, '{"regions":[{"begin":"x","kind":99,"text":"","end":"y"}],"free":true,"most":0}'),
    ],
)
def test_guides_that_cannot_be_followed(guide: Guide):
    with pytest.raises(GuideError, match="guide: "):
        BYTES.matcher(guide)


def test_compiled_guides_are_kept_up_to_a_bound():
    vocabulary = GuideVocabulary(tokenizer(), VOCAB, (END,))
    for number in range(200):
        assert vocabulary.matcher(Guide(GuideKind.CHOICE, f'["{number}"]')).take(ord(str(number)[0]))
    assert len(vocabulary._kept) == 64


def test_the_small_model(tmp_path: Path):
    directory = Path(__file__).parents[2] / "models" / "qwen3-tiny"
    vocabulary = vocabulary_of(directory, 4096, (4070, 4072))
    assert vocabulary is not None
    assert 4084 not in vocabulary.matcher(Guide(GuideKind.REGEX, "(.|\n)*")).allowed()  # <tool_call> is no text
    assert vocabulary_of(tmp_path, 4096, (4070,)) is None
