"""Answers the held-out cases greedily and prints the table.

python -m models.train_qwen3_tiny.evaluate models/qwen3-tiny [--torch] [--card]

Runs on the project's embedded engine, on the CPU; `--torch` runs the trainer's own network instead, on a GPU where there
is one. `--card` also writes results.json and the model card's table. `--needles 7000 10000` asks for needles in passages
of about such lengths alone, and lets the model have the positions for it, whatever its configuration says; it also tells
how many were found in prompts that fit the configured window, and beyond.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from models.train_qwen3_tiny.cases import SEED, Case, held_out_cases, needle_cases, report, right

ROOM = 400_000  # prompt and reply tokens of one batch, which bounds its cache


def batches(cases: list[Case], lengths: list[int]) -> list[list[int]]:
    """Indices of cases that run together: of similar reply and prompt length."""
    order = sorted(range(len(cases)), key=lambda i: (cases[i].new_tokens, lengths[i]))
    out: list[list[int]] = []
    for i in order:
        width = lengths[i] + cases[i].new_tokens
        fits = out and cases[out[-1][0]].new_tokens == cases[i].new_tokens and (len(out[-1]) + 1) * width < ROOM // 8
        if fits:
            out[-1].append(i)
        else:
            out.append([i])
    return out


def answer_with_torch(folder: Path, prompts: list[list[int]], cases: list[Case], stop: list[int]) -> list[list[int]]:
    """The ids of the greedy reply to each case, by the trainer's own network."""
    try:
        import torch

        from models.train_qwen3_tiny.network import Network, generate
    except ModuleNotFoundError as error:  # torch is no dependency of the project
        raise SystemExit(f"{error.name} is needed for --torch: pip install torch safetensors") from error

    network = Network.load(folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    replies: list[list[int]] = [[] for _ in cases]
    for rows in batches(cases, [len(prompt) for prompt in prompts]):
        made = generate(network, [prompts[i] for i in rows], cases[rows[0]].new_tokens, stop)
        for i, ids in zip(rows, made, strict=True):
            replies[i] = ids
    return replies


def answer(folder: Path, cases: list[Case], *, use_torch: bool) -> list[str]:
    """The greedy reply to each case."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = map(tokenizer.token_to_id, ("<|im_end|>", "<|endoftext|>"))
    stop = [token_id for token_id in ends if token_id is not None]
    asked = {(case.prompt, case.new_tokens): case for case in cases}  # what is judged twice is answered once
    answered = dict(
        zip(asked, _answered(folder, list(asked.values()), tokenizer, stop, use_torch=use_torch), strict=True)
    )
    return [answered[case.prompt, case.new_tokens] for case in cases]


def _answered(folder: Path, cases: list[Case], tokenizer: Tokenizer, stop: list[int], *, use_torch: bool) -> list[str]:
    prompts = [encoding.ids for encoding in tokenizer.encode_batch([case.prompt for case in cases])]
    if use_torch:
        replies = answer_with_torch(folder, prompts, cases, stop)
    else:
        from models.train_qwen3_tiny import embedded  # here, since a GPU machine has torch and no engine

        replies = embedded.answer(folder, prompts, [case.new_tokens for case in cases], _tell(len(cases)))
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids in replies]


def _tell(total: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        print(f"\r{done} of {total} cases", end="" if done < total else "\n", file=sys.stderr, flush=True)

    return progress


def with_positions(folder: Path, positions: int, into: Path) -> Path:
    """The same model in another folder, with a configuration that lets it have so many positions."""
    for file in folder.iterdir():
        (into / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text())
    (into / "config.json").unlink()
    (into / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    return into


def answer_needles(folder: Path, cases: list[Case], lengths: Sequence[int], *, use_torch: bool) -> list[str]:
    """The greedy reply to each case, with room for the longest passage, its question and the answer."""
    with tempfile.TemporaryDirectory() as scratch:
        wide = with_positions(folder, max(lengths) * 5 // 4 + 1024, Path(scratch))
        return answer(wide, cases, use_torch=use_torch)


def within_and_beyond(folder: Path, cases: list[Case], replies: list[str]) -> list[str]:
    """Right answers to prompts that fit the configured window, and to longer ones."""
    window = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch([case.prompt for case in cases])]
    lines = []
    for name, fits in ((f"in prompts within {window:,} tokens", True), ("in longer ones", False)):
        found = [
            right(case, reply)
            for case, reply, length in zip(cases, replies, lengths, strict=True)
            if (length <= window) == fits
        ]
        lines.append(f"{sum(found):4d} / {len(found):<4d} {100 * sum(found) / max(1, len(found)):6.1f} %  {name}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("models/qwen3-tiny"))
    parser.add_argument("--torch", action="store_true", help="use torch instead of the embedded engine")
    parser.add_argument("--card", action="store_true", help="write results.json and the table in README.md")
    parser.add_argument("--seed", type=int, default=SEED, help="another one while the generator is worked on")
    parser.add_argument("--failures", type=int, default=20, help="how many failures to print")
    parser.add_argument("--needles", type=int, nargs="+", metavar="TOKENS", help="needles of these lengths alone")
    parser.add_argument("--each", type=int, default=10, help="how many of each length")
    options = parser.parse_args()
    started = time.monotonic()
    if options.needles:
        cases = needle_cases(options.seed, options.needles, options.each)
        replies = answer_needles(options.folder, cases, options.needles, use_torch=options.torch)
    else:
        cases = held_out_cases(options.seed)
        replies = answer(options.folder, cases, use_torch=options.torch)
    found = report(cases, replies)
    for metric, (good, total) in found.scores.items():
        print(f"{good:4d} / {total:<4d} {100 * good / total:6.1f} %  {metric}")
    for line in within_and_beyond(options.folder, cases, replies) if options.needles else ():
        print(line)
    for failure in found.failures[: options.failures]:
        print(
            "-",
            failure.metric,
            "|",
            repr(failure.question[-160:]),
            "| expected",
            repr(failure.expected[-200:]),
            "| got",
            repr(failure.reply[-400:]),
        )
    if options.card and not options.needles:
        from models.train_qwen3_tiny.card import write

        write(options.folder, found)
    print(f"{len(cases)} cases in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
