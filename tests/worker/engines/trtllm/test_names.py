"""Every name of tensorrt_llm that the adapter uses is one that release 1.2.1 has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.worker.engine_interface import EngineRequest, Guide, GuideKind, Sampling
from qwenserve.worker.engines.trtllm import native
from qwenserve.worker.engines.trtllm.engine import describe
from qwenserve.worker.engines.trtllm.options import _MOVED, engine_arguments
from qwenserve.worker.engines.trtllm.sampling import guide_arguments, sampling_arguments
from qwenserve.worker.engines.trtllm.settings import Settings
from tests.contract.test_engine_trtllm_double import engine_over_double
from tests.worker.engines.trtllm import api_1_2_1 as api
from tests.worker.engines.trtllm.double import install

FOLDER = Path(native.__file__).parent
# What expressions of the adapter stand for, and which names those have.
OBJECTS = {
    "self._api": {*api.EXPORTS["tensorrt_llm.llmapi"]},
    "self._llm": {*api.LLM_METHODS},
    "result": {*api.REQUEST_OUTPUT},
    "step": {*api.REQUEST_OUTPUT},
    "part": {*api.COMPLETION_OUTPUT},
    "entry": {*api.LOGPROB},
}


def nodes() -> Iterator[ast.AST]:
    for name in ("native.py", "engine.py"):
        yield from ast.walk(ast.parse((FOLDER / name).read_text(encoding="utf-8")))


def test_attributes():
    seen = set()
    for node in nodes():
        if isinstance(node, ast.Attribute) and (owner := ast.unparse(node.value)) in OBJECTS:
            seen.add(owner)
            assert node.attr in OBJECTS[owner], f"{owner}.{node.attr}"
    assert seen == set(OBJECTS)


def test_modules_and_classes():
    modules = {
        node.args[0].value
        for node in nodes()
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "import_module"
        and isinstance(node.args[0], ast.Constant)
    }
    assert modules - {"torch"} == set(api.EXPORTS)
    exports = set(api.EXPORTS["tensorrt_llm.llmapi"])
    assert {*native._CLASSES.values(), *native._SPECULATION.values()} <= exports


def test_arguments_of_the_call():
    (call,) = [
        node for node in nodes() if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._llm.generate_async"
    ]
    assert {keyword.arg for keyword in call.keywords if keyword.arg} <= set(api.GENERATE_ASYNC)


def test_sampling_parameters(monkeypatch):
    install(monkeypatch)
    config = engine_over_double()._config
    sampling = Sampling(min_p=0.1, top_logprobs=3, min_tokens=1, stop_token_ids=frozenset({5}))
    every = {*api.SAMPLING, "name of another release"}
    for each in (sampling, Sampling(temperature=0.0)):
        given = sampling_arguments(EngineRequest(1, [1], each), describe(config), every)
        assert given.keys() <= set(api.SAMPLING)
    for kind in set(GuideKind) - {GuideKind.REGIONS}:
        assert guide_arguments(Guide(kind, '["a"]')).keys() <= set(api.CLASSES["GuidedDecodingParams"])


def test_arguments_of_the_engine():
    assert {name.partition(".")[0] for name, _ in _MOVED.values()} <= set(api.LLM_ARGUMENTS)
    assert not set(_MOVED) & set(api.LLM_ARGUMENTS)
    made = engine_arguments(Config(), Settings(), Path("m"), {}, [*api.LLM_ARGUMENTS, "name of another release"])
    assert made.keys() <= set(api.LLM_ARGUMENTS)
    assert made["kv_cache_config"].keys() <= set(api.CLASSES["KvCacheConfig"])
    for name, _ in _MOVED.values():
        top, _, inner = name.partition(".")
        if inner:
            assert inner in api.CLASSES[native._CLASSES[top]]
