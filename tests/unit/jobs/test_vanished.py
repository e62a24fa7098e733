from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError, SourceError
from lsb.jobs.vanished import refuse_to_translate, refuse_vanished
from lsb.ledger.layout import run_file
from lsb.ledger.publish import publish
from lsb.ledger.run import Run
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from tests.ledger import make_images, start, translate_all


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", 8)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def run(store: LocalStore, folder: Path) -> Run:
    """A published run of 8 records."""
    made, sources = start(store, folder)
    translate_all(store, made, sources)
    publish(store, made, {}, b"page")
    return made


def config(folder: Path, **changes: object) -> JobConfig:
    settings = {
        "name": "invert",
        "store": "store",
        "model": "model",
        "source": {"domain": "noise", "path": str(folder)},
        "prompts": {"source": {"text": "a"}, "target": {"text": "b"}},
    }
    return JobConfig.model_validate({**settings, **changes})


def take_in(store: LocalStore, folder: Path, *, accepted: bool = False, **changes: object) -> int:
    check = refuse_vanished(store, config(folder, **changes), accepted=accepted)
    return ingest(open_sources(str(folder)), "noise", store, listed=check).records


@pytest.mark.usefixtures("run")
def test_half_may_vanish_and_more_may_not(store: LocalStore, folder: Path) -> None:
    shutil.rmtree(folder / "odd")
    assert take_in(store, folder) == 4
    (folder / "even" / "0000.png").rename(folder / "even" / "new.png")
    before = store.list()
    with pytest.raises(BudgetExceededError) as caught:
        take_in(store, folder)
    assert caught.value.exit_code == 4
    for words in (
        "5 of the 8 records",
        str(folder),
        "62.5%",
        "max_vanished_fraction allows 50.0%",
        "--accept-vanished",
    ):
        assert words in str(caught.value)
    assert store.list() == before
    assert take_in(store, folder, accepted=True) == 4
    assert take_in(store, folder, budget={"max_vanished_fraction": 0.7}) == 4


@pytest.mark.usefixtures("run")
def test_an_empty_folder_has_lost_all(store: LocalStore, folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(BudgetExceededError, match="8 of the 8 records"):
        take_in(store, folder)
    with pytest.raises(SourceError, match="no images at"):
        take_in(store, folder, accepted=True)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("changes", [{"name": "other"}, {"source": {"domain": "dogs", "path": "."}}])
def test_another_job_or_data_set_has_lost_nothing(store: LocalStore, folder: Path, changes: dict[str, object]) -> None:
    shutil.rmtree(folder / "odd")
    shutil.move(folder / "even" / "0000.png", folder / "alone.png")
    shutil.rmtree(folder / "even")
    assert take_in(store, folder, **changes) == 1


def test_a_run_without_a_snapshot_is_no_measure(store: LocalStore, folder: Path) -> None:
    start(store, folder)
    shutil.rmtree(folder / "odd")
    shutil.rmtree(folder / "even")
    make_images(folder, 1)
    assert take_in(store, folder) == 1


def test_a_planned_run_is_not_translated_without_most_of_its_source(store: LocalStore, folder: Path) -> None:
    planned, _ = start(store, folder)
    refuse_to_translate(store, config(folder), planned)
    shutil.rmtree(folder / "odd")
    refuse_to_translate(store, config(folder), planned)
    (folder / "even" / "0000.png").unlink()
    with pytest.raises(BudgetExceededError) as caught:
        refuse_to_translate(store, config(folder), planned)
    for words in (
        f"5 of the 8 records of run {planned.id} are no longer at {folder} (62.5%)",
        "nothing was translated: see whether the folder is mounted, or go on with `lsb translate --accept-vanished`",
    ):
        assert words in str(caught.value)
    refuse_to_translate(store, config(folder, budget={"max_vanished_fraction": 0.7}), planned)


@pytest.mark.parametrize("spoil", [lambda store, key: store.write(key, b"x"), lambda store, key: store.delete(key)])
def test_a_damaged_run_does_not_keep_another_from_starting_anew(
    store: LocalStore,
    folder: Path,
    run: Run,
    spoil: Callable[[LocalStore, str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(folder / "odd")
    for key in (run.plan["key"], run_file(run.id)):
        spoil(store, key)
        assert take_in(store, folder, budget={"max_vanished_fraction": 0}) == 4
        assert "cannot be told" in caplog.text
