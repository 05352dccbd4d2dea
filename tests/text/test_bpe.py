"""The quick encoder gives the reference's ids: for every token, every character, and texts that are hard to cut."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from qwenserve.text.bpe import BYTE_OF, Encoder, RankEncoder, ReferenceEncoder, encoder_for
from qwenserve.text.tiktoken_core import core_of, public_of
from qwenserve.text.tokenizers_parts import Parts
from tests.fixtures.full_tokenizer import model_directories

PAIRS: dict[str, tuple[RankEncoder, ReferenceEncoder, tokenizers.Tokenizer]] = {}


def load(name: str) -> tuple[RankEncoder, ReferenceEncoder, tokenizers.Tokenizer]:
    if name not in PAIRS:
        path = next(path for path in model_directories() if path.name == name)
        backend = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        quick = encoder_for(backend)
        assert isinstance(quick, RankEncoder)
        PAIRS[name] = quick, ReferenceEncoder(backend), backend
    return PAIRS[name]


@pytest.fixture(params=[path.name for path in model_directories()])
def trio(request: pytest.FixtureRequest) -> tuple[RankEncoder, ReferenceEncoder, tokenizers.Tokenizer]:
    return load(request.param)


def check(quick: Encoder, reference: Encoder, texts: Sequence[str]) -> None:
    for text, got, expected in zip(texts, quick.encode(texts), reference.encode(texts), strict=True):
        assert got == expected, ascii(text)[:500]


def characters() -> Iterator[str]:
    return (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)


def test_every_token_of_the_vocabulary_alone(trio) -> None:
    quick, reference, backend = trio
    raw = [bytes(map(BYTE_OF.__getitem__, token)) for token in backend.get_vocab(with_added_tokens=False)]
    texts = [data.decode("utf-8") for data in raw if is_text(data)]

    assert len(texts) > len(raw) // 2
    check(quick, reference, texts)


def is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_character_in_places_where_its_class_matters() -> None:
    """Letters, digits, spaces and cases are drawn from each library's own tables: no character may differ. The
    expression is the same in all Qwen3 tokenizers, so one of them will do."""
    quick, reference, _ = load(model_directories()[0].name)
    pieces = [f"a{c}1{c} '{c}" for c in characters()]
    # Many to a text: a call for each of a million characters would take a minute.
    texts = ["|".join(pieces[start : start + 2000]) for start in range(0, len(pieces), 2000)]

    check(quick, reference, texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " " * 100_000,
        "\n" * 50_000 + "a",
        "a" * 20_000,
        "^" * 100_000,
        "e\u0301" * 1000,
        "\u1100\u1161\u11a8 가 각 \ufb01 \u212b",
        "\u11935\u11930 \U00011935\U00011930",
        "half \ud83d of a pair",
        "I'LL we'Ve 'ſ 'S it's",
        "\r\n \r\n\t x\u00a0y\u2003z\u0085w",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_texts_that_are_hard_to_cut(trio, text: str) -> None:
    check(trio[0], trio[1], [text])


@pytest.mark.parametrize("name", [path.name for path in model_directories()])
def test_any_text(name: str) -> None:
    quick, reference, backend = load(name)
    # Encoders are given what is between added tokens.
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    anything = st.text(max_size=80).filter(lambda text: not any(token in text for token in added))
    # What the expression cuts differently by what comes next.
    spaced = st.text(" \t\n\r\u3000\x85ab1.'s\u0301", max_size=40)

    @given(st.lists(st.one_of(anything, spaced), max_size=4))
    def compare(texts: list[str]) -> None:
        check(quick, reference, texts)

    compare()


def test_tokens_have_the_same_bytes_and_ids(trio) -> None:
    quick, reference, backend = trio
    ids = [*range(0, backend.get_vocab_size(with_added_tokens=False), 7), -1, 10**9]

    assert [quick.token_bytes(i) for i in ids] == [reference.token_bytes(i) for i in ids]
    assert (quick.id_of("Ġthe"), quick.id_of("no such token")) == (reference.id_of("Ġthe"), None)


def test_the_reference_is_made_again_only_for_a_text_that_needs_it() -> None:
    made = []

    def reload() -> tokenizers.Tokenizer:
        made.append(small())
        return made[-1]

    encoder = encoder_for(small(), reload)
    encoder.encode(["abab"])
    assert made == []

    lone = "a\ud83d"
    assert encoder.encode([lone, lone]) == ReferenceEncoder(small()).encode([lone, lone])
    assert len(made) <= 1


def small(**model: object) -> tokenizers.Tokenizer:
    vocabulary = {character: number for number, character in enumerate(BYTE_OF)}
    vocabulary["ab"] = 256
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b")], **model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"\w+|\W+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def test_a_tokenizer_of_another_kind_is_left_to_the_reference() -> None:
    other_cut = small()
    other_cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other_model = small(ignore_merges=True)

    assert isinstance(encoder_for(small()), RankEncoder)
    assert isinstance(encoder_for(other_cut), ReferenceEncoder)
    assert isinstance(encoder_for(other_model), ReferenceEncoder)


def test_a_vocabulary_that_is_not_in_the_order_of_its_merges_is_noticed() -> None:
    vocabulary = {character: number for number, character in enumerate(BYTE_OF)}
    # "bc" is merged first, but has the higher id: going by ids would read "abc" as "ab", "c".
    vocabulary |= {"ab": 256, "bc": 257}
    backend = small()
    backend.model = models.BPE(vocabulary, [("b", "c"), ("a", "b")])
    words = [f"{x}{y}{z}" for x in "abc" for y in "abc" for z in "abc"]

    encoder = encoder_for(backend)

    check(encoder, ReferenceEncoder(backend), words)


def test_the_public_class_of_a_library_does_what_its_core_does(trio) -> None:
    """In releases whose inside is not known: the same ids, bytes and refusals."""
    _, _, backend = trio
    ranks = {bytes(map(BYTE_OF.__getitem__, t)): i for t, i in backend.get_vocab(with_added_tokens=False).items()}
    pattern = next(stage["pattern"]["Regex"] for stage in Parts(backend).pre_tokenizers() if "pattern" in stage)
    core, public = core_of(ranks, pattern), public_of(ranks, pattern)

    stand_in = "\ufdd0\ufdd1\ufdd0\ufdd1"  # the core is told of it as of a special token
    for text in (
        "",
        "I'LL see  12 天气 🌦️\r\n\tx",
        " " * 1000,
        "def f():\n    return 'a'",
        stand_in,
        f"a{stand_in * 2} b",
    ):
        assert core.ids_of(text) == public.ids_of(text)
    encoders = [RankEncoder(each, normalize=True, reference=lambda: backend) for each in (core, public)]
    spelling = {byte: character for character, byte in BYTE_OF.items()}
    lone = ["a\ud83db", "\udc00", "e\u0301\ud83d"]
    assert encoders[0].encode(lone) == encoders[1].encode(lone)
    for token_id in (0, len(ranks) - 1, len(ranks), -1, 2**32 - 1, 2**40):
        assert encoders[0].token_bytes(token_id) == encoders[1].token_bytes(token_id)
    assert encoders[0].id_of("Ġthe") == encoders[1].id_of("Ġthe")
    spelled = "".join(spelling[byte] for byte in stand_in.encode())
    for unknown in ("no such token", spelled):
        assert encoders[0].id_of(unknown) is encoders[1].id_of(unknown) is None


def test_the_parts_of_a_tokenizer_are_the_same_from_their_state_and_from_the_whole(trio) -> None:
    """In releases whose states are not known the whole is asked."""
    by_state, by_whole = (Parts(trio[2], by_state=known) for known in (True, False))

    assert by_state.normalizers() == by_whole.normalizers()
    assert by_state.pre_tokenizers() == by_whole.pre_tokenizers()
    assert by_state.decoders() == by_whole.decoders()
    assert by_state.merges() == by_whole.merges()


def test_parts_that_are_not_there() -> None:
    """A bare tokenizer has none of them, either way."""
    for known in (True, False):
        parts = Parts(tokenizers.Tokenizer(models.BPE({}, [])), by_state=known)

        assert [*parts.normalizers(), *parts.pre_tokenizers(), *parts.decoders()] == []
        assert parts.merges() == []
