"""What a worker tells of its engine's settings."""

from __future__ import annotations

from pathlib import Path

from qwenserve.worker.told_settings import told_settings


def test_options_are_those_that_the_engine_runs_with():
    section = {"guides": True, "options": {"tp_size": 2, "dtype": "auto"}}

    told = told_settings(section, {"dtype": "bfloat16", "model_path": Path("m"), "cuda_graph_config": None})

    assert told == {
        "guides": "true",
        "options.cuda_graph_config": "null",
        "options.dtype": '"bfloat16"',
        "options.model_path": '"m"',
        "options.tp_size": "2",
    }


def test_secrets_are_left_out():
    options = {"hf_token": "s", "api_key": "s", "max_num_batched_tokens": 4, "nested": [{"password": "s", "n": 1}]}

    told = told_settings({"token": "s"}, options)

    assert told == {"options.max_num_batched_tokens": "4", "options.nested": '[{"n": 1}]'}
