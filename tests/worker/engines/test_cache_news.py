"""What slots and kept states hold, told in blocks."""

from __future__ import annotations

import random

from qwenserve.worker.engines.llamacpp.cache_news import CacheNews


def there(news: CacheNews, known: set[int]) -> set[int]:
    """What a reader knows after the next events."""
    for event in news.fetch():
        assert not known.isdisjoint(event.removed) or not event.removed
        assert known.isdisjoint(event.stored)
        known = known - set(event.removed) | set(event.stored)
    return known


def test_what_a_holder_has_takes_the_place_of_what_it_had() -> None:
    news = CacheNews()
    news.holds(0, ())
    assert not news.fetch()
    news.holds(0, [1, 2, 3])
    news.holds(0, [1, 2, 4])
    assert [(event.sequence, event.stored, event.removed) for event in news.fetch()] == [
        (0, [1, 2, 3], []),
        (1, [4], [3]),
    ]


def test_a_reader_knows_what_any_holder_has() -> None:
    draw = random.Random(5)
    news, held, known = CacheNews(), dict[int, list[int]](), set[int]()
    for _ in range(500):
        holder = draw.randrange(4)
        held[holder] = [draw.randrange(3) * 100 + n for n in range(draw.randrange(4))]
        held[holder] = list(dict.fromkeys(held[holder]))
        news.holds(holder, held[holder])
        known = there(news, known)
        assert known == {value for values in held.values() for value in values}
