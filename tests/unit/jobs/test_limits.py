"""What a model cannot give is refused before anything is read or written, by the model's configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsb.config.job import JobConfig
from lsb.errors import ConfigError, StoreBusyError
from lsb.jobs import limits
from lsb.jobs.dry_run import dry_run
from lsb.jobs.limits import refuse_beyond_model
from tests.ledger import make_images
from tests.tiny import tiny_model

LONG = "icon " * 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer; weights that nobody can read."""
    folder = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"no weights")
    return folder


def job(model: Path, **changes: Any) -> JobConfig:
    """A job whose pictures and store nobody may look at."""
    prompts = {"source": {"text": "a flat icon"}, "target": {"text": "a 3d icon"}, **changes.pop("prompts", {})}
    source = {"domain": "flat", "path": "/nowhere/at/all"}
    return JobConfig.model_validate(
        {"name": "job", "store": "/nowhere/store", "model": str(model), "source": source, "prompts": prompts, **changes}
    )


BEYOND: list[tuple[dict[str, Any], str, str]] = [
    (
        {"bridge": {"tau": 30}},
        "bridge.tau",
        r"tau 30.0 is too large for this model's noise schedule; the largest is 29",
    ),
    ({"method": {"name": "sdedit", "sigma": 15}}, "method.sigma", r"sigma 15.0 is too large .* the largest is 14\.6"),
    ({"bridge": {"tau": 20}, "geometry": {"area": 4096}}, "bridge.tau", r"at this geometry.area; the largest is 14\.6"),
    ({"prompts": {"target": {"text": LONG}}}, "prompts.target.text", r"has 100 tokens.* reads at most 75; shorten"),
    (
        {"method": {"name": "ddib", "inversion": "negative"}, "prompts": {"negative": LONG}},
        "prompts.negative",
        "has 100 tokens",
    ),
    (
        {"prompts": {"source": {"images": "/nowhere/a", "prefix": "icon " * 70, "vectors": 6}}},
        "prompts.source.images",
        "has 76 tokens",
    ),
    (
        {"prompts": {"source": {"images": "/nowhere/a"}}, "learning": {"templates": ["{token}", "{token} " + LONG]}},
        "prompts.source.images",
        "has 101 tokens",
    ),
    (
        {"bridge": {"preset": "published"}, "prompts": {"source": {"text": "icon " * 70}}},
        "prompts.source.text",
        "tokens, and the model's text encoder reads at most 75",
    ),
    (
        {"prompts": {"source": {"images": "/nowhere/a"}, "target": {"images": "/nowhere/a/../a/"}}},
        "prompts.target.images",
        "is the same folder as prompts.source.images",
    ),
]


@pytest.mark.parametrize(
    ("changes", "field", "words"), BEYOND, ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_is_refused_before_anything_is_read(model: Path, changes: dict[str, Any], field: str, words: str) -> None:
    config = job(model, **changes)
    for look in (refuse_beyond_model, dry_run):
        with pytest.raises(ConfigError, match=words) as refused:
            look(config)
        assert refused.value.field == field
        assert str(refused.value).startswith(f"{field}: ")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"bridge": {"tau": 29}},
        {"bridge": {"tau": 20}, "geometry": {"area": 4096, "large": "tile"}},
        {"method": {"name": "ddib"}},
        {"prompts": {"source": {"text": "icon " * 75}}},
        {"bridge": {"preset": "published"}, "prompts": {"target": {"text": "icon " * 75}}},
        {"prompts": {"source": {"images": "/nowhere/a", "vectors": 16}, "target": {"images": "/nowhere/b"}}},
    ],
    ids=str,
)
def test_what_just_fits_is_not(model: Path, changes: dict[str, Any]) -> None:
    refuse_beyond_model(job(model, **changes))


def test_a_model_that_cannot_be_fetched_now_is_left_to_the_stages(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise StoreBusyError("slow down")

    monkeypatch.setattr(limits, "facts_of", busy)
    refuse_beyond_model(job(model, bridge={"tau": 1000}))


def test_of_a_family_that_says_nothing_nothing_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "facts_of", lambda *_, **__: None)
    refuse_beyond_model(job(model, bridge={"tau": 1000}))


def test_a_dry_run_says_whether_somebody_has_chosen(tmp_path: Path, tiny_folder: Path) -> None:
    images = str(make_images(tmp_path / "images", 1))
    source, store = {"domain": "flat", "path": images}, str(tmp_path / "store")
    said = [
        dry_run(job(tiny_folder, source=source, store=store, bridge=bridge)).untuned
        for bridge in ({}, {"tau": 0.2875}, {"tau": 0.1})
    ]
    assert said == [said[0], said[0], None]
    assert said[0] is not None
    assert said[0].startswith("tau, t0 and guidance stand at their default")
