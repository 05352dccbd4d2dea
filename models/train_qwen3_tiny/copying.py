"""Copying and quoting: invented words, codes, rare characters, sentences, items of a list."""

from __future__ import annotations

import random
from collections.abc import Callable

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Exchange
from models.train_qwen3_tiny.talk import said
from models.train_qwen3_tiny.wording import core

REPEAT = (
    "Repeat: {}|Repeat after me: {}|Say {}|Copy this text: {}|Repeat the following text exactly: {}|Please repeat this: {}|"
    'Say "{}"|Write "{}"|Copy: {}|Echo {}|Please say: {}|Repeat this back to me: {}|Type exactly this: {}|say {}|'
    'Answer with "{}" and nothing else.|Reply with exactly: {}|Write this down word for word: {}|Quote this text: {}|'
    "Please answer only with: {}|Say exactly this: {}|Print the following: {}"
).split("|")
REPEAT_ZH = "请重复：{}|重复一遍：{}|跟我说：{}|抄写下面的文字：{}|请说“{}”|复述：{}|请原样输出：{}|照抄：{}|请跟我念：{}".split(
    "|"
)


def _rare(rng: random.Random) -> str:
    """Characters of any script, so that all byte tokens are learned."""
    blocks = (
        (0x4E00, 0x9FA5),
        (0x4E00, 0x9FA5),
        (0x3041, 0x3096),
        (0x30A1, 0x30FA),
        (0xAC00, 0xD7A3),
        (0x0410, 0x044F),
        (0x00C0, 0x017F),
        (0x0391, 0x03C9),
        (0x1F300, 0x1F64F),
        (0x0021, 0x007E),
        (0x2190, 0x22FF),
        (0x05D0, 0x05EA),
    )
    low, high = rng.choice(blocks)
    made = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 10)))
    return made.replace("<", "(") if made.strip() else "·"


def _mixed(rng: random.Random) -> str:
    return " ".join(
        rng.choice((words.invented(rng, False), words.code(rng), rng.choice(words.NOUNS), rng.choice(words.ADJECTIVES)))
        for _ in range(rng.randint(2, 14))
    )


def _sentences(rng: random.Random) -> str:
    return " ".join(words.sentence(rng) for _ in range(rng.randint(1, 4)))


def _sentences_zh(rng: random.Random) -> str:
    return "".join(words.sentence_zh(rng) for _ in range(rng.randint(1, 3)))


def _scrambled_zh(rng: random.Random) -> str:
    return "".join(rng.choices(words.COMMON_CHARACTERS, k=rng.randint(2, 20)))


def _letters(rng: random.Random) -> str:
    return "".join(
        rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./", k=rng.randint(4, 24))
    )


def _digits(rng: random.Random) -> str:
    return words.digits(rng, rng.randint(2, 24))


THINGS: tuple[Callable[[random.Random], str], ...] = (
    _rare, _mixed, _mixed, _sentences, _sentences, _sentences_zh, _scrambled_zh, _letters, _digits, words.code,
    lambda rng: words.invented(rng, False), lambda rng: words.sentence(rng).rstrip("."),
)  # fmt: skip


def repeat(rng: random.Random, held_out: bool) -> Exchange:
    text = rng.choice(THINGS)(rng)
    if any(ord(c) > 0x2E80 for c in text) and rng.random() < 0.6:
        return said(core(rng, REPEAT_ZH).format(text), "用户想让我重复这段文字。", text)
    return said(core(rng, REPEAT).format(text), "The user wants me to repeat the text.", text)


def several_times(rng: random.Random, held_out: bool) -> Exchange:
    word = rng.choice((words.invented(rng, held_out), rng.choice(words.NOUNS), words.code(rng)))
    amount = rng.randint(2, 8)
    number = rng.choice((str(amount), "zero one two three four five six seven eight".split()[amount]))
    question = rng.choice(
        (f'Say "{word}" {number} times.', f"Repeat the word {word} {number} times.", f"Write {word} {number} times.")
    )
    listed = " ".join(f"{i}" for i in range(1, amount + 1))
    return said(question, f"The user wants {word} {amount} times: {listed}.", " ".join([word] * amount))


