"""The texts of a guide that is a choice. Pure."""

from __future__ import annotations

import json

from qwenserve.worker.engine_interface import EngineRefusal, Guide


def choices_of(guide: Guide) -> list[str]:
    """Returns what a choice leaves to choose from. Raises EngineRefusal where its text is no list of texts."""
    try:
        choices = json.loads(guide.text)
    except ValueError:
        choices = None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise EngineRefusal("guide: a choice is a JSON array of one or more strings", param="guide")
    return choices
