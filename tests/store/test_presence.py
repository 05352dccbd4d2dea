"""Who has come and who has gone, on recorded looks."""

from __future__ import annotations

from qwenserve.store.presence import Presence, Seen

NOTHING = Seen(frozenset(), frozenset())


def seen(came: str = "", gone: str = "") -> Seen:
    return Seen(frozenset(came), frozenset(gone))


def test_members_come_once():
    """A member is told of when it is first seen."""
    presence = Presence(10)

    assert presence.look("ab", 0) == seen(came="ab")
    assert presence.look("ab", 1) == NOTHING
    assert presence.look("abc", 2) == seen(came="c")


def test_members_go_after_the_grace_time():
    """Missing for the whole time is gone; one look in between starts it anew; who is gone can come again."""
    presence = Presence(10)
    presence.look("ab", 0)

    assert presence.look("a", 1) == NOTHING
    assert presence.look("ab", 5) == NOTHING
    assert presence.look("a", 6) == NOTHING
    assert presence.look("a", 15.9) == NOTHING
    assert presence.look("a", 16) == seen(gone="b")
    assert presence.look("a", 40) == NOTHING
    assert presence.look("ab", 41) == seen(came="b")


def test_a_store_that_is_away_sends_nobody_away():
    """While it cannot be asked, and for the grace time after it came back empty, everybody stays."""
    presence = Presence(10)
    presence.look("a", 0)
    presence.look("", 1)

    assert presence.look(None, 5) == NOTHING
    assert presence.look(None, 50) == NOTHING
    assert presence.look("", 60) == NOTHING
    assert presence.look("", 69) == NOTHING
    assert presence.look("a", 69.5) == NOTHING
    assert presence.present == {"a"}
