"""Values that arguments and results of tools are filled with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from models.train_qwen3_tiny import words

Make = Callable[[random.Random, bool], Any]  # draws a value; True asks for one that training never shows
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CNY", "CHF", "INR")


def code(rng: random.Random, _: bool) -> str:
    return words.code(rng)


def item(rng: random.Random, held_out: bool) -> str:
    return rng.choice(words.ITEMS) if rng.random() < 0.5 else words.invented(rng, held_out)


def time_text(rng: random.Random, _: bool) -> str:
    return (
        f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
        if rng.random() < 0.6
        else f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}"
    )


def date_text(rng: random.Random, _: bool) -> str:
    month = rng.choice(("January", "March", "May", "June", "August", "October", "December"))
    return rng.choice(
        (
            f"{month} {rng.randint(1, 30)}",
            f"2025-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
            "tomorrow",
            "Monday",
            "Friday",
        )
    )


def short_text(rng: random.Random, held_out: bool) -> str:
    return rng.choice(
        (
            f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}",
            f"buy {rng.randint(2, 9)} {rng.choice(words.ITEMS)}s",
            f"the {rng.choice(words.NOUNS)} is {rng.choice(words.ADJECTIVES)}",
            words.invented(rng, held_out),
            f"{words.invented(rng, held_out)} {rng.choice(words.NOUNS)}",
        )
    )


def title(rng: random.Random, held_out: bool) -> str:
    return rng.choice(
        (
            f"{rng.choice(words.ADJECTIVES).capitalize()} {rng.choice(words.NOUNS).capitalize()}",
            words.invented(rng, held_out).capitalize(),
            f"The {rng.choice(words.NOUNS).capitalize()} of {words.invented(rng, held_out).capitalize()}",
        )
    )


def symbol(rng: random.Random, _: bool) -> str:
    return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(2, 5)))


def flight(rng: random.Random, _: bool) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=2)) + words.digits(rng, rng.randint(2, 4))


def path(rng: random.Random, held_out: bool) -> str:
    ending = rng.choice(("txt", "csv", "json", "py", "md", "log", "pdf"))
    folder = rng.choice(("", "", "/tmp/", "notes/", "/home/user/", "data/"))
    return f"{folder}{words.invented(rng, held_out)}.{ending}"


def expression(rng: random.Random, _: bool) -> str:
    return f"{rng.randint(2, 9999)} {rng.choice('+-*/')} {rng.randint(2, 999)}"
