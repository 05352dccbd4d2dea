"""A vocabulary in which every token is text of its own, so that llama.cpp's server streams every id.

The server holds back a token whose text ends inside a character, waiting for the rest, and the id is then
lost to a client that counts in ids. A worker never looks at text, so such tokens (1,448 of Qwen3's) get a
private-use character as their text. Grammars that llama.cpp applies see these texts too and would accept the
tokens anywhere a private-use character may stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gguf import TokenType

_FIRST_PRIVATE = 0xF0000  # plane 15; with plane 16 there is room for 131,068 tokens


class Vocabulary(NamedTuple):
    """Token texts and kinds by id. `replaced` lists the ids whose text was changed."""

    texts: Sequence[str]
    kinds: Sequence[int]
    replaced: Sequence[int]


def from_tokenizer_json(tokenizer: Mapping[str, Any], size: int) -> Vocabulary:
    """Returns the safe vocabulary of a `tokenizer.json` (byte-level BPE), filled up to `size` ids.

    Raises ValueError for another kind of tokenizer and where a token's id does not fit.
    """
    if tokenizer["model"].get("type") != "BPE":
        raise ValueError(f"the type is {tokenizer['model'].get('type')}")
    texts = [f"[unused {i}]" for i in range(size)]
    kinds = [int(TokenType.UNUSED)] * size
    entries = [(text, i, TokenType.NORMAL) for text, i in tokenizer["model"]["vocab"].items()]
    for added in tokenizer.get("added_tokens", ()):
        kind = TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED
        entries.append((added["content"], added["id"], kind))
    for text, i, kind in entries:
        if not 0 <= i < size:
            raise ValueError(f"token {text!r} has id {i}, outside the model's vocabulary of {size}")
        texts[i], kinds[i] = text, int(kind)
    return make_safe(texts, kinds)


def make_safe(texts: Sequence[str], kinds: Sequence[int]) -> Vocabulary:
    """Replaces the text of every normal token that is not complete UTF-8 by itself.

    `texts` are in the printable alphabet of byte-level BPE, and so are the replacements.
    """
    decode = {char: byte for byte, char in _BYTE_CHARS.items()}
    safe = list(texts)
    replaced: list[int] = []
    for i, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        if kind != TokenType.NORMAL or text.isascii():
            continue
        try:
            bytes(decode[c] for c in text).decode("utf-8")
        except KeyError:
            continue  # not written in the byte alphabet: the text is literal, and complete
        except UnicodeDecodeError:
            safe[i] = _byte_text(_private(len(replaced)))
            replaced.append(i)
    return Vocabulary(safe, kinds, replaced)


def merges(tokenizer: Mapping[str, Any]) -> list[str]:
    """Returns the merges as "left right" strings; both published forms are taken."""
    return [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]


def _private(n: int) -> str:
    # The last two code points of a plane are not characters.
    return chr(_FIRST_PRIVATE + n + 2 * (n // 0xFFFE))


def _byte_text(text: str) -> str:
    return "".join(_BYTE_CHARS[b] for b in text.encode("utf-8"))


def _byte_chars() -> dict[int, str]:
    """Byte-level BPE writes printable Latin-1 bytes as themselves, the others as U+0100 onwards."""
    printable = {b for b in range(256) if 0x21 <= b <= 0x7E or (b >= 0xA1 and b != 0xAD)}
    others = iter(range(0x100, 0x200))
    return {b: chr(b) if b in printable else chr(next(others)) for b in range(256)}


_BYTE_CHARS = _byte_chars()
