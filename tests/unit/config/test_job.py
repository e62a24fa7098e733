from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lsb.bridge.methods import METHODS, name_of
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig, load_config, refuse_relative
from lsb.errors import ConfigError

JOB = {
    "name": "cats-to-dogs",
    "store": "store",
    "model": "./model",
    "source": {"domain": "cats", "path": "images"},
    "prompts": {"source": {"text": "a cat"}, "target": {"images": "../dogs", "token": "<dogs>", "initial": "dog"}},
}
NEGATIVE = {"source": {"text": "a cat"}, "target": {"text": "a dog"}, "negative": "blurry"}
_HEAD = """\
# the same in nine lines
name: cats-to-dogs
store: store
model: ./model

source: {domain: cats, path: images}
prompts:
  source: {text: a cat}
  target: {images: ../dogs, token: <dogs>, initial: dog}
"""


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
        ({"source": {"domain": "cats", "path": "s3://AKIA:hun/ter2@bucket/cats"}}, "source.path"),
        ({"source": {"domain": "cats", "path": "https://host/a?X-Amz-Signature=hunter2"}}, "source.path"),
        ({"source": "s3://AKIA:hunter2@bucket/cats"}, "source"),
        ({"model": "s3://bucket/model?X-Amz-Credential=a&X-Amz-Signature=hunter2"}, "model"),
        ({"model": "hf_" + "hunter2" * 5}, "model"),
        ({"evaluate": {"truth": "https://ann:hunter2@host/truth"}}, "evaluate.truth"),
        ({"loras": ["a.safetensors", "s3://AKIA:hunter2@bucket/b.safetensors"]}, "loras.1"),
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
        ({"method": {"name": "sdedti"}}, "method.name", "did you mean sdedit?; allowed are lsb, sdedit"),
        ({"method": {"nfe": 4}}, "method.name", "missing; allowed are lsb, sdedit"),
        ({"method": "sdedit"}, "method", "{name: ...}"),
        ({"method": {"name": "ddib", "nfe": 3}}, "method.nfe", "nfe is 3; it must be even"),
        ({"method": {"name": "sdedit", "sigma": -1}}, "method.sigma", "above 0"),
        ({"method": {"name": "sdedit", "nfe": "x"}}, "method.nfe", "valid integer"),
        ({"method": {"name": "sdedit", "nfes": 1}}, "method.nfes", "did you mean nfe?"),
        ({"method": {"name": "lsb", "nfe": 4}}, "method.nfe", "those of lsb stand in bridge"),
        ({"method": {"name": "sdedit"}, "bridge": {}}, "bridge", "leave one of them out"),
        ({"method": {"name": "ddib"}, "prompts": NEGATIVE}, "prompts.negative", "method ddib"),
        ({"prompts": NEGATIVE}, "prompts.negative", "method lsb"),
        ({"source": {"path": "x"}}, "source.domain", "required"),
        ({"bridge": {"tau": -1}}, "bridge.tau", "above 0"),
        ({"bridge": {"nfe": 1}}, "bridge.nfe", "got 1|is 1"),
        ({"execution": {"batch": 0}}, "execution.batch", "got 0"),
        ({"seed": "-3"}, "seed", "-3"),
        ({"learing": {}}, "learing", "did you mean learning?"),
        ({"execution": {"batch": 0, "workers": 0}, "seed": "x"}, "seed", "wrong as well: execution.batch, execution.w"),
        ({"execution": {"batch": True}}, "execution.batch", "got true"),
        ({"execution": {"batch": 10**30}}, "execution.batch", "less than or equal to 1000000000"),
        ({"execution": {"commit_seconds": 1e300}}, "execution.commit_seconds", "less than or equal"),
        ({"model": None}, "model", "got nothing"),
        ({"store": ""}, "store", "must be a path"),
        ({"source": {"domain": "cats", "path": "a\0b"}}, "source.path", "without control characters"),
        ({"store": "$HOME/lsb"}, "store", "variables are not filled in"),
        ({"store": "~nobody-of-this-name/lsb"}, "store", "no such home"),
        ({"learning": {"templates": ["a picture"]}}, "learning", "lacks {token}"),
        ({"learning": {"sigma_min": 9}}, "learning", "sigma_min 9 is above sigma_max 8; noise is drawn between them"),
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


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("execution: {batch: 2}\nexecution: {shard_size: 7}\n", 11, "execution is given twice, first in line 10"),
        ("execution: {batch: 2, batch: 2}", 10, "execution.batch is given twice, first in line 10"),
        ("name: other", 10, "name is given twice, first in line 2"),
        ("execution:\n  device: ${DEVICE}", 11, r"execution.device: \$\{...\} is not filled in"),
        ("budget: {max_failed_fraction: .nan}", 10, "budget.max_failed_fraction: .*got .nan"),
        ("budget: {max_failed_fraction: nan}", 10, "budget.max_failed_fraction: .*finite.*got nan"),
        ("execution: {commit_seconds: .inf}", 10, "execution.commit_seconds: .*got .inf"),
        ("execution: {hang_seconds: 1e999}", 10, "execution.hang_seconds: .*finite.*got 1e999"),
        ("bridge: {tau: .inf}", 10, "bridge.tau: .*got .inf"),
        ("bridge: {tau: inf}", 10, "bridge.tau: tau is inf"),
        ("execution: {batch: 010}", 10, "execution.batch: 010 begins with 0"),
        ("bridge: {tau: 010}", 10, "bridge.tau: 010 begins with 0"),
        ("learning: {templates: ['{token}', '${x}']}", 10, r"learning.templates.1: \$\{...\} is not"),
        ("execution: {batch: 12:30}", 10, "execution.batch: .*got 12:30"),
        ("execution: {batch: 0x10}", 10, "execution.batch: .*got 0x10"),
        ("execution: {batch: 1e3}", 10, "execution.batch: .*got 1e3"),
        ("execution: &quick {batch: 2}", 10, "anchors and aliases"),
        ("evaluate: {sample: 3}\nlearning:\n  <<: *quick", 12, "anchors and aliases"),
        ("learning: {<<: {steps: 3}}", 10, "learning.<<: no such setting"),
        ("learning: " + "[" * 30 + "]" * 30, 10, "nested more than 20 deep"),
        ("learning: " + "[" * 60000, 10, "nested more than 20 deep"),
        ("execution:\n\tbatch: 2", 11, "not valid YAML"),
        ("execution: !!python/object:os.system {}", 10, "the tag .*os.system is not read"),
        ("execution: {batch: !include other.yaml}", 10, "execution.batch: the tag !include is not read"),
        ("? [a, b]\n: c", 10, "must be a word"),
        ('execution: {device: "\x07"}', 10, "is not allowed in YAML"),
        ("---\nname: other", 10, "expected a single document"),
        ("- a", 10, "not valid YAML"),
    ],
)
def test_what_somebody_could_read_otherwise_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    """The file's first nine lines are a job's."""
    path = tmp_path / "job.yaml"
    path.write_text(_HEAD + text + "\n")
    error = refused(path)
    assert str(error).startswith(f"{path}, line {line}: ")
    assert re.search(words, str(error).removeprefix(f"{path}, line {line}: "))
    assert len(str(error)) < 500
    assert error.exit_code == 2