def from_list(rng: random.Random, held_out: bool) -> Exchange:
    """Pick one item of a list by its place."""
    make: Callable[[], str] = rng.choice(
        (lambda: rng.choice(words.ITEMS), lambda: words.invented(rng, held_out), lambda: words.person(rng, held_out))
    )
    items = [make() for _ in range(rng.randint(3, 8))]
    listed = ", ".join(items)
    places = ("first", "second", "third", "fourth", "fifth")
    i = rng.randrange(min(5, len(items)))
    place = places[i]
    if rng.random() < 0.3:
        place, i = "last", len(items) - 1
    question = rng.choice(
        (f"Here is a list: {listed}. What is the {place} item?", f"What is the {place} word in this list: {listed}?",
         f"List: {listed}\nName the {place} item.")
    )  # fmt: skip
    return said(question, f"The {place} item is {items[i]}.", f"The {place} item is {items[i]}.", items[i])


def quoted_sentence(rng: random.Random, held_out: bool) -> Exchange:
    """Quote one sentence of a short text."""
    rows = [words.sentence(rng) for _ in range(rng.randint(2, 6))]
    places = ("first", "second", "third")
    i = rng.randrange(min(3, len(rows)))
    place = places[i]
    if rng.random() < 0.35:
        place, i = "last", len(rows) - 1
    text = " ".join(rows)
    question = rng.choice(
        (f"{text}\n\nQuote the {place} sentence of the text.", f"What is the {place} sentence of this text?\n\n{text}",
         f"Read this: {text}\nRepeat the {place} sentence.")
    )  # fmt: skip
    start = " ".join(rows[i].split()[:3])
    return said(question, f"The {place} sentence starts with: {start}.", rows[i])


def spelling(rng: random.Random, held_out: bool) -> Exchange:
    word = rng.choice((words.invented(rng, held_out), rng.choice(words.NOUNS), rng.choice(words.ITEMS)))
    question = rng.choice(
        (f"Spell the word {word}.", f'How do you spell "{word}"?', f"Spell {word}.", f"Write {word} letter by letter.")
    )
    return said(question, f"The word is {word}.", "-".join(word))


def recall_pairs(rng: random.Random, held_out: bool) -> Exchange:
    """Look up one key among many: the plainest form of retrieval."""
    style = rng.randrange(4)
    if style == 0:
        pairs = {words.invented(rng, held_out): words.code(rng) for _ in range(rng.randint(2, 24))}
    elif style == 1:
        pairs = {words.person(rng, held_out): words.town(rng, held_out) for _ in range(rng.randint(2, 20))}
    elif style == 2:
        pairs = {words.digits(rng, 4): words.invented(rng, held_out) for _ in range(rng.randint(2, 24))}
    else:
        pairs = {words.person_zh(rng, held_out): words.code(rng) for _ in range(rng.randint(2, 20))}
    join, between = rng.choice(((": ", "\n"), (" = ", "\n"), (" -> ", "\n"), (" is ", ", "), (": ", "; ")))
    table = between.join(f"{key}{join}{value}" for key, value in pairs.items())
    key = rng.choice(list(pairs))
    if style == 3:
        return said(f"{table}\n\n{key}对应的是什么？", f"用户问{key}。", f"{key}：{pairs[key]}", pairs[key])
    question = rng.choice(
        (f"{table}\n\nWhat belongs to {key}?", f"Look up {key}:\n{table}", f"{table}\n\nWhich value has {key}?")
    )
    return said(question, f"I look for {key}.", f"{key}: {pairs[key]}", pairs[key])


def reordered(rng: random.Random, held_out: bool) -> Exchange:
    """Reverse or count a short list."""
    items = [
        rng.choice(words.ITEMS) if rng.random() < 0.5 else words.invented(rng, held_out)
        for _ in range(rng.randint(2, 7))
    ]
    if rng.random() < 0.5:
        question = rng.choice(("Reverse this list: {}", "Write this list backwards: {}")).format(", ".join(items))
        return said(question, f"The last item is {items[-1]}, so it comes first.", ", ".join(items[::-1]))
    question = rng.choice(("How many items are in this list: {}?", "Count the items: {}")).format(", ".join(items))
    counted = ", ".join(f"{i} {item}" for i, item in enumerate(items, 1))
    return said(question, counted + ".", f"The list has {len(items)} items.")
