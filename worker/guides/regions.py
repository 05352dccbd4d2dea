"""Regions for engines that follow Lark grammars themselves, with llguidance in them, but know no regions."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from qwenserve.runtime.guide_grammar import regions_grammar
from qwenserve.worker.engine_interface import EngineRefusal, EngineRequest, Guide, GuideKind


def regions_spelled_out(
    request: EngineRequest, special_ids: Mapping[str, int], end_token_ids: Collection[int]
) -> EngineRequest:
    """Returns the request with a grammar in place of regions; any other as it is. Raises EngineRefusal."""
    guide = request.guide
    if guide is None or guide.kind is not GuideKind.REGIONS:
        return request
    try:
        grammar = regions_grammar(guide.text, special_ids, sorted(end_token_ids))
    except (ValueError, KeyError, TypeError) as error:
        raise EngineRefusal(f"guide: these regions cannot be read: {error}", param="guide") from None
    return replace(request, guide=Guide(GuideKind.GRAMMAR, grammar))


def guide_kinds(special_ids: Mapping[str, int]) -> frozenset[GuideKind]:
    """Returns what such an engine can follow: regions only where the tokens that begin them are known."""
    return frozenset(GuideKind) if special_ids else frozenset(GuideKind) - {GuideKind.REGIONS}


def special_ids_of(directory: Path) -> Mapping[str, int]:
    """Returns the tokens of a model directory that are no text, such as <tool_call>; none where it has no
    `tokenizer.json`.
    """
    file = directory / "tokenizer.json"
    if not file.is_file():
        return {}
    added = json.loads(file.read_text(encoding="utf-8")).get("added_tokens", ())
    return {each["content"]: each["id"] for each in added}
