"""A whole job of which nothing lies on this machine: pictures, model, truths and ledger are on object storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsb.store.store import open_store
from tests.e2e.jobs import PICTURES, Job, lsb, make_job


def upload(folder: Path, uri: str) -> str:
    store = open_store(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return uri


@pytest.fixture
def job(tmp_path: Path, model: Path, s3_uri: str) -> Job:
    made = make_job(tmp_path, model)
    source = upload(made.source, f"{s3_uri}/flat")
    truth = upload(made.source.with_name("3d"), f"{s3_uri}/3d")
    return made.changed(
        "s3",
        store=f"{s3_uri}/ledger",
        model=upload(model, f"{s3_uri}/models/tiny"),
        source__path=source,
        evaluate={"target": truth, "truth": truth, "sample": 4},
    )


@pytest.mark.usefixtures("server")
def test_a_job_on_s3(job: Job, s3_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = lsb(capsys, "run", job.config, "--dry-run", "--json")
    assert (dry.code, dry.json["pending"], open_store(f"{s3_uri}/ledger").list()) == (0, PICTURES - 1, []), dry.err

    first = lsb(capsys, "run", job.config, "--json")
    assert first.code == 0, first.err
    assert (first.json["translated"], first.json["counts"]["ok"]) == (PICTURES - 2, PICTURES - 1)
    run = first.json["run"]
    assert run.startswith(f"{s3_uri}/ledger/runs/tiny-")
    before = open_store(f"{s3_uri}/ledger").list()

    second = lsb(capsys, "run", job.config, "--json")
    assert (second.code, second.json["translated"], second.json["run"]) == (0, 0, run), second.err
    assert open_store(f"{s3_uri}/ledger").list() == before

    assert lsb(capsys, "status", run, "--json").json["shards"]["done"] == 3
    verified = lsb(capsys, "verify", run, "--json")
    assert (verified.code, verified.json["verdict"], verified.json["orphans"]) == (0, "intact", 0)
    exported = lsb(capsys, "export", run, tmp_path / "out", "--json")
    assert (exported.code, exported.json["written"]) == (0, PICTURES - 1)
    assert lsb(capsys, "report", run, "--out", tmp_path / "page.html").code == 0
    assert "garbage.png" in (tmp_path / "page.html").read_text()

    victim = next(entry.key for entry in before if entry.key.endswith(".png"))
    open_store(f"{s3_uri}/ledger").delete(victim)
    broken = lsb(capsys, "verify", run)
    assert (broken.code, victim in broken.err) == (10, True)


@pytest.mark.usefixtures("server")
def test_a_bucket_that_is_not_there(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    for setting in ("store", "source__path", "model"):
        answer = lsb(capsys, "run", job.changed("bad", **{setting: "s3://no-such-bucket/a"}).config)
        assert (answer.code, "no bucket no-such-bucket" in answer.complaint) == (3, True)
