"""What a record has cost alone stands in its row, what its shard has beside that in the log."""

from __future__ import annotations

import shutil
from typing import Any

import pyarrow as pa
import pytest

import lsb
from lsb.ledger.gates import Gates
from lsb.ledger.manifest import collect
from lsb.ledger.run import Run, open_log
from lsb.metrics.truths import OptionalTruths
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.store.usage import Usage
from lsb.translation.shard import run_shard
from lsb.views.costs import COSTS, Costs, size
from lsb.views.page_contents import gather_report
from tests.ledger import Inverter, equipment, make_images, start

SECONDS = 0.02


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Run, dict[str, dict[str, Any]]]:
    """Six pictures: one twice over, one broken since it was listed, one gone, and two with a truth."""
    top = tmp_path_factory.mktemp("costs")
    images = make_images(top / "images", 6)
    shutil.copyfile(images / "even/0000.png", images / "even/0000-again.png")
    make_images(top / "truths", 2)
    store = LocalStore(top / "store")
    run, sources = start(store, images, shard_size=20)
    (images / "odd/0003.png").unlink()
    (images / "odd/0005.png").write_bytes(b"changed")
    truths = OptionalTruths(open_sources(str(top / "truths")))
    run_shard(store, run, "00000", equipment(sources, Inverter(batch=2, seconds=SECONDS), truths=truths))
    rows = collect(store, run, gates=Gates()).rows.to_pylist()
    return store, run, {row["source_key"]: row for row in rows}


def test_a_picture_has_its_reads_its_output_and_its_share_of_the_batch(done: Any) -> None:
    *_, rows = done
    row = rows["even/0002.png"]
    assert (row["bytes_read"], row["bytes_written"]) == (row["source_bytes"], row["output_bytes"])
    assert row["requests"] == 2
    assert SECONDS / 2 <= row["device_seconds"] < SECONDS * 50
    made = [row for row in rows.values() if row["bytes_written"]]
    assert len(made) == 4
    assert sum(row["device_seconds"] for row in made) >= 2 * SECONDS  # two batches of two


def test_a_truth_that_is_read_counts(done: Any) -> None:
    *_, rows = done
    row = rows["odd/0001.png"]
    assert (row["bytes_read"], row["requests"]) == (2 * row["source_bytes"], 3)


def test_of_records_with_the_same_bytes_one_bears_the_costs(done: Any) -> None:
    *_, rows = done
    twins = [rows[f"even/0000{name}.png"] for name in ("", "-again")]
    assert len({row["output_key"] for row in twins}) == 1
    assert sorted(row["bytes_written"] for row in twins)[0] == 0 < max(row["bytes_written"] for row in twins)
    (free,) = [[row[name] for name in COSTS] for row in twins if row["bytes_written"] == 0]
    assert free == [0, 0, 0, 0]


def test_what_failed_has_cost_what_was_tried(done: Any) -> None:
    *_, rows = done
    gone, changed = rows["odd/0003.png"], rows["odd/0005.png"]
    assert [gone[name] for name in COSTS] == [None, 0, 0, 1]
    assert changed["bytes_read"] == len(b"changed")
    assert (changed["device_seconds"], changed["bytes_written"]) == (None, 0)


def test_the_commit_says_what_the_whole_shard_has_asked(done: Any) -> None:
    store, run, rows = done
    (entry,) = open_log(store, run, "00000").entries()
    sums = Usage(*(sum(row[name] for row in rows.values()) for name in ("requests", "bytes_read", "bytes_written")))
    assert entry.usage is not None
    assert entry.usage.requests > sums.requests + 3  # plan, log, hint and rows
    assert entry.usage.bytes_read > sums.bytes_read
    assert entry.usage.bytes_written > sums.bytes_written
    assert collect(store, run, gates=Gates()).usage == entry.usage


def test_pages_and_frames_show_totals_and_those_of_one_picture(done: Any) -> None:
    store, run, _ = done
    frame = lsb.open_run(f"{store.uri}/runs/{run.id}").costs.set_index("measure")
    assert list(frame.index) == list(COSTS)
    assert (frame["per_image"] * 4).tolist() == pytest.approx(frame["images"].tolist())
    assert frame.loc["requests", "shards"] > frame.loc["requests", "images"]
    assert frame["shards"].isna().tolist() == [True, False, False, False]
    report = gather_report(store, run, collect(store, run, gates=Gates()), None, open_sources(run.source))
    said = dict(report.costs)
    assert list(said) == ["device", "read", "written", "requests", "with the shards' plans, logs and tables"]
    assert (
        said["requests"] == f"{frame.loc['requests', 'images']:.0f}, {frame.loc['requests', 'per_image']:.1f} an image"
    )


def test_of_a_version_that_counted_nothing_nothing_is_claimed(done: Any) -> None:
    """Its commits have no usage, its rows no costs."""
    store, run, _ = done
    collected = collect(store, run, gates=Gates())
    rows = collected.rows
    for name in COSTS:
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.nulls(len(rows), rows.schema.field(name).type))
    costs = Costs()
    costs.add(rows)
    assert (costs.images, costs.uncounted, list(costs.in_words(None))) == (0, 5, [])
    costs.add(collected.rows)
    assert dict(costs.in_words(None))["not counted"] == "5 images of an earlier version of lsb"


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (123_456, "123 kB"), (5e9, "5 GB"), (7e15, "7e+03 TB")],
)
def test_bytes_in_words(number: float, words: str) -> None:
    assert size(number) == words