@pytest.mark.parametrize("written_so", ["42", "'42'", '"42"', "!!str 42"])
def test_a_seed_needs_no_quotes(tmp_path: Path, written_so: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{_HEAD}seed: {written_so}\n")
    assert load_config(path).model_dump() == load_config(written(tmp_path, seed="42")).model_dump()
    assert JobConfig.model_validate(JOB | {"seed": 42}).seed == "42"


@pytest.mark.parametrize("text", ["007", "no", "on", "12:30", "2024-01-01", "3", "1e3", "0x10", "1_000"])
def test_a_text_is_what_stands_there(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(_HEAD.replace("text: a cat", f"text: {text}"))
    assert load_config(path).prompts.source.text == text


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("on", True), ("true", True), ("no", False), ("off", False)]
)
def test_a_switch_is_on_or_off(tmp_path: Path, text: str, value: bool) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{_HEAD}strict: {text}\n")
    assert load_config(path).strict is value


def test_every_setting_means_the_same_written_out(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    dumped = config.model_dump(mode="json")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(dumped))
    assert load_config(tmp_path / "all.yaml") == config
    times = {"nfe": 3, "solver": "euler", "grid": "tuned", "times": [0.2, 0.5, 0.98]}
    assert load_config(written(tmp_path, bridge=times)).bridge.times == (0.2, 0.5, 0.98)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_means_the_same_written_out(tmp_path: Path, method: str) -> None:
    config = load_config(written(tmp_path, method={"name": method}))
    dumped = config.model_dump(mode="json")
    assert ("bridge" in dumped) == (method == "lsb")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(dumped))
    assert load_config(tmp_path / "all.yaml") == config
    assert name_of(config.method_settings) == method


