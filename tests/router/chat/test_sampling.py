"""Checks and defaults of sampling parameters."""

from __future__ import annotations

from typing import Any

import pytest

from qwenserve.router.chat.call import Call
from qwenserve.router.chat.sampling import (
    check_cache_salt,
    check_counts,
    check_labels,
    check_prompt_ids,
    check_sampling,
    complete,
    drop_unsupported,
    filled_fields,
    fit_window,
    seeds,
)
from qwenserve.runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from qwenserve.type.v1.sampling_pb2 import SamplingParams

VOCAB = 1000


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"frequency_penalty": -3.0}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {VOCAB: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: 101.0}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(301), 1.0)}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"allowed_token_ids": [VOCAB]}, "allowed_token_ids"),
        ({"allowed_token_ids": [1] * 1025}, "allowed_token_ids"),
    ],
)
def test_a_value_out_of_range_names_its_field(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_sampling(SamplingParams(**values), VOCAB)

    assert caught.value.param == param


def test_the_edges_of_the_ranges_are_accepted() -> None:
    low = SamplingParams(temperature=0, top_p=1e-6, top_k=0, min_p=0, max_tokens=1, min_tokens=0, top_logprobs=0)
    high = SamplingParams(temperature=2, top_p=1, min_p=1, presence_penalty=2, repetition_penalty=2, top_logprobs=20)

    for edge in (low, high):
        check_sampling(edge, VOCAB)  # raises where the rule is broken


@pytest.mark.parametrize(
    ("n", "stops", "param"), [(17, [], "n"), (-1, [], "n"), (1, ["x"] * 17, "stop"), (1, [""], "stop")]
)
def test_too_many_choices_or_bad_stop_strings_are_refused(n: int, stops: list[str], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_counts(n, stops)

    assert caught.value.param == param


@pytest.mark.parametrize("ids", [[], [VOCAB], [-1], [1, 2, VOCAB + 5]])
def test_prompt_ids_must_be_in_the_vocabulary(ids: list[int]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_prompt_ids(ids, VOCAB, "prompt[3]")

    assert caught.value.param == "prompt[3]"


def test_the_request_wins_over_defaults_and_the_rest_is_filled() -> None:
    defaults = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.0)

    asked = SamplingParams(temperature=0.0, min_p=0.25, logit_bias={5: 1.0})
    full, filled = complete(asked, defaults), filled_fields(asked)

    assert full.temperature == 0.0
    assert full.top_k == 20
    assert (full.min_p, full.logit_bias[5]) == (0.25, 1.0)
    assert not asked.HasField("top_k")
    assert "temperature" not in filled
    assert "top_k" in filled


def test_max_tokens_unset_takes_what_the_window_leaves() -> None:
    sampling = SamplingParams()

    shrank = fit_window(sampling, prompt_tokens=100, window=128, default_max=0)

    assert (sampling.max_tokens, shrank) == (28, False)


def test_max_tokens_beyond_the_window_shrinks_and_says_so() -> None:
    sampling = SamplingParams(max_tokens=500)

    assert fit_window(sampling, 100, 128, 0)
    assert sampling.max_tokens == 28


def test_a_prompt_over_the_window_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        fit_window(SamplingParams(), 128, 128, 0)

    assert caught.value.metadata == {"max_model_len": "128", "prompt_tokens": "128"}
    assert caught.value.code == "context_length_exceeded"


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        fit_window(SamplingParams(min_tokens=20, max_tokens=10), 1, 128, 0)

    assert caught.value.param == "min_tokens"


def test_a_seed_gives_every_choice_its_own_and_the_same_again() -> None:
    drawn = seeds(SamplingParams(seed=7), 3)

    assert drawn == seeds(SamplingParams(seed=7), 3)
    assert drawn[0] == 7
    assert len({*drawn, *seeds(SamplingParams(seed=8), 3)}) == 6


def test_all_bits_of_a_seed_count() -> None:
    assert seeds(SamplingParams(seed=1), 2) != seeds(SamplingParams(seed=1 + 2**31), 2)


def test_no_seed_means_fresh_ones() -> None:
    drawing = SamplingParams(temperature=0.5)
    assert seeds(drawing, 2) != seeds(drawing, 2)
    assert len(set(seeds(drawing, 2))) == 2


def test_greedy_choices_need_none() -> None:
    assert seeds(SamplingParams(temperature=0.0), 2) == [None, None]


def test_fields_an_engine_lacks_are_listed_only_where_set() -> None:
    asked = SamplingParams(min_p=0.1, stop_token_ids=[3])
    lacks = {"min_p", "seed", "stop_token_ids"}

    assert drop_unsupported(asked, SamplingParams(), lacks, strict=False, engine="e") == ["min_p", "stop_token_ids"]


def test_fields_an_engine_lacks_do_not_reach_it_whether_asked_or_defaulted() -> None:
    asked = SamplingParams(min_p=0.1, stop_token_ids=[3], logit_bias={1: 2.0}, top_logprobs=4, max_tokens=5)
    sampling = complete(asked, SamplingParams(top_k=20, repetition_penalty=1.1))
    lacks = {"min_p", "stop_token_ids", "logit_bias", "top_logprobs", "top_k", "repetition_penalty", "max_tokens"}

    drop_unsupported(asked, sampling, lacks, strict=False, engine="e")

    assert (sampling.min_p, sampling.top_k, sampling.repetition_penalty) == (0.0, 0, 1.0)
    assert not sampling.stop_token_ids
    assert not sampling.logit_bias
    assert not sampling.HasField("top_logprobs")
    assert sampling.max_tokens == 5


def test_a_field_besides_sampling_is_listed_where_it_was_set() -> None:
    empty = SamplingParams()

    assert drop_unsupported(empty, empty, {"cache_salt"}, strict=False, engine="e") == []
    assert drop_unsupported(empty, empty, {"cache_salt"}, asked_besides=["cache_salt"], strict=False, engine="e") == [
        "cache_salt"
    ]


def test_a_long_salt_is_refused() -> None:
    check_cache_salt("x" * 256)
    with pytest.raises(InvalidRequest) as caught:
        check_cache_salt("x" * 257)

    assert caught.value.param == "cache_salt"


def test_fields_an_engine_lacks_are_refused_if_strict() -> None:
    with pytest.raises(Unsupported) as caught:
        drop_unsupported(SamplingParams(min_p=0.1), SamplingParams(), {"min_p"}, strict=True, engine="e")

    assert caught.value.param == "min_p"


LABELS_AT_THE_LIMIT = {f"{number:064}": "v" * 512 for number in range(16)}


def test_labels_that_a_log_event_can_hold_are_taken() -> None:
    check_labels("u" * 512, LABELS_AT_THE_LIMIT)  # raises where the rule is broken
    call = Call("r").labelled("u" * 512, LABELS_AT_THE_LIMIT)

    assert (call.user, call.labels) == ("u" * 512, LABELS_AT_THE_LIMIT)


@pytest.mark.parametrize(
    ("user", "labels", "param"),
    [
        ("u" * 513, {}, "user"),
        ("", {**LABELS_AT_THE_LIMIT, "one": "more"}, "metadata"),
        ("", {"k" * 65: ""}, "metadata"),
        ("u", {"k": "v" * 513}, "metadata"),
    ],
)
def test_labels_beyond_what_a_log_event_may_hold_are_refused_and_not_logged(
    user: str, labels: dict[str, str], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_labels(user, labels)

    assert caught.value.param == param
    assert Call("r").labelled(user, labels) == Call("r")
