"""Cut shapes through the vllm engine: `python -m tests.gpu.check_shapes DIRECTORY TOKENIZER_DIRECTORY --gpus 0,1`.

A mixture of experts on one GPU and with its experts over two; Qwen3-Next with and without two further tokens predicted
a step. All engines at once, each in a process of its own; prints which greedy ids are equal, one line of JSON a fact.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenserve.worker.engine_interface import Sampling
from tests.contract.engine_contract import Driver
from tests.gpu.engines import make
from tests.gpu.report import say
from tests.gpu.shapes import make as make_shape

PROMPTS = [[1000 + (31 * n + 7 * k) % 100_000 for k in range(length)] for n, length in enumerate((5, 17, 64, 200, 333))]
ANSWER = 48
_LIMIT_S = 240


async def answer(directory: Path, weights: str, options: dict[str, Any]) -> dict[str, Any]:
    """Greedy answers of one engine, one at a time and then all at once, with their log-probabilities."""
    common = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30, "gpu_memory_utilization": 0.1}
    engine = make("vllm", directory, weights, options={**common, **options}, guides=False)
    driver = Driver(engine)
    began = time.monotonic()
    driver.info = await asyncio.wait_for(engine.start(driver._deliver, driver._fail), _LIMIT_S)
    started = time.monotonic() - began
    sampling = Sampling(temperature=0.0, max_tokens=ANSWER, ignore_eos=True, top_logprobs=2)
    try:
        began = time.monotonic()
        alone = [await asyncio.wait_for(driver.ask(prompt, sampling), 120) for prompt in PROMPTS]
        took = time.monotonic() - began
        together = await asyncio.gather(*(asyncio.wait_for(driver.ask(prompt, sampling), 120) for prompt in PROMPTS))
        return {
            "started_s": round(started, 1),
            "ids": [each.token_ids for each in alone],
            "together": [each.token_ids for each in together],
            # How far the second likeliest id is behind.
            "leads": [[_lead(row.top) for row in each.logprobs] for each in alone],
            "ms_a_token": round(took / len(PROMPTS) / ANSWER * 1000, 2),
            "chunks": [len(each.token_ids) for delivery in driver.deliveries for each in delivery if each.token_ids],
            "info": str(driver.info)[:1500],
        }
    finally:
        await asyncio.wait_for(engine.stop(), 60)


def _lead(top: Sequence[tuple[int, float]]) -> float:
    return round(top[0][1] - top[1][1], 5) if len(top) > 1 else 0.0


def compare(what: str, a: dict[str, Any], b: dict[str, Any]) -> None:
    """Says where two engines' answers differ, and how clear the choice was there."""
    differ = []
    for number, (left, right) in enumerate(zip(a["ids"], b["ids"], strict=True)):
        place = next((n for n, (x, y) in enumerate(zip(left, right, strict=True)) if x != y), None)
        if place is not None:
            differ.append({"prompt": number, "place": place, "lead": a["leads"][number][place]})
    say(what, equal=len(PROMPTS) - len(differ), of=len(PROMPTS), differ=differ)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--gpus", type=lambda text: text.split(","), default=["0", "1"])
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["experts", "next"])
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "WEIGHTS", "OPTIONS", "OUT"))
    options = parser.parse_args()
    if options.one:
        model, weights, given, out = options.one
        Path(out).write_text(json.dumps(asyncio.run(answer(Path(model), weights, json.loads(given)))))
        return
    logs = Path(os.environ.get("OUT", "/tmp"))
    first, second = options.gpus[:2]
    # The kit has neither flashinfer nor FlashAttention for heads of 256.
    triton = {"attention_backend": "TRITON_ATTN", "gdn_prefill_backend": "triton"}
    further = {"method": "qwen3_next_mtp", "num_speculative_tokens": 2, "attention_backend": "TRITON_ATTN"}
    predict = {"speculative_config": further, **triton}
    spread = {"tensor_parallel_size": 2, "enable_expert_parallel": True}
    runs: dict[str, tuple[str, str, str, dict[str, Any]]] = {
        "one GPU": ("experts", "f32", first, {}),
        "experts over two": ("experts", "f32", f"{first},{second}", spread),
        "next": ("next", "bf16", first, triton),
        "next, two further": ("next", "bf16", second, predict),
    }
    runs = {name: run for name, run in runs.items() if run[0] in options.shapes}
    for name in options.shapes:
        began = time.monotonic()
        make_shape(name, options.tokenizer, options.directory / name)
        size = (options.directory / name / "model.safetensors").stat().st_size
        say("made", shape=name, took_s=round(time.monotonic() - began, 1), gib=round(size / 2**30, 2))
    processes = {}
    for name, (shape, weights, gpus, given) in runs.items():
        short = name.replace(" ", "-").replace(",", "")
        command = [sys.executable, "-m", "tests.gpu.check_shapes", str(options.directory), str(options.tokenizer)]
        out = options.directory / f"{short}.json"
        command += ["--one", str(options.directory / shape), weights, json.dumps(given), str(out)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus}
        with (logs / f"shapes-{short}.log").open("wb") as log:
            processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), out
    found = {}
    for name, (process, out) in processes.items():
        try:
            code = process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code:
            told = (logs / f"shapes-{name.replace(' ', '-').replace(',', '')}.log").read_text()
            say("FAILED", engine=name, code=code, error=told[-1200:])
            continue
        found[name] = json.loads(out.read_text())
        facts = {key: found[name][key] for key in ("started_s", "ms_a_token", "info")}
        own = sum(x == y for x, y in zip(found[name]["ids"], found[name]["together"], strict=True))
        chunks = found[name]["chunks"]
        say("engine", engine=name, alone_equals_together=own, ids_a_chunk=round(sum(chunks) / len(chunks), 2), **facts)
    for what, a, b in (
        ("experts over two GPUs against one", "one GPU", "experts over two"),
        ("Qwen3-Next, two further tokens on and off", "next", "next, two further"),
    ):
        if a in found and b in found:
            compare(what, found[a], found[b])


if __name__ == "__main__":
    main()
