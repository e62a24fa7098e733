from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lsb.config import JobConfig, load_config
from lsb.errors import ConfigError

JOB = {
    "name": "cats-to-dogs",
    "store": "store",
    "model": "./model",
    "source": {"domain": "cats", "path": "images"},
    "prompts": {"source": {"text": "a cat"}, "target": {"images": "../dogs", "token": "<dogs>", "initial": "dog"}},
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(JOB | changes))
    return path


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, evaluate={"target": "s3://bucket/dogs"}))
    assert config.store == str(tmp_path / "store")
    assert config.source.path == str(tmp_path / "images")
    assert config.prompts.target.images == str(tmp_path.parent / "dogs")
    assert config.evaluate.target == "s3://bucket/dogs"


def test_uris_stay_as_they_are(tmp_path: Path) -> None:
    config = load_config(
        written(
            tmp_path,
            store="s3://bucket/lsb",
            model="s3://bucket/models/sd",
            source={"domain": "cats", "path": "s3://bucket/cats"},
            loras=["s3://bucket/look.safetensors", "look.safetensors"],
        )
    )
    assert (config.store, config.model, config.source.path) == (
        "s3://bucket/lsb",
        "s3://bucket/models/sd",
        "s3://bucket/cats",
    )
    assert config.loras == ("s3://bucket/look.safetensors", str(tmp_path / "look.safetensors"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"store": "s3://AKIA:hunter2@bucket/lsb"}, "store"),
        ({"source": {"domain": "cats", "path": "s3://AKIA:hunter2@bucket"}}, "source.path"),
        ({"loras": ["a.safetensors", "s3://AKIA:hunter2@bucket/b.safetensors"]}, "loras"),
    ],
)
def test_credentials_are_refused_and_not_repeated(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    error = refused(written(tmp_path, **changes))
    assert error.field == field
    assert "hunter2" not in str(error)


def test_a_hub_id_stays_one_unless_such_a_folder_exists(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, model="owner/name")).model == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert load_config(written(tmp_path, model="owner/name")).model == str(tmp_path / "owner" / "name")


def test_unset_settings_have_the_paper_s_values(tmp_path: Path) -> None:
    bridge = load_config(written(tmp_path)).bridge
    assert (bridge.tau, bridge.t0, bridge.guidance, bridge.nfe) == (2.3, 0.2, 11.0, 8)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"learing": {}}, "learing", "allowed are name, store"),
        ({"bridge": {"nfes": 8}}, "bridge.nfes", "allowed are preset, tau"),
        ({"source": {"path": "x"}}, "source.domain", "required"),
        ({"bridge": {"tau": -1}}, "bridge.tau", "above 0"),
        ({"bridge": {"nfe": 1}}, "bridge.nfe", "got 1|is 1"),
        ({"execution": {"batch": 0}}, "execution.batch", "got 0"),
        ({"seed": "-3"}, "seed", "-3"),
        ({"learning": {"templates": ["a picture"]}}, "learning", "lacks {token}"),
        ({"prompts": {"source": {"text": "a", "file": "b"}, "target": {"text": "c"}}}, "prompts.source", "exactly one"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    tmp_path: Path, changes: dict[str, object], field: str, words: str
) -> None:
    error = refused(written(tmp_path, **changes))
    assert error.field == field
    assert any(word in str(error) for word in words.split("|"))
    assert error.exit_code == 2


def test_what_is_no_mapping_or_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for text in ("- a\n- b\n", "a: [1\n"):
        path.write_text(text)
        assert str(path) in str(refused(path))
    assert "check the path" in str(refused(tmp_path / "none.yaml"))


def test_a_configuration_cannot_be_changed() -> None:
    config = JobConfig.model_validate(JOB)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"
