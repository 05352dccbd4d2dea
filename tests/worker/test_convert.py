"""Validation: what is refused, and that the refusal names the field."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from qwenserve.runtime.errors import ContextLengthExceeded, InvalidRequest, ServiceError, Unsupported
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.type.v1 import guide_pb2, sampling_pb2, task_pb2
from qwenserve.worker.convert import Limits, finish_to_wire, prompt_from, request_from, sampling_from, with_neutral
from qwenserve.worker.engine_interface import Finish, FinishReason, Guide, GuideKind
from qwenserve.worker.v1 import worker_pb2

LIMITS = Limits(vocab_size=100, max_model_len=50, max_top_logprobs=5)


def params(**fields: Any) -> sampling_pb2.SamplingParams:
    return with_neutral(sampling_pb2.SamplingParams(**fields))


def test_a_good_prompt_is_a_list():
    assert prompt_from((0, 99), LIMITS) == [0, 99]


@pytest.mark.parametrize(
    ("ids", "error", "param"),
    [
        ([], InvalidRequest, "prompt_token_ids"),
        ([1, 100], InvalidRequest, "prompt_token_ids[1]"),
        ([1, 2, -1], InvalidRequest, "prompt_token_ids[2]"),
        ([1] * 50, ContextLengthExceeded, "prompt_token_ids"),
    ],
)
def test_bad_prompts_are_named(ids: list[int], error: type[ServiceError], param: str):
    with pytest.raises(error) as caught:
        prompt_from(ids, LIMITS)

    assert type(caught.value) is error
    assert caught.value.param == param


def test_a_prompt_over_the_window_tells_both_numbers():
    with pytest.raises(ContextLengthExceeded, match=r"60 prompt tokens .* 50"):
        prompt_from([1] * 60, LIMITS)


def test_complete_parameters_come_through():
    given = params(
        temperature=0.5, top_k=3, seed=-7, max_tokens=9, min_tokens=2, stop_token_ids=[4, 4, 5], top_logprobs=0
    )
    given.logit_bias[3] = -100.0
    sampling = sampling_from(given, 10, LIMITS)

    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.5, 3, -7)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.top_logprobs) == (9, 2, 0)
    assert sampling.stop_token_ids == {4, 5}
    assert sampling.logit_bias == {3: -100.0}


def test_without_a_seed_each_request_gets_its_own():
    seeds = {sampling_from(params(), 1, LIMITS).seed for _ in range(8)}

    assert len(seeds) == 8


def test_without_top_logprobs_there_are_none():
    assert sampling_from(params(), 1, LIMITS).top_logprobs is None


@pytest.mark.parametrize(
    "name",
    [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "max_tokens",
        "min_tokens",
        "ignore_eos",
    ],
)
def test_an_unset_field_is_named(name: str):
    given = params()
    given.ClearField(name)

    with pytest.raises(InvalidRequest, match="must be set") as caught:
        sampling_from(given, 1, LIMITS)

    assert caught.value.param == f"sampling.{name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", 1.1),
        ("presence_penalty", -2.5),
        ("frequency_penalty", math.inf),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("top_logprobs", 6),
        ("top_logprobs", -1),
    ],
)
def test_a_number_out_of_range_is_named(name: str, value: float):
    with pytest.raises(InvalidRequest) as caught:
        sampling_from(params(**{name: value}), 1, LIMITS)

    assert caught.value.param == f"sampling.{name}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": [3, 100]}, "sampling.stop_token_ids[1]"),
        ({"allowed_token_ids": [99, -1]}, "sampling.allowed_token_ids[1]"),
        ({"logit_bias": {100: 1.0}}, "sampling.logit_bias[100]"),
        ({"logit_bias": {1: 101.0}}, "sampling.logit_bias[1]"),
    ],
)
def test_bad_ids_are_named(fields: dict[str, Any], param: str):
    with pytest.raises(InvalidRequest) as caught:
        sampling_from(params(**fields), 1, LIMITS)

    assert caught.value.param == param


def submit(**fields: Any) -> worker_pb2.Submit:
    return worker_pb2.Submit(handle=1, prompt_token_ids=packed_ids([1, 2, 3]), sampling=params(), **fields)


def test_a_whole_submit_becomes_the_engines_request():
    limits = replace(LIMITS, guide_kinds=frozenset({GuideKind.REGEX}))
    guide = guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text="a+")
    message = submit(cache_salt="t", answer_offset=2, priority=3, prompt_logprobs=5, guide=guide)
    message.sampling.allowed_token_ids.extend([4, 5])
    request = request_from(message, 8, limits)

    assert (request.key, request.prompt_token_ids, request.cache_salt, request.priority) == (8, [1, 2, 3], "t", 3)
    assert (request.answer_start, request.prompt_logprobs) == (2, 5)
    assert request.guide == Guide(GuideKind.REGEX, "a+")
    assert request.sampling.allowed_token_ids == {4, 5}


def test_a_plain_submit_asks_for_nothing_more():
    request = request_from(submit(), 8, LIMITS)

    assert (request.answer_start, request.prompt_logprobs, request.guide) == (3, None, None)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"answer_offset": 0}, InvalidRequest, "answer_offset"),
        ({"answer_offset": 4}, InvalidRequest, "answer_offset"),
        ({"prompt_logprobs": 6}, InvalidRequest, "prompt_logprobs"),
        ({"guide": guide_pb2.Guide()}, InvalidRequest, "guide.kind"),
        ({"task": task_pb2.TASK_KIND_EMBED}, Unsupported, "task"),
        ({"guide": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_JSON_OBJECT)}, Unsupported, "guide.kind"),
    ],
)
def test_what_a_submit_asks_besides_sampling_is_checked(fields: dict[str, Any], error: type[ServiceError], param: str):
    with pytest.raises(error) as caught:
        request_from(submit(**fields), 1, LIMITS)

    assert caught.value.param == param


@pytest.mark.parametrize(("name", "value"), [("cache_salt", "t"), ("prompt_logprobs", 0)])
def test_what_the_engine_cannot_do_besides_sampling_is_refused_by_name(name: str, value: Any):
    limits = replace(LIMITS, unsupported_fields=frozenset({name}))

    assert request_from(submit(), 1, limits)
    with pytest.raises(Unsupported) as caught:
        request_from(submit(**{name: value}), 1, limits)
    assert caught.value.param == name


def test_too_many_allowed_ids_are_refused():
    limits = Limits(vocab_size=2000, max_model_len=50)

    with pytest.raises(InvalidRequest, match="1025 ids"):
        sampling_from(params(allowed_token_ids=range(1025)), 1, limits)


def test_allowed_ids_that_min_tokens_forbids_are_refused():
    limits = replace(LIMITS, eos_token_ids=frozenset({7}))

    assert sampling_from(params(allowed_token_ids=[7, 8], min_tokens=1, stop_token_ids=[9]), 1, limits)
    assert sampling_from(params(allowed_token_ids=[7], min_tokens=1, ignore_eos=True), 1, limits)
    assert sampling_from(params(allowed_token_ids=[7, 9], stop_token_ids=[9]), 1, limits)
    with pytest.raises(InvalidRequest, match="min_tokens forbids"):
        sampling_from(params(allowed_token_ids=[7, 9], min_tokens=1, stop_token_ids=[9]), 1, limits)


def test_too_many_biases_are_refused():
    limits = Limits(vocab_size=1000, max_model_len=50)

    with pytest.raises(InvalidRequest, match="301 entries"):
        sampling_from(params(logit_bias=dict.fromkeys(range(301), 1.0)), 1, limits)


def test_prompt_and_answer_must_fit_the_window_together():
    assert sampling_from(params(max_tokens=40), 10, LIMITS).max_tokens == 40
    with pytest.raises(ContextLengthExceeded, match="10 prompt tokens and 41"):
        sampling_from(params(max_tokens=41), 10, LIMITS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", 0.1),
        ("seed", 1),
        ("logit_bias", {1: 1.0}),
        ("stop_token_ids", [1]),
        ("ignore_eos", True),
        ("top_logprobs", 0),
        ("allowed_token_ids", [3]),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(name: str, value: Any):
    limits = Limits(vocab_size=100, max_model_len=50, unsupported_fields=frozenset({name}))

    assert sampling_from(params(), 1, limits)
    with pytest.raises(Unsupported) as caught:
        sampling_from(params(**{name: value}), 1, limits)
    assert caught.value.param == f"sampling.{name}"


def test_a_stop_id_of_zero_is_still_told():
    wire = finish_to_wire(3, Finish(FinishReason.STOP, stop_token_id=0, cached_tokens=4), queue_us=9)

    assert wire.HasField("stop_token_id")
    assert (wire.handle, wire.reason, wire.cached_tokens, wire.queue_us) == (3, sampling_pb2.FINISH_REASON_STOP, 4, 9)


def test_an_engines_failure_is_an_internal_error():
    wire = finish_to_wire(3, Finish(FinishReason.STOP, error="broke"), queue_us=0)

    assert (wire.reason, wire.error_reason, wire.error_message) == (
        sampling_pb2.FINISH_REASON_ABORTED,
        "INTERNAL",
        "broke",
    )
