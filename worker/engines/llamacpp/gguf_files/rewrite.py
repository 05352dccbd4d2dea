"""Plain GGUF files, taken over with a safe vocabulary: everything else is copied byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gguf import GGUFValueType

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files import marks, vocabulary
from qwenserve.worker.engines.llamacpp.gguf_files.layout import Header, pack_array, padded, read_header
from qwenserve.worker.engines.llamacpp.gguf_files.plan import FilePlan, Segment

_COPY_BYTES = 8 << 20


def plan_rewrite(path: Path) -> FilePlan:
    """Plans the safe copy of a GGUF file. Raises EngineError where its vocabulary is of another kind."""
    header = read_header(path)
    if header.integer("split.count") > 1:
        raise EngineError(f"{path.name} is one part of a split model; join the parts with llama-gguf-split --merge")
    texts, kinds = header.texts("tokenizer.ggml.tokens"), header.integers("tokenizer.ggml.token_type")
    if header.text("tokenizer.ggml.model") != "gpt2" or len(texts) != len(kinds) or not texts:
        raise EngineError(f"{path.name} has no byte-level BPE vocabulary with token types: not a Qwen3 model")
    ends = marks.find_ends(header, texts)
    if not ends:
        raise EngineError(f"{path.name} names no end token")
    words = vocabulary.make_safe(texts, kinds)
    values = dict(header.values)
    values["tokenizer.ggml.tokens"] = pack_array(GGUFValueType.STRING, words.texts)
    values |= marks.packed(words.replaced, ends)
    return FilePlan(Header(values, header.tensors).pack(), _segments(path, header))


def _segments(path: Path, header: Header) -> list[Segment]:
    starts = [t.offset for t in header.tensors]
    last = header.tensors[-1] if header.tensors else None
    ends = [*starts[1:], padded(last.offset + last.nbytes, header.alignment)] if last else []
    return [
        Segment(end - start, partial(_copy, path, header.data_start + start, end - start))
        for start, end in zip(starts, ends, strict=True)
    ]


def _copy(path: Path, start: int, nbytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = nbytes
        while left and (piece := file.read(min(left, _COPY_BYTES))):
            left -= len(piece)
            yield piece
