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
    "open_run",
]


def test_exported_names() -> None:
    assert sorted(lsb.__all__) == NAMES
    assert dir(lsb) == NAMES
    for name in NAMES:
        assert getattr(lsb, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        lsb.missing  # noqa: B018


HEAVY = ("diffusers", "transformers", "torch._dynamo", "torchmetrics", "matplotlib", "scipy", "pandas", "s3fs")


@pytest.mark.parametrize(
    ("what", "modules", "without"),
    [
        (
            "parts that need no network",
            "lsb lsb.errors lsb.config.job lsb.records lsb.pictures.decoder lsb.store.local",
            ("torch", "prefect", "pyarrow"),
        ),
        (
            "what looks at a store",
            "lsb.audit lsb.views.status lsb.views.trace lsb.views.diff lsb.views.export lsb.jobs.gc lsb.jobs.erase "
            "lsb.views.opened lsb.models.load lsb.jobs.init lsb.jobs.dry_run lsb.bridge.solve lsb.models.prompt",
            ("torch", "prefect"),
        ),
        ("flows", "flows.translate flows.stages flows.rerun lsb.cli.local_server", ("torch", "prefect.server")),
        ("what a process with a model begins with", "lsb.jobs.loading lsb.translation.model_process", ("prefect",)),
    ],
)
def test_nothing_is_imported_before_it_is_needed(what: str, modules: str, without: tuple[str, ...]) -> None:
    code = f"import sys; from importlib import import_module as load; [load(name) for name in {modules.split()!r}]"
    code += f"; print(*[name for name in {(*without, *HEAVY)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [], what
