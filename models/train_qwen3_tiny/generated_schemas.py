"""Schemas in the shapes that client libraries generate from Python functions and pydantic models."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from models.train_qwen3_tiny.chat import Tool

PYTHON = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list[str]"}


def generated(
    rng: random.Random, name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]
) -> Tool:
    """A tool as pydantic lays it out: keys sorted, titles, nullable options, at times shared definitions for enums.

    Agent frameworks take it as it is or without titles; some put the signature before the description; the strict form
    closes the object.
    """
    titled, shared, nullable = rng.random() < 0.7, rng.random() < 0.25, rng.random() < 0.6
    definitions: dict[str, Any] = {}
    shaped: dict[str, Any] = {}
    for key, prop in properties.items():
        shape = dict(prop)
        title = key.replace("_", " ").title()
        if shared and "enum" in shape:
            kind = title.replace(" ", "")
            definitions[kind] = {"enum": shape.pop("enum"), "title": kind, "type": shape.pop("type")}
            shape["$ref"] = f"#/$defs/{kind}"
        elif titled:
            shape["title"] = title
        if key not in required:
            if nullable and "type" in shape:
                inner = {part: shape.pop(part) for part in ("enum", "items", "type") if part in shape}
                shape |= {"anyOf": [inner, {"type": "null"}], "default": None}
            elif "default" not in shape and rng.random() < 0.5:
                shape["default"] = None
        shaped[key] = dict(sorted(shape.items()))
    parameters: dict[str, Any] = {"properties": shaped, "type": "object"}
    if definitions:
        parameters["$defs"] = definitions
    if required:
        parameters["required"] = list(required)
    if titled and rng.random() < 0.4:
        parameters["title"] = rng.choice((name, name.title().replace("_", "")))
    if description and rng.random() < 0.15:
        parameters["description"] = description
    parameters = dict(sorted(parameters.items()))
    if rng.random() < 0.5:
        parameters["additionalProperties"] = False
    if rng.random() < 0.4:
        description = f"{_signature(rng, name, properties, required)}\n{description}"
    function: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    form = rng.random()
    if form < 0.2:
        function = {"name": name, "strict": True, "parameters": parameters, "description": description}
    elif form < 0.5:
        function["strict"] = rng.random() < 0.4
    return {"type": "function", "function": function}


def _signature(rng: random.Random, name: str, properties: Mapping[str, Any], required: Sequence[str]) -> str:
    told = []
    for key, prop in properties.items():
        python = PYTHON[prop["type"]]
        if "enum" in prop and rng.random() < 0.6:
            python = f"Literal[{', '.join(map(repr, prop['enum']))}]"
        told.append(f"{key}: {python}" if key in required else f"{key}: Optional[{python}] = None")
    return f"{name}({', '.join(told)}) -> {rng.choice(('str', 'str', 'dict', 'None'))}"
