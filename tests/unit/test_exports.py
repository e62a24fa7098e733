"""What `import lsb` offers, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lsb

NAMES = [
    "Backbone",
    "BridgeSettings",
    "Geometry",
    "JobConfig",
    "LearnedPrompt",
    "LearningConfig",
    "LsbError",
    "ModelIdentity",
    "Prompt",
    "Translator",
    "decode",
    "learn_prompt",
    "load_backbone",
    "load_config",
    "load_prompt",
]


def test_exported_names() -> None:
    assert sorted(lsb.__all__) == NAMES
    assert dir(lsb) == NAMES
    for name in NAMES:
        assert getattr(lsb, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        lsb.missing  # noqa: B018


@pytest.mark.parametrize(
    "module", ["lsb", "lsb.errors", "lsb.config.job", "lsb.records", "lsb.pictures.decoder", "lsb.store.local"]
)
def test_parts_that_need_no_network_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
