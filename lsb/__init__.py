"""Latent Schrödinger Bridges (LSB) for translating whole image data sets.

    from lsb import Prompt, Translator, load_backbone

    backbone = load_backbone("path/to/model")
    translator = Translator(backbone, Prompt("a photo of a cat"), Prompt("a photo of a dog"))
    dogs = translator.translate(cats)

    run = lsb.open_run("store/runs/cats-to-dogs-0123456789ab")
    run.records, run.metrics, run.shards    # pandas frames

Names are imported when they are first used, so that parts which need no network load no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsb.bridge.settings import BridgeSettings
    from lsb.config.job import JobConfig, LearningConfig, load_config
    from lsb.errors import LsbError
    from lsb.ledger.transform import ModelIdentity
    from lsb.models.load import load_backbone
    from lsb.models.prompt import Prompt, load_prompt
    from lsb.models.protocol import Backbone
    from lsb.pictures.geometry import Geometry
    from lsb.pictures.images import decode
    from lsb.prompts.learning import LearnedPrompt, learn_prompt
    from lsb.translation.translator import Translator
    from lsb.views.opened import open_run

_HOMES = {
    "Backbone": "lsb.models.protocol",
    "BridgeSettings": "lsb.bridge.settings",
    "Geometry": "lsb.pictures.geometry",
    "JobConfig": "lsb.config.job",
    "LearnedPrompt": "lsb.prompts.learning",
    "LearningConfig": "lsb.config.job",
    "LsbError": "lsb.errors",
    "ModelIdentity": "lsb.ledger.transform",
    "Prompt": "lsb.models.prompt",
    "Translator": "lsb.translation.translator",
    "decode": "lsb.pictures.images",
    "learn_prompt": "lsb.prompts.learning",
    "load_backbone": "lsb.models.load",
    "load_config": "lsb.config.job",
    "load_prompt": "lsb.models.prompt",
    "open_run": "lsb.views.opened",
}

__all__ = [
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
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lsb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
