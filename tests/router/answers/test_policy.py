"""What may be kept and given again, and under which key."""

from __future__ import annotations

from typing import Any

import pytest

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.router.answers.policy import (
    CacheUse,
    answer_key,
    answer_scope,
    cache_use,
    is_repeatable,
    request_identity,
)
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.type.v1 import guide_pb2, sampling_pb2

READ, WRITE = chat_pb2.CACHE_MODE_READ, chat_pb2.CACHE_MODE_WRITE
OFF, BOTH = chat_pb2.CACHE_MODE_OFF, chat_pb2.CACHE_MODE_READ_WRITE
Policy = chat_pb2.CachePolicy


@pytest.mark.parametrize(
    ("asked", "default", "use"),
    [
        (Policy(), "off", CacheUse(False, False, 100, False)),
        (Policy(), "readwrite", CacheUse(True, True, 100, False)),
        (Policy(mode=OFF), "readwrite", CacheUse(False, False, 100, False)),
        (Policy(mode=BOTH), "off", CacheUse(True, True, 100, False)),
        (Policy(mode=READ), "off", CacheUse(True, False, 100, False)),
        (Policy(mode=WRITE), "off", CacheUse(False, True, 100, False)),
        (Policy(max_age_s=7), "read", CacheUse(True, False, 7, False)),
        (Policy(max_age_s=700), "read", CacheUse(True, False, 100, False)),
        (Policy(max_age_s=0), "write", CacheUse(False, True, 0, False)),
        (Policy(only_if_cached=True), "off", CacheUse(True, False, 100, True)),
    ],
)
def test_the_request_comes_before_the_deployment(asked: Policy, default: Any, use: CacheUse):
    """What a request says wins; what it leaves open is the deployment's."""
    assert cache_use(asked, default, 100) == use


@pytest.mark.parametrize("asked", [Policy(max_age_s=-1), Policy(mode=9), Policy(mode=WRITE, only_if_cached=True)])  # type: ignore[arg-type]
def test_policies_that_make_no_sense_are_refused(asked: Policy):
    """The error names the field."""
    with pytest.raises(InvalidRequest) as raised:
        cache_use(asked, "off", 100)
    assert (raised.value.param or "").startswith("cache")


@pytest.mark.parametrize(
    ("temperature", "seed_given", "unsupported", "repeatable"),
    [
        (0.0, False, (), True),
        (0.0, False, ("seed",), True),
        (0.1, False, (), False),
        (0.1, True, (), True),
        (0.1, True, ("seed",), False),
    ],
)
def test_only_what_comes_out_the_same_is_kept(
    temperature: float, seed_given: bool, unsupported: tuple[str, ...], repeatable: bool
):
    """Greedy always; sampled only with a seed from the caller that the engine honours."""
    # A choice may have one that was drawn, which does not count.
    sampling = sampling_pb2.SamplingParams(temperature=temperature, seed=5)

    asked = sampling_pb2.SamplingParams(seed=5) if seed_given else sampling_pb2.SamplingParams()

    assert is_repeatable(sampling, asked, unsupported) is repeatable


def key(**changes: Any) -> str:
    given: dict[str, Any] = {
        "fingerprint": "f",
        "tenant": "t",
        "identity": b"i",
        "sampling": sampling_pb2.SamplingParams(temperature=1, seed=7, logit_bias={3: 1.0, 1: 2.0}),
        "prompt": [1, 2, 3],
    }
    asked = {**given, **changes}
    scope = answer_scope(asked["fingerprint"], asked["tenant"], asked["identity"])
    return answer_key(scope, asked["sampling"], packed_ids(asked["prompt"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "g"},
        {"tenant": "u"},
        {"identity": b"j"},
        # What stands at the end of one part and at the beginning of the next.
        {"fingerprint": "ft", "tenant": ""},
        {"tenant": "ti", "identity": b""},
        {"sampling": sampling_pb2.SamplingParams(temperature=1, seed=8, logit_bias={3: 1.0, 1: 2.0})},
        {"sampling": sampling_pb2.SamplingParams(temperature=1, seed=7, logit_bias={3: 1.0})},
        {"prompt": [1, 2]},
        {"prompt": [1, 2, 3, 0]},
        {"prompt": [1, 2, 3] * 3000},
    ],
)
def test_whatever_decides_an_answer_is_in_its_key(changes: dict[str, Any]):
    """One difference anywhere is another key."""
    assert key(**changes) != key()


def test_a_greedy_answer_has_no_seed():
    """A seed, of which nothing is drawn, does not keep greedy answers apart."""
    keys = {key(sampling=sampling_pb2.SamplingParams(temperature=0, seed=seed)) for seed in (1, 2)}

    assert len(keys) == 1
    other_order = sampling_pb2.SamplingParams(temperature=1, seed=7, logit_bias={1: 2.0, 3: 1.0})
    assert key(sampling=other_order) == key()


def test_every_field_of_a_request_is_in_its_identity_or_known_not_to_matter():
    """A field that is added later keeps answers apart until somebody says that it need not."""
    apart: dict[str, Any] = {
        "stop_strings": ["x"],
        "tool_choice": chat_pb2.ToolChoice(parallel=False),
        "guide": guide_pb2.Guide(text="a+"),
        "separate_reasoning": False,
        "cache_salt": "s",
    }
    for name, value in apart.items():
        assert request_identity(chat_pb2.ChatCompletionRequest(**{name: value})) != request_identity(
            chat_pb2.ChatCompletionRequest()
        )
    alike = chat_pb2.ChatCompletionRequest(
        model="m",
        conversation=message_pb2.Conversation(messages=[message_pb2.Message(content="x")]),
        sampling=sampling_pb2.SamplingParams(temperature=1),
        n=2,
        return_token_ids=True,
        user="u",
        metadata={"a": "b"},
        request_id="r",
        priority=1,
        cache=Policy(mode=BOTH),
    )
    assert request_identity(alike) == request_identity(chat_pb2.ChatCompletionRequest())
    assert request_identity(chat_pb2.CompletionRequest()) != request_identity(chat_pb2.ChatCompletionRequest())
