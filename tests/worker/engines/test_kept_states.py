"""Which states of slots are kept: bounds, and what makes room."""

from __future__ import annotations

import random

from qwenserve.worker.engines.llamacpp import kept_states
from qwenserve.worker.engines.llamacpp.kept_states import KeptState, KeptStates
from qwenserve.worker.engines.llamacpp.slots import Slot

SYSTEM = list(range(16))


def _state(hashes: list[int], *, size: int = 10, last_used: int = 0, users: int = 0) -> KeptState:
    return KeptState(0, Slot(0), hashes, size, last_used, users)


def _written(states: KeptStates, *args: KeptState) -> None:
    for state in args:
        states.add(state)
        states.written(state, state.size)


def test_only_what_is_written_is_found_and_the_last_used_of_equals() -> None:
    states = KeptStates(1000)
    one, other = _state([*SYSTEM, *range(100, 104)], last_used=2), _state([*SYSTEM, *range(200, 204)], last_used=1)
    unwritten = _state([77, 78])
    _written(states, one)
    _written(states, other)
    states.add(unwritten)
    assert states.covered([*SYSTEM, 300]) == len(SYSTEM)
    assert states.holder([*SYSTEM, 300]) is one
    assert states.holder([*SYSTEM, 200]) is other
    assert states.holder([77, 78]) is None
    assert states.holder([]) is None


def test_the_one_unused_for_longest_makes_room_unless_it_is_in_use() -> None:
    states = KeptStates(30)
    read, old, new = _state([1], last_used=1, users=1), _state([2], last_used=2), _state([3], last_used=3)
    _written(states, read, old, new)
    assert states.room_for(10) == [old]
    assert states.room_for(25) is None, "no room beside the one that is read"
    assert states.holder([3]) is new, "nothing goes for nothing"
    assert states.covered([2]) == 0


def test_a_state_larger_than_was_thought_makes_others_go() -> None:
    states = KeptStates(30)
    old, new = _state([1], last_used=1), _state([2], last_used=2)
    _written(states, old)
    states.add(new)
    assert states.written(new, 25) == [old]
    assert states.used_bytes == 25


def test_a_longer_state_takes_the_place_of_one_that_it_holds() -> None:
    states = KeptStates(1000)
    short, tail = _state([*SYSTEM, 100]), _state([*SYSTEM, 200, 201, 202, 203])
    _written(states, tail, short)
    longer = _state([*SYSTEM, 300, 301])
    states.add(longer)
    assert states.written(longer, 10) == [short]
    assert states.holder([*SYSTEM, 200, 201]) is tail


def test_there_are_never_too_many_files() -> None:
    states = KeptStates(1 << 40)
    for number in range(2 * kept_states._MOST_STATES):
        gone = states.room_for(10)
        assert gone is not None
        _written(states, _state([1000 + number], last_used=number))
        assert len(states) <= kept_states._MOST_STATES


def test_sums_and_places_agree_after_any_order_of_events() -> None:
    draw = random.Random(11)
    states, alive, waiting = KeptStates(100), list[KeptState](), list[KeptState]()
    for number in range(2000):
        kind = draw.randrange(4)
        if kind < 2:
            size = draw.randrange(1, 30)
            gone = states.room_for(size)
            if gone is not None:
                alive = [state for state in alive if state not in gone]
                state = _state([draw.randrange(3), 10 + draw.randrange(3)], size=size, last_used=number, users=1)
                states.add(state)
                waiting.append(state)
        elif kind == 2 and waiting:
            state = waiting.pop(draw.randrange(len(waiting)))
            state.users = 0
            alive.append(state)
            gone = states.written(state, draw.randrange(1, 30))
            alive = [one for one in alive if one not in gone]
        elif waiting:
            states.remove(waiting.pop())
        assert states.used_bytes == sum(state.size for state in (*alive, *waiting))
        assert len(states) == len(alive) + len(waiting)
        for first in range(3):
            assert states.covered([first]) == any(state.hashes[0] == first for state in alive)
    assert set(states.clear()) == {*alive, *waiting}
