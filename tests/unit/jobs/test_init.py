"""A job's first file is a job, whose comments are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig, load_config
from lsb.errors import ConfigError, LsbError, ModelError, SourceError, UsageError
from lsb.jobs.init import write_job
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


def pictures(folder: Path) -> str:
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "one.png")
    return str(folder)


@pytest.fixture
def cats(tmp_path: Path) -> str:
    return pictures(tmp_path / "photos" / "Cats & co")


@pytest.fixture
def dogs(tmp_path: Path) -> str:
    return pictures(tmp_path / "photos" / "dogs")


def uncommented(text: str) -> str:
    """The file with every setting that stands in it as a comment."""
    return re.sub(r"^#( *[a-z_0-9]+:)", r"\1", text, flags=re.MULTILINE)


def test_it_names_two_folders_and_a_model(tmp_path: Path, cats: str, dogs: str, model: str) -> None:
    job = write_job(tmp_path / "jobs" / "job.yaml", cats, dogs, model)
    assert load_config(tmp_path / "jobs" / "job.yaml") == job
    assert (job.name, job.store, job.model) == ("cats-co-to-dogs", str(tmp_path / "jobs" / "store"), model)
    assert (job.source.domain, job.source.path) == ("cats-co", cats)
    assert (job.prompts.source.text, job.prompts.target.text) == ("cats co", "dogs")
    assert job.bridge == BridgeSettings(tau=0.2875)  # of latents of 8 x 8
    assert (job.prompts.target.domain, job.evaluate.target) == ("dogs", dogs)


def test_prompts_are_learned_if_somebody_asks_for_it(tmp_path: Path, cats: str, dogs: str, model: str) -> None:
    job = write_job(tmp_path / "job.yaml", cats, dogs, model, learn=True)
    source, target = job.prompts.source, job.prompts.target
    assert (source.images, source.token, source.initial) == (cats, "<cats-co>", "cats co")
    assert (target.images, target.token, target.initial) == (dogs, "<dogs>", "dogs")
    assert "`initial` is yours to say" in (tmp_path / "job.yaml").read_text()


def test_bfloat16_is_written_where_there_is_cuda(
    tmp_path: Path, cats: str, dogs: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_job(tmp_path / "here.yaml", cats, dogs, model)
    monkeypatch.setattr("lsb.models.device._accelerator", lambda: ("cuda", 1))
    there = write_job(tmp_path / "there.yaml", cats, dogs, model)
    assert (here.execution.dtype, there.execution.dtype) == ("float32", "bfloat16")
    assert "\n  dtype: bfloat16" in (tmp_path / "there.yaml").read_text()


def test_its_comments_are_the_defaults(tmp_path: Path, cats: str, dogs: str, model: str) -> None:
    job = write_job(tmp_path / "job.yaml", cats, dogs, model)
    text = (tmp_path / "job.yaml").read_text()
    whole = uncommented(text)
    (tmp_path / "whole.yaml").write_text(whole)
    assert load_config(tmp_path / "whole.yaml") == job
    for name in ("commit_seconds", "adams_moulton", "templates", "max_vanished_fraction", "shard_size"):
        assert name in text
    written = set(re.findall(r"^ *([a-z_0-9]+):", whole, flags=re.MULTILINE))
    assert JobConfig.model_fields.keys() <= written
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 120


def test_paths_are_relative_to_where_it_is_called(
    tmp_path: Path, cats: str, dogs: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "photos")
    job = write_job(Path("../job.yaml"), "Cats & co", "./dogs", model, "s3://bucket/lsb")
    assert (job.source.path, job.evaluate.target, job.store) == (cats, dogs, "s3://bucket/lsb")


def test_a_hub_id_stays_one_unless_such_a_folder_exists(
    tmp_path: Path, cats: str, dogs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub = write_job(tmp_path / "a.yaml", cats, dogs, "owner/name")
    assert (hub.model, hub.bridge) == ("owner/name", BridgeSettings())
    tiny_model(tmp_path / "owner" / "name")
    assert write_job(tmp_path / "b.yaml", cats, dogs, "owner/name").model == str(tmp_path / "owner" / "name")


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        ("flat/train", "3d/train", ("flat", "3d")),
        ("猫", "犬", ("source", "target")),
        ("mes icônes plates", "Größe & 3D", ("mes-icones-plates", "grosse-3d")),
        ("a-very-long-name-of-a-folder", "-b-", ("a-very-long-name-o", "b")),
    ],
)
def test_looks_are_named_by_what_differs(
    tmp_path: Path, model: str, source: str, target: str, names: tuple[str, str]
) -> None:
    job = write_job(tmp_path / "job.yaml", pictures(tmp_path / source), pictures(tmp_path / target), model)
    assert (job.source.domain, job.prompts.target.domain) == names
    assert job.name == "-to-".join(names)


def test_a_file_that_is_there_is_not_touched(tmp_path: Path, cats: str, dogs: str, model: str) -> None:
    for make in (lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")):
        path = tmp_path / "job.yaml"
        make(path)
        with pytest.raises(UsageError, match=r"job.yaml exists; give another file with --out"):
            write_job(path, cats, dogs, model)
        assert path.is_symlink() or path.read_text() == "mine"
        path.unlink()


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"source": "{tmp}/photo"}, SourceError, "no folder at {tmp}/photo; check the path"),
        ({"target": "{tmp}/empty"}, SourceError, "no images at {tmp}/empty"),
        ({"model": "{tmp}/modl"}, ModelError, "no model {tmp}/modl"),
        ({"model": "{tmp}/empty"}, ModelError, "{tmp}/empty"),
        ({"store": "{tmp}/photos/dogs/store"}, UsageError, "lies in"),
        ({"source": "s3://ann:hunter2@bucket/cats"}, ConfigError, "credentials"),
        ({"source": "{tmp}/odd/${{x}}"}, ConfigError, "is not filled in here"),
        ({"target": "{tmp}/photos/Cats & co"}, UsageError, "the same folder"),
        ({"path": "{tmp}/file/job.yaml"}, UsageError, "cannot write"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_will_not_do_is_said_in_one_line_and_nothing_is_written(
    tmp_path: Path, cats: str, dogs: str, model: str, wrong: dict[str, str], kind: type[LsbError], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    pictures(tmp_path / "odd" / "${x}")
    given = {"path": "{tmp}/job.yaml", "source": cats, "target": dogs, "model": model, **wrong}
    given = {
        name: text.format(tmp=tmp_path) if name in wrong or name == "path" else text for name, text in given.items()
    }
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind) as refused:
        write_job(Path(given.pop("path")), **given)
    assert words.format(tmp=tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
