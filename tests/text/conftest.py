from __future__ import annotations

import pytest

from qwenserve.text.assets import ModelAssets, load_assets
from tests.fixtures.full_tokenizer import TINY_MODEL, model_directories


@pytest.fixture(scope="session")
def tiny() -> ModelAssets:
    return load_assets(TINY_MODEL)


@pytest.fixture(scope="session", params=model_directories(), ids=lambda path: path.name)
def assets(request: pytest.FixtureRequest) -> ModelAssets:
    """The small model, and the full-size tokenizer where it is there."""
    return load_assets(request.param)
