"""What a guide costs for a token, without an engine: `python -m tests.system.guide_cost`.

Walks at random through generated schemas in the small model's vocabulary and, where it can be had, in that of the
full-size models: every id is checked (`take`), and what may come next is asked for (`allowed`), which the embedded
engine does only where the model does not keep to the guide by itself. CPU time, medians over the schemas.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from itertools import islice
from pathlib import Path

from qwenserve.router.guides import checks
from qwenserve.router.guides.checks import checked
from qwenserve.worker.engine_interface import Guide, GuideKind
from qwenserve.worker.guides.matcher import GuideVocabulary, vocabulary_of
from tests.fixtures.full_tokenizer import FULL_TOKENIZER
from tests.system.generated_forms import schema
from tests.system.stack import TINY

_SCHEMAS = 60
_LONGEST = 80


def walk(vocabulary: GuideVocabulary, seed: int) -> tuple[float, float, float]:
    """Returns milliseconds to compile a schema, and microseconds for each `allowed` and each `take`."""
    rng = random.Random(seed)
    prepared = checked(checks.GuideKind.JSON_SCHEMA, json.dumps(schema(seed))).text
    began = time.process_time()
    matcher = vocabulary.matcher(Guide(GuideKind.JSON_SCHEMA, prepared))
    compiled = time.process_time() - began
    asked = taken = 0.0
    count = 0
    while not matcher.complete and count < _LONGEST:
        start = time.process_time()
        choices = matcher.allowed()
        middle = time.process_time()
        token = rng.choice(list(islice(choices, 200)))
        before = time.process_time()
        matcher.take(token)
        taken += time.process_time() - before
        asked += middle - start
        count += 1
    return 1e3 * compiled, 1e6 * asked / max(1, count), 1e6 * taken / max(1, count)


def main() -> None:
    """Prints a row for each vocabulary."""
    print("| ids | compile, ms | what may come next, µs | check of an id, µs |\n|---|---|---|---|")
    for directory, size, ends in ((TINY, 4096, (4070, 4072)), (FULL_TOKENIZER, 151_936, (151_643, 151_645))):
        vocabulary = vocabulary_of(Path(directory), size, ends)
        if vocabulary is None:
            print(f"| {size:,} | no tokenizer here | | |")
            continue
        walk(vocabulary, 0)
        columns = zip(*(walk(vocabulary, seed) for seed in range(_SCHEMAS)), strict=True)
        print(f"| {size:,} | " + " | ".join(f"{statistics.median(column):.1f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
