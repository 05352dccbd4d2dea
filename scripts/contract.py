"""Whether the protos still keep what `protos/contract.binpb` promises. `--accept` makes today's protos the promise.

What has been promised stays: packages, messages, fields with name, number, type and presence, values of enums, services
and methods with their types and directions, and the options that name generated packages. Additions are free, and
promised with the next release. The promise is a FileDescriptorSet, so that other tools can read it too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import google.rpc
import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
# Contracts of others come with their packages; they are theirs to keep.
INCLUDES = (Path(grpc_tools.__file__).parent / "_proto", Path(next(iter(google.rpc.__path__))).parents[1])
OWN = "qwenserve."

Field = descriptor_pb2.FieldDescriptorProto


def described(protos: Path) -> bytes:
    """Returns the FileDescriptorSet of all contracts below a folder. Exits where they do not compile."""
    files = sorted(str(path) for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        includes = [f"-I{path}" for path in (protos, *INCLUDES)]
        if protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={out}", *files]):
            sys.exit(2)
        return out.read_bytes()


def promises(data: bytes) -> dict[str, str]:
    """Returns everything that callers may rely on: a name for each thing, and what it is."""
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        if not file.package.startswith(OWN):
            continue
        options = file.options
        found[f"file {file.name}"] = (
            f"package {file.package}, go {options.go_package}, java {options.java_package} "
            f"{'in several files' if options.java_multiple_files else 'in one file'}"
        )
        for message in file.message_type:
            found.update(_message(message, file.package))
        for enum in file.enum_type:
            found.update(_enum(enum, file.package))
        for service in file.service:
            name = f"{file.package}.{service.name}"
            found[f"service {name}"] = "there"
            for method in service.method:
                sides = ("stream " * method.client_streaming, "stream " * method.server_streaming)
                found[f"method {name}/{method.name}"] = (
                    f"{sides[0]}{method.input_type} to {sides[1]}{method.output_type}"
                )
    return found


def _message(message: descriptor_pb2.DescriptorProto, package: str) -> Iterator[tuple[str, str]]:
    name = f"{package}.{message.name}"
    yield f"message {name}", "there"
    for field in message.field:
        kind = field.type_name or Field.Type.Name(field.type).removeprefix("TYPE_").lower()
        words = [field.name, kind]
        if field.label == Field.LABEL_REPEATED:
            words.append("repeated")
        if field.proto3_optional:
            words.append("optional")
        elif field.HasField("oneof_index"):
            words.append(f"in oneof {message.oneof_decl[field.oneof_index].name}")
        yield f"field {field.number} of {name}", ", ".join(words)
    for inner in message.nested_type:
        yield from _message(inner, name)
    for enum in message.enum_type:
        yield from _enum(enum, name)


def _enum(enum: descriptor_pb2.EnumDescriptorProto, package: str) -> Iterator[tuple[str, str]]:
    name = f"{package}.{enum.name}"
    yield f"enum {name}", "there"
    for value in enum.value:
        yield f"value {value.number} of {name}", value.name


def broken(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Returns what was promised and is so no more, a line each."""
    return [
        f"{thing} was: {was}; now: {now[thing]}" if thing in now else f"{thing} is gone; it was: {was}"
        for thing, was in before.items()
        if now.get(thing) != was
    ]


def main() -> int:
    """Returns 0, or 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--protos", type=Path, default=ROOT / "protos", help="folder of the contracts")
    parser.add_argument("--promise", type=Path, help="file of the promise; contract.binpb beside them by default")
    parser.add_argument("--accept", action="store_true", help="make today's contracts the promise")
    arguments = parser.parse_args()
    promise = arguments.promise or arguments.protos / "contract.binpb"
    data = described(arguments.protos)
    if arguments.accept:
        promise.write_bytes(data)
        return 0
    before, now = promises(promise.read_bytes()), promises(data)
    problems = broken(before, now)
    for problem in problems:
        print(problem)
    if problems:
        print("Add beside what is there instead, or, before a release, accept the break: scripts/contract.py --accept")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
