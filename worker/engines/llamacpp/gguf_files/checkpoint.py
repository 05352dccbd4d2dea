"""Hugging Face checkpoints: safetensors files read as memory maps, in rows, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwenserve.worker.engine_interface import EngineError

_WIDTHS = {"BF16": 2, "F16": 2, "F32": 4}
# Rows are read in pieces of about this size as float32: large enough to be fast, small beside any model.
_PIECE_BYTES = 16 << 20

Floats = npt.NDArray[np.float32]


class StoredTensor(NamedTuple):
    """One tensor of a safetensors file: `start` is its byte position in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def row_elements(self) -> int:
        return self.shape[-1]

    def raw_rows(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yields the stored bytes in pieces of whole rows."""
        width = self.row_elements * _WIDTHS[self.dtype]
        rows = int(np.prod(self.shape[:-1], dtype=np.int64))
        view = np.memmap(self.file, np.uint8, "r", offset=self.start, shape=(rows, width))
        step = max(1, _PIECE_BYTES // (4 * self.row_elements))
        for first in range(0, rows, step):
            yield np.asarray(view[first : first + step])

    def rows(self) -> Iterator[Floats]:
        """Yields float32 pieces of shape (rows, row_elements)."""
        for raw in self.raw_rows():
            if self.dtype == "BF16":
                # bfloat16 is the upper half of float32
                yield (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                yield raw.view("<f2" if self.dtype == "F16" else "<f4").astype(np.float32)


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """Reads the headers of all files. Raises EngineError for a broken file or an unknown number format."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                entries = json.loads(file.read(length))
        except (ValueError, MemoryError, OverflowError) as error:
            raise EngineError(f"{path} is not a readable safetensors file; download it again") from error
        size = path.stat().st_size
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _WIDTHS:
                raise EngineError(
                    f"{path.name}: {name} is stored as {entry['dtype']}; "
                    "use the unquantized (bf16, f16 or f32) weights of this model, or a GGUF file"
                )
            begin, end = entry["data_offsets"]
            if 8 + length + end > size:
                raise EngineError(f"{path} is cut short; download it again")
            found[name] = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin)
    return found
