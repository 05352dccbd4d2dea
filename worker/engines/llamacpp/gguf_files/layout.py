"""The GGUF container: values, tensor descriptions, and a header that can be read, changed and written again.

Only what a model file needs is here. Values stay in their packed form until somebody asks for one, so that
a header with 150,000 tokens is read in a moment and what is not understood is copied unchanged.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from qwenserve.worker.engine_interface import EngineError

ALIGNMENT = 32
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}

Scalar = int | float | bool | str


class TensorInfo(NamedTuple):
    """A tensor's place: `shape` as numpy has it (rows first), `offset` from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int

    @property
    def nbytes(self) -> int:
        elements, size = GGML_QUANT_SIZES[self.kind]
        count = 1
        for n in self.shape:
            count *= n
        return count // elements * size


@dataclass(frozen=True, slots=True)
class Header:
    """A GGUF header: packed values by key, in file order, and the tensors in data order."""

    values: dict[str, bytes]
    tensors: tuple[TensorInfo, ...]
    # Byte position of the data section in the file this header was read from; 0 for a new one.
    data_start: int = 0

    def get(self, key: str) -> Scalar | list[Scalar] | None:
        """Returns a value unpacked, None where the key is absent."""
        packed = self.values.get(key)
        return None if packed is None else _unpack(packed, 0)[0]

    def integer(self, key: str, default: int = 0) -> int:
        value = self.get(key)
        return value if isinstance(value, int) else default

    def text(self, key: str) -> str:
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def integers(self, key: str) -> list[int]:
        value = self.get(key)
        return cast(list[int], value) if isinstance(value, list) else []

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        return cast(list[str], value) if isinstance(value, list) else []

    def pack(self) -> bytes:
        """Returns the bytes in front of the data section, padded to the alignment."""
        out = bytearray(struct.pack("<4sIQQ", _MAGIC, 3, len(self.tensors), len(self.values)))
        for key, packed in self.values.items():
            out += _pack_text(key) + packed
        for info in self.tensors:
            out += _pack_text(info.name) + struct.pack("<I", len(info.shape))
            for n in reversed(info.shape):
                out += struct.pack("<Q", n)
            out += struct.pack("<IQ", info.kind, info.offset)
        return bytes(out) + bytes(-len(out) % self.alignment)

    @property
    def alignment(self) -> int:
        return self.integer("general.alignment", ALIGNMENT)


def read_header(path: Path) -> Header:
    """Reads the header of a GGUF file. Raises EngineError where it is not one, or cut short."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            header = _parse(view, path)
            size = len(view)
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise EngineError(f"{path} is not a readable GGUF file ({error}); download or convert it again") from error
    end = max((header.data_start + t.offset + t.nbytes for t in header.tensors), default=header.data_start)
    if size < end:
        raise EngineError(f"{path} is cut short: {size} bytes where {end} belong; download it again")
    return header


def pack_value(kind: GGUFValueType, value: Scalar) -> bytes:
    """Packs one typed value."""
    return struct.pack("<I", kind) + _pack_bare(kind, value)


def pack_array(kind: GGUFValueType, values: Sequence[Scalar]) -> bytes:
    """Packs an array of one type."""
    head = struct.pack("<IIQ", GGUFValueType.ARRAY, kind, len(values))
    return head + b"".join(_pack_bare(kind, v) for v in values)


def place(tensors: Iterable[tuple[str, tuple[int, ...], GGMLQuantizationType]]) -> tuple[TensorInfo, ...]:
    """Gives tensors their offsets, one after the other, each aligned."""
    placed, offset = [], 0
    for name, shape, kind in tensors:
        info = TensorInfo(name, shape, kind, offset)
        placed.append(info)
        offset += padded(info.nbytes)
    return tuple(placed)


def padded(nbytes: int, alignment: int = ALIGNMENT) -> int:
    return -(-nbytes // alignment) * alignment


def _pack_text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _pack_bare(kind: GGUFValueType, value: Scalar) -> bytes:
    if kind == GGUFValueType.STRING:
        return _pack_text(str(value))
    return struct.pack(_SCALARS[kind], value)


def _parse(view: mmap.mmap, path: Path) -> Header:
    magic, version, n_tensors, n_values = struct.unpack_from("<4sIQQ", view, 0)
    if magic != _MAGIC or version not in _VERSIONS:
        raise EngineError(f"{path} is not a little-endian GGUF file of version 2 or 3")
    position = 24
    values: dict[str, bytes] = {}
    for _ in range(n_values):
        key, position = _text_at(view, position)
        end = _skip(view, position)
        values[key] = view[position:end]
        position = end
    tensors = []
    for _ in range(n_tensors):
        name, position = _text_at(view, position)
        (n_dims,) = struct.unpack_from("<I", view, position)
        dims = struct.unpack_from(f"<{n_dims}Q", view, position + 4)
        kind, offset = struct.unpack_from("<IQ", view, position + 4 + 8 * n_dims)
        position += 4 + 8 * n_dims + 12
        tensors.append(TensorInfo(name, tuple(reversed(dims)), GGMLQuantizationType(kind), offset))
    tensors.sort(key=lambda t: t.offset)
    header = Header(values, tuple(tensors))
    return Header(values, tuple(tensors), data_start=padded(position, header.alignment))


def _text_at(view: mmap.mmap | bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", view, position)
    end = position + 8 + length
    if end > len(view):
        raise ValueError("a string runs past the end")
    return view[position + 8 : end].decode("utf-8"), end


def _skip(view: mmap.mmap, position: int) -> int:
    """Returns where the typed value at `position` ends."""
    kind = GGUFValueType(struct.unpack_from("<I", view, position)[0])
    position += 4
    count = 1
    if kind == GGUFValueType.ARRAY:
        inner, count = struct.unpack_from("<IQ", view, position)
        kind = GGUFValueType(inner)
        position += 12
    if kind in _SCALARS:
        end = position + count * struct.calcsize(_SCALARS[kind])
    elif kind == GGUFValueType.STRING:
        end = position
        for _ in range(count):
            end += 8 + int.from_bytes(view[end : end + 8], "little")
    else:
        raise ValueError("arrays of arrays are not known in model files")
    if end > len(view):
        raise ValueError("a value runs past the end")
    return end


def _unpack(packed: bytes, position: int) -> tuple[Scalar | list[Scalar], int]:
    kind = GGUFValueType(struct.unpack_from("<I", packed, position)[0])
    position += 4
    if kind == GGUFValueType.STRING:
        return _text_at(packed, position)
    if kind != GGUFValueType.ARRAY:
        return struct.unpack_from(_SCALARS[kind], packed, position)[0], position
    inner, count = struct.unpack_from("<IQ", packed, position)
    kind = GGUFValueType(inner)
    position += 12
    items: list[Scalar] = []
    if kind == GGUFValueType.STRING:
        for _ in range(count):
            text, position = _text_at(packed, position)
            items.append(text)
        return items, position
    letter = _SCALARS[kind][1]
    items.extend(struct.unpack_from(f"<{count}{letter}", packed, position))
    return items, position