def test_no_method_is_lsb(tmp_path: Path) -> None:
    plain, named = load_config(written(tmp_path)), load_config(written(tmp_path, method={"name": "lsb"}))
    assert plain == named
    assert plain.method_settings == BridgeSettings()


def test_a_leading_tilde_is_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "model").mkdir(parents=True)
    target = {"images": "~/dogs"}
    config = load_config(
        written(
            tmp_path,
            store="~/lsb",
            model="~/model",
            loras=["~/look.safetensors"],
            source={"domain": "cats", "path": "~"},
            prompts={"source": {"file": "~/cat.safetensors"}, "target": target},
            evaluate={"target": "~/t", "truth": "./~/u"},
        )
    )
    home = str(tmp_path / "home")
    assert (config.store, config.model, config.source.path) == (f"{home}/lsb", f"{home}/model", home)
    assert config.loras == (f"{home}/look.safetensors",)
    assert (config.prompts.source.file, config.prompts.target.images) == (f"{home}/cat.safetensors", f"{home}/dogs")
    assert (config.evaluate.target, config.evaluate.truth) == (f"{home}/t", str(tmp_path / "~" / "u"))


def test_a_byte_order_mark_and_other_line_ends_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + _HEAD.replace("\n", "\r\n").encode())
    assert load_config(path) == load_config(written(tmp_path))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"# only a remark\n", "is empty"),
        (b"a: b\nc: \xff\n", "line 2: not UTF-8"),
        ("name: x".encode("utf-16"), "line 1: not UTF-8"),
        (b"just a word", "not a single value"),
        (b"- a\n- b\n", "not a list"),
        (b"a" * 300_000, "has more than 256 KiB"),
    ],
)
def test_what_is_no_job_is_refused_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(data)
    assert words in str(refused(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in str(refused(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in str(refused(tmp_path / "pipe"))
    assert "check the path" in str(refused(tmp_path / ("x" * 300)))
    assert "check the path" in str(refused(Path("a\0b")))


def test_a_name_too_long_for_a_folder_is_no_bug(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, model="x" * 300)).model == "x" * 300


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


ABSOLUTE = {
    "name": "cats-to-dogs",
    "store": "s3://bucket/store",
    "model": "owner/name",
    "loras": ["/loras/one.safetensors"],
    "source": {"domain": "cats", "path": "/images"},
    "prompts": {"source": {"file": "/cat.safetensors"}, "target": {"images": "file:///dogs", "token": "<dogs>"}},
    "evaluate": {"target": "/dogs", "truth": "/truth"},
}


def test_settings_that_come_from_no_file_may_have_absolute_paths_uris_and_hub_ids() -> None:
    refuse_relative(JobConfig.model_validate(ABSOLUTE))


@pytest.mark.parametrize(
    "field",
    [
        "store",
        "model",
        "loras.0",
        "source.path",
        "prompts.source.file",
        "prompts.target.images",
        "evaluate.target",
        "evaluate.truth",
    ],
)
def test_settings_that_come_from_no_file_may_have_no_relative_path(field: str) -> None:
    changed: dict[str, Any] = copy.deepcopy(ABSOLUTE)
    *folders, last = field.removesuffix(".0").split(".")
    place = changed
    for folder in folders:
        place = place[folder]
    place[last] = ["./here"] if field.endswith(".0") else "./here"
    with pytest.raises(ConfigError, match="absolute path or a URI") as error:
        refuse_relative(JobConfig.model_validate(changed))
    assert error.value.field == field
