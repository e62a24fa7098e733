"""The scheduled flows beside translation, as they run where Prefect's server is lost: plain functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from flows import upkeep
from flows.upkeep import clean_up, rerun_failures, verify_job
from lsb.errors import StoreBusyError, TamperedError, UsageError
from lsb.fields import Absolute
from lsb.ledger.publish import publish
from lsb.ledger.run import Run
from lsb.ledger.selection import Selection
from lsb.store.local import LocalStore
from tasks.guarded import connection
from tests.ledger import make_images, start, translate_all


@pytest.fixture(autouse=True)
def _no_server() -> Iterator[None]:
    connection.connect(lambda said: None)
    connection.lose(OSError("none in these tests"))
    yield
    connection.connect()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def run(store: LocalStore, tmp_path: Path) -> Run:
    """A published run."""
    run, sources = start(store, make_images(tmp_path / "images", 2))
    translate_all(store, run, sources)
    publish(store, run, {"unmeasured": "in a test"}, b"<html></html>")
    return run


def test_verification_tells_an_intact_run_from_one_that_is_not(store: LocalStore, run: Run) -> None:
    found = verify_job(store.uri, run.job)
    assert found["run"].endswith(run.id)
    assert found["checked"]["outputs"] == 2
    assert verify_job(store.uri, run.job, sample=0, snapshot=found["snapshot"])["checked"].get("outputs", 0) == 0
    with pytest.raises(TamperedError, match=r"is tampered, 1 findings: snapshot 0+ is none of this run"):
        verify_job(store.uri, run.job, snapshot="0" * 64)
    next(Path(store.uri).rglob("*.png")).unlink()
    with pytest.raises(TamperedError, match=rf"run {run.id} is tampered, 1 findings: "):
        verify_job(store.uri, run.job)


def test_an_unpublished_job_has_nothing_to_verify_or_to_try_again(store: LocalStore, tmp_path: Path) -> None:
    run, _ = start(store, make_images(tmp_path / "images", 1))
    for flow in (verify_job, rerun_failures):
        with pytest.raises(UsageError, match=f"job {run.job} has no published run"):
            flow(store.uri, run.job)


def test_failures_are_tried_again_with_the_runs_own_settings(
    store: LocalStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def rerun(*arguments: Any) -> str:
        asked.append(arguments)
        if len(asked) == 1:
            raise StoreBusyError("busy")
        return "done"

    monkeypatch.setattr(upkeep, "rerun_records", rerun)
    monkeypatch.setattr(upkeep, "config_of", lambda run, store: ("the settings of", run.id, store.uri))
    monkeypatch.setattr("flows.retries.WAIT_SECONDS", 0.0)
    chosen = Selection(codes=("source_missing",))
    assert rerun_failures(store.uri, run.job, chosen, retries=1) == "done"
    assert asked == [(("the settings of", run.id, store.uri), run.id, chosen)] * 2


def test_clean_up_counts_and_says_which_run_it_left_alone(store: LocalStore, run: Run) -> None:
    assert clean_up(store.uri) == {"deleted": {}, "bytes": 0, "dry_run": False}
    next(Path(store.uri).rglob("shards/*/log/*.json")).write_text("{}")
    with pytest.raises(TamperedError, match="1 runs are damaged and were left alone: "):
        clean_up(store.uri, dry_run=True)


@pytest.mark.parametrize("place", ["store", "./store", "s3://user:password@bucket/store"])
def test_a_place_that_a_worker_could_not_mean_is_refused(place: str) -> None:
    with pytest.raises(ValidationError, match=r"relative|credentials"):
        TypeAdapter(Absolute).validate_python(place)
