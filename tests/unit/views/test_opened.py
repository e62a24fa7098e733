from __future__ import annotations

import zipfile
from pathlib import Path

import pandas
import pytest
from PIL import ImageChops

import lsb
from lsb.errors import UsageError
from lsb.ledger.layout import prompt_provenance
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, open_log
from lsb.store.local import LocalStore
from lsb.store.store import Store, open_store
from lsb.translation.shard import run_shard
from lsb.views import opened
from tests.ledger import equipment, make_images, picture, start, translate_all

ESTIMATE = {"value": 1.5, "low": 1.0, "high": 2.0, "reason": None}
METRICS = {"rows": [{"key": "translation", "images": 6, "kid": ESTIMATE, "fid": {**ESTIMATE, "value": None}}]}


def make_run(store: Store, images: Path) -> Run:
    folder = make_images(images, 6)
    (folder / "bad.png").write_bytes(b"no picture")
    run, sources = start(store, folder, shard_size=4)
    for side, key in run.prompts.items():  # as a prompt's words lie beside it
        store.write(prompt_provenance(side, key.rsplit("/", 1)[-1].split(".")[0]), f'{{"text": "a {side}"}}'.encode())
    translate_all(store, run, sources)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    top = tmp_path_factory.mktemp("finished")
    store = LocalStore(top / "store")
    run = make_run(store, top / "images")
    publish(store, run, METRICS, b"page")
    return run, f"{store.uri}/runs/{run.id}"


def test_records_have_proper_types(finished: tuple[Run, str]) -> None:
    frame = lsb.open_run(finished[1]).records
    assert list(frame["status"]).count("ok") == 6
    assert frame["record_id"].is_monotonic_increasing
    types = {name: str(frame[name].dtype) for name in ("tries", "source_bytes", "retryable", "source_key", "finished")}
    assert types == {
        "tries": "Int32",
        "source_bytes": "Int64",
        "retryable": "boolean",
        "source_key": "string",
        "finished": "datetime64[us, UTC]",
    }
    bad = frame[frame["source_key"] == "bad.png"].iloc[0]
    assert bad["output_bytes"] is pandas.NA
    assert bad["shard"] is pandas.NA
    assert (set(frame["source_prompt_text"]), set(frame["target_prompt_text"])) == ({"a source"}, {"a target"})
    made = frame[frame["status"] == "ok"]
    assert (made["score_output_contrast"] > 0.1).all()
    assert frame["score_output_contrast"].isna().sum() == 1
    assert made["flags"].tolist() == [[]] * 6
    assert bad["flags"] is None


def test_seconds_are_those_of_one_picture() -> None:
    start = pandas.Timestamp("2026-01-01", tz="UTC")
    ints = {"dtype": "Int32"}
    frame = pandas.DataFrame(
        {
            "started": pandas.to_datetime([start, start, start, None], utc=True),
            "finished": pandas.to_datetime([start + pandas.Timedelta(seconds=12)] * 3 + [None], utc=True),
            "batch": pandas.Series([4, 4, 4, None], **ints),
            "batch_padding": pandas.Series([None, 1, 2, None], **ints),
            "tiles": pandas.Series([None, None, 6, None], **ints),
        }
    )
    assert opened._seconds(frame).tolist()[:3] == [3.0, 4.0, 12.0]
    assert opened._seconds(frame).isna().tolist() == [False] * 3 + [True]


def test_metrics_are_a_row_for_each_set_and_measure(finished: tuple[Run, str]) -> None:
    frame = lsb.open_run(finished[1]).metrics
    assert frame[["row", "images", "measure"]].to_numpy().tolist() == [
        ["translation", 6, "kid"],
        ["translation", 6, "fid"],
    ]
    assert frame["value"].isna().tolist() == [False, True]
    assert lsb.open_run(finished[1]).metrics_document == METRICS


