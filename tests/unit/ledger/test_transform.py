"""The transform id: everything that alters pixels, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.settings import BridgeSettings
from lsb.ledger.transform import TRANSFORM_VERSION, ModelIdentity, transform_id, transform_settings
from lsb.records import canonical_json, digest_of

FILES = {"unet/w.safetensors": "1" * 64, "vae/w.safetensors": "2" * 64}


def base(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "identity": ModelIdentity("owner/name", "r1", digest_of(FILES), FILES),
        "source_prompt_id": "a" * 64,
        "target_prompt_id": "b" * 64,
        "settings": BridgeSettings(),
        "seed": "0",
        "dtype": "float32",
        "output_format": "png",
    }
    return transform_settings(**(arguments | changes))


def test_it_is_the_digest_of_canonical_json_and_survives_being_stored() -> None:
    settings = base()
    assert transform_id(settings) == digest_of(settings)
    assert transform_id(json.loads(canonical_json(settings))) == transform_id(settings)
    assert settings["transform_version"] == TRANSFORM_VERSION


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": ModelIdentity("owner/name", "r1", "", FILES | {"vae/w.safetensors": "3" * 64})},
        {"source_prompt_id": "c" * 64},
        {"target_prompt_id": "c" * 64},
        {"source_prompt_id": "b" * 64, "target_prompt_id": "a" * 64},
        {"settings": BridgeSettings(tau=2.4)},
        {"settings": BridgeSettings(nfe=9)},
        {"settings": BridgeSettings(preset="published")},
        {"settings": Sdedit()},
        {"settings": Sdedit(nfe=9)},
        {"negative_prompt_id": "9" * 64},
        {"seed": "1"},
        {"dtype": "bfloat16"},
        {"output_format": "webp"},
        {"geometry": {"fit": "aspect"}},
        {"geometry": {"fit": "aspect", "area": 90_000}},
    ],
)
def test_what_alters_pixels_is_in_it(changes: dict[str, Any]) -> None:
    assert transform_id(base(**changes)) != transform_id(base())


def test_the_letterbox_leaves_no_trace() -> None:
    assert base(geometry=None) == base()
    assert "geometry" not in base()
    assert base()["preprocessing"] == {"fit": "letterbox", "ground": "white", "resampling": "lanczos", "colour": "srgb"}


def test_no_two_geometries_are_one_transform() -> None:
    given: list[dict[str, Any] | None] = [None, {"fit": "aspect"}, {"fit": "aspect", "output": "model"}]
    assert len({transform_id(base(geometry=geometry)) for geometry in given}) == 3


def test_a_model_s_name_and_place_are_not_in_it() -> None:
    elsewhere = ModelIdentity("copy", None, digest_of(FILES), dict(reversed(FILES.items())))
    assert transform_id(base(identity=elsewhere)) == transform_id(base())


def test_every_bridge_setting_is_in_it() -> None:
    assert set(base()["bridge"]) == set(BridgeSettings.model_fields)


def test_the_version_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = transform_id(base())
    monkeypatch.setattr("lsb.ledger.transform.TRANSFORM_VERSION", TRANSFORM_VERSION + 1)
    assert transform_id(base()) != before
