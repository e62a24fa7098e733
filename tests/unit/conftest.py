"""Fixtures of the unit tests. What needs torch is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lsb.models.stable_diffusion import StableDiffusion


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Stable Diffusion folder that predicts epsilon. Read only."""
    from tests.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Path) -> StableDiffusion:
    """The tiny model, loaded on the CPU in float32."""
    from lsb.models.load import load_backbone

    return load_backbone(str(tiny_folder), device="cpu")