def test_shards_say_how_far_they_are(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 6), shard_size=4)
    run_shard(store, run, "00000", equipment(sources))
    seen = lsb.open_run(tmp_path / "store" / "runs" / run.id)
    frame = seen.shards
    columns = ["shard", "planned", "ok", "failed", "pending", "commits"]
    assert frame[columns].to_numpy().tolist() == [["00000", 4, 4, 0, 0, 1], ["00001", 2, 0, 0, 2, 0]]
    first = open_log(store, run, "00000").entries()[0].link.time
    assert frame["last_commit"].tolist() == [pandas.Timestamp(first), pandas.NaT]
    assert (len(seen.metrics), list(seen.metrics.columns)[:3]) == (0, ["row", "images", "measure"])


def test_pairs_are_the_pictures(finished: tuple[Run, str], tmp_path: Path) -> None:
    run = lsb.open_run(finished[1])
    pairs = list(run.pairs())
    assert [pair.record_id for pair in pairs] == run.records.query("status == 'ok'")["record_id"].tolist()
    for pair in pairs:
        assert pair.source is not None
        assert pair.output is not None
        number = int(Path(pair.key).stem)
        assert pair.source.tobytes() == picture(number).tobytes()
        assert ImageChops.invert(pair.source).tobytes() == pair.output.tobytes()
    last, unknown = pairs[-1].record_id, "0" * 32
    assert [pair.record_id for pair in run.pairs([last, unknown])] == [last]
    moved = next(run.pairs([last], sources=tmp_path))
    assert (moved.source, moved.output is not None) == (None, True)


def test_a_row_whose_pictures_changed_has_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run = make_run(store, tmp_path / "images")
    first, second, *_ = (row for row in store.list() if row.key.endswith(".png"))
    store.delete(first.key)
    store.write(second.key, b"another")
    pairs = list(lsb.open_run(f"{store.uri}/runs/{run.id}").pairs())
    assert sum(pair.output is None for pair in pairs) == 2
    assert all(pair.source is not None for pair in pairs)


class ReadOnly(LocalStore):
    """A store of somebody who may only read."""

    def write(self, key: str, data: bytes) -> None:
        raise AssertionError(f"writes {key}")

    create = write

    def delete(self, key: str) -> None:
        raise AssertionError(f"deletes {key}")


def test_the_right_to_read_is_enough(finished: tuple[Run, str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened_with: list[dict[str, object]] = []

    def read_only(root: str, **options: object) -> Store:
        opened_with.append(options)
        return ReadOnly(Path(root.removeprefix("file://")))

    monkeypatch.setattr(opened, "open_store", read_only)
    run = lsb.open_run(finished[1])
    assert (len(run.records), len(run.shards), len(run.metrics), len(list(run.pairs()))) == (7, 2, 2, 6)
    assert opened_with == [{}]


def test_a_run_on_s3_is_read_as_one_in_a_folder(s3_uri: str, tmp_path: Path) -> None:
    store = open_store(s3_uri)
    run = make_run(store, tmp_path / "images")
    seen = lsb.open_run(f"{s3_uri}/runs/{run.id}")
    assert (len(seen.records), len(seen.shards), len(list(seen.pairs()))) == (7, 2, 6)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(Path(__file__).parents[2] / "fixtures" / "old_store.zip") as archive:
        archive.extractall(folder)
    return folder


def test_runs_of_earlier_versions_are_read(old: Path) -> None:
    for folder in sorted((old / "store" / "runs").iterdir()):
        run = lsb.open_run(folder)
        assert len(run.records) > 0
        assert run.records["tiles"].isna().all()
        assert set(run.records["target_prompt_text"]) == {"a 3d icon"}
        inbox = old / ("listed" if run.id.startswith("listed") else "inbox")
        assert any(pair.output is not None for pair in run.pairs(sources=inbox))
        assert len(run.shards) == run.run.plan["shards"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        lsb.open_run(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match="no run job-0123456789ab"):
        lsb.open_run(tmp_path / "runs" / "job-0123456789ab")


def test_a_log_that_was_changed_is_said(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run = make_run(store, tmp_path / "images")
    rows = next(entry.key for entry in store.list() if "/rows-" in entry.key)
    store.write(rows, b"others")
    with pytest.raises(lsb.LsbError, match="rows-"):
        lsb.open_run(f"{store.uri}/runs/{run.id}").records  # noqa: B018
