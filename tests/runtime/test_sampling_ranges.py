"""The table of ranges, and the seeds of choices."""

from __future__ import annotations

import math

import pytest

from qwenserve.runtime.config import SamplingDefaults
from qwenserve.runtime.sampling_ranges import NEUTRAL, RANGES, choice_seed
from qwenserve.type.v1 import sampling_pb2


@pytest.mark.parametrize("name", RANGES)
def test_ranges_have_edges_and_no_room_for_nan(name: str):
    allowed = RANGES[name]

    assert allowed.holds(allowed.high)
    assert allowed.holds(allowed.low) is not allowed.low_excluded
    assert not allowed.holds(allowed.low - 1)
    assert not allowed.holds(math.nan)


def test_ranges_and_neutral_values_are_of_fields_that_exist():
    fields = sampling_pb2.SamplingParams.DESCRIPTOR.fields_by_name

    assert {*RANGES, *NEUTRAL} <= set(fields)
    for name, value in NEUTRAL.items():
        if name in RANGES:
            assert RANGES[name].neutral == value


@pytest.mark.parametrize("name", SamplingDefaults.model_fields)
def test_the_configuration_takes_what_the_table_takes(name: str):
    allowed = RANGES[name]
    beyond = [allowed.low if allowed.low_excluded else allowed.low - 1]
    if name != "top_k":
        beyond.append(allowed.high + 1)

    assert SamplingDefaults.model_validate({name: allowed.neutral})
    for value in beyond:
        with pytest.raises(ValueError, match=name):
            SamplingDefaults.model_validate({name: value})


def test_choices_have_streams_of_their_own():
    """No seed's further choices meet those of its neighbours, nor any other seed's first."""
    seeds = [*range(-50, 50), 1 + 2**31, 1 + 2**32, 2**63 - 1, -(2**63)]
    drawn = [choice_seed(seed, index) for seed in seeds for index in range(16)]

    assert len(set(drawn)) == len(drawn)
    assert all(-(2**63) <= seed < 2**63 for seed in drawn)


def test_the_first_choice_is_the_answer_that_a_request_for_one_gets():
    assert [choice_seed(seed, 0) for seed in (0, 7, -1, 1 + 2**31)] == [0, 7, -1, 1 + 2**31]


def test_seeds_of_choices_never_change():
    """Whoever keeps a seed gets the same answers from a later release."""
    assert choice_seed(1, 1) == 492860026476015107
