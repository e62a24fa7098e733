"""Reading, translating and writing overlap, within bounds, and change nothing of what comes out."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageOps

from lsb.jobs.stock import Stock
from lsb.ledger.layout import hints_folder
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import create_run
from lsb.pictures.decoder import DECODERS, Decoder
from lsb.pictures.encoding import encode
from lsb.pictures.images import RULES, ImageInfo, pixels_sha256
from lsb.pictures.sources import open_sources
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.store.read_ahead import REQUESTS
from lsb.translation.equipment import Equipment
from lsb.translation.model import Model
from lsb.translation.shard import WRITES, run_shard
from tests.ledger import Ahead, Inverter, equipment, make_images, marked, picture, run_spec, start

BATCH = 2
PATIENCE = 300.0  # seconds until a test is given up


@dataclass
class Count:
    """How many are at it, how many were, and how many at most at a time."""

    now: int = 0
    all: int = 0
    most: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def one(self) -> Iterator[None]:
        with self.changed:
            self.now += 1
            self.all += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.now -= 1
                self.changed.notify_all()

    def wait_for(self, number: int) -> None:
        """Until so many have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.all >= number, PATIENCE)


class CountingStore:
    """A store that counts who reads and who writes, and what."""

    def __init__(self, under: Any) -> None:
        self.under = under
        self.uri = under.uri
        self.reads, self.writes = Count(), Count()
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.under, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.requests[name] += 1
            with (self.reads if name == "read" else self.writes).one():
                return method(*arguments, **options)

        return call


class CountingDecoder(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.count = Count()

    def decode(self, data: bytes, rules: int = RULES) -> tuple[Image.Image, ImageInfo]:
        with self.count.one():
            return super().decode(data, rules)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_comes_out_is_what_each_picture_gives_by_itself(store: LocalStore, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 9)
    run, sources = start(store, folder, shard_size=20)
    run_shard(store, run, "00000", equipment(sources, Inverter(batch=BATCH)))
    rows = {row["source_key"]: row for row in manifest_table(store, run).to_pylist()}
    for index in range(9):
        expected = ImageOps.invert(picture(index))
        row = rows[f"{'odd' if index % 2 else 'even'}/{index:04d}.png"]
        assert row["pixels_sha256"] == pixels_sha256(expected)
        assert row["output_sha256"] == sha256(encode(expected, "png"))


def test_reading_goes_on_while_the_model_works_and_is_bounded(store: LocalStore, tmp_path: Path) -> None:
    images = 60
    run, plain = start(store, make_images(tmp_path / "images", images), shard_size=images)
    sources, counting, decoder = CountingStore(plain), CountingStore(store), CountingDecoder()
    ahead = REQUESTS + DECODERS + BATCH  # read, decoded, and put together
    given = 0

    class Watching(Inverter):
        def translate(self, images_: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            nonlocal given
            given += len(images_)
            sources.reads.wait_for(min(given + REQUESTS, images))
            assert sources.reads.all <= given + ahead + BATCH
            return super().translate(images_, *rest, **options)

    with decoder:
        here = equipment(sources, Watching(batch=BATCH), decoder=decoder)
        assert run_shard(counting, run, "00000", here, commit_seconds=1e-9).counts == {"ok": images}  # type: ignore[arg-type]
    assert sources.reads.most <= REQUESTS
    assert decoder.count.most <= DECODERS
    assert counting.writes.most <= WRITES + 1


def test_the_next_batch_is_with_the_model_while_the_outputs_of_the_last_are_written(
    store: LocalStore, tmp_path: Path
) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 3 * BATCH), shard_size=20)
    batches, written = Count(), count()

    class Slow(LocalStore):
        """An output is not written before the model has the next batch."""

        def write(self, key: str, data: bytes) -> None:
            if key.endswith(".png"):
                batches.wait_for(min(next(written) // BATCH + 2, 3))
            super().write(key, data)

    class Counted(Inverter):
        def translate(self, *arguments: Any, **options: Any) -> list[Image.Image]:
            with batches.one():
                return super().translate(*arguments, **options)

    here = equipment(sources, Counted(batch=BATCH))
    assert run_shard(Slow(store.root), run, "00000", here).counts == {"ok": 3 * BATCH}


def test_the_model_is_given_the_next_batch_before_it_has_ended_the_last(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 4 * BATCH), shard_size=20)
    begun, named = Count(), []

    class Asked(Ahead):
        def begin(self, *arguments: Any, **options: Any) -> Any:
            with begun.one():
                return super().begin(*arguments, **options)

    class Waiting(Inverter):
        def translate(self, *arguments: Any, **options: Any) -> list[Image.Image]:
            (hint,) = store.list(hints_folder(run.id, "00000"))
            named.append(len(json.loads(store.read(hint.key))["records"]))
            begun.wait_for(min(len(named) + 1, 4))
            return super().translate(*arguments, **options)

    here = equipment(sources, Asked(Waiting(batch=BATCH)))
    assert run_shard(store, run, "00000", here).counts == {"ok": 4 * BATCH}
    assert begun.all == 4
    assert max(named) == 2 * BATCH


def test_pictures_of_a_batch_that_failed_wait_for_the_batch_that_the_model_has_meanwhile(
    store: LocalStore, tmp_path: Path
) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 2 * BATCH), shard_size=20)
    order: list[str] = []

    class Telling(LocalStore):
        def write(self, key: str, data: bytes) -> None:
            super().write(key, data)
            if "/hints/" in key:
                order.append(f"{len(json.loads(data)['records'])} named")

    class Failing(Inverter):
        def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            if "failed" not in order:
                while "4 named" not in order:  # then the next batch is about to be here as well
                    time.sleep(0.01)
                time.sleep(0.2)
                order.append("failed")
                raise RuntimeError("cannot bear it")
            time.sleep(0.2)
            order.append(f"made {len(images)}")
            return super().translate(images, *rest, **options)

    here = equipment(sources, Ahead(Failing(batch=BATCH)))
    assert run_shard(Telling(store.root), run, "00000", here).counts == {"ok": 2 * BATCH}
    assert order[: order.index("1 named")][-2:] == ["failed", "made 2"]


class Lent(Stock):
    """One worker, whose equipment is this."""

    def __init__(self, here: Equipment) -> None:
        super().__init__(SimpleNamespace(execution=SimpleNamespace(workers=1)), None)  # type: ignore[arg-type]
        self.here = here

    def _make(self) -> Equipment:
        return self.here


def test_the_next_shard_is_read_while_the_model_has_the_last_batch_of_the_one_before(
    store: LocalStore, tmp_path: Path
) -> None:
    run, plain = start(store, make_images(tmp_path / "images", 4 * BATCH), shard_size=2 * BATCH)
    sources, first = CountingStore(plain), {row["sha256"] for row in read_plan(store, run).to_pylist()[: 2 * BATCH]}
    order: list[str] = []

    class Watching(Inverter):
        def translate(
            self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, **options: Any
        ) -> list[Image.Image]:
            assert digests is not None
            order.append("first" if {*digests} <= first else "second")
            if len(order) == 2:
                sources.reads.wait_for(3 * BATCH)
                assert not store.list(hints_folder(run.id, "00001"))  # named when the model is about to have it
            return super().translate(images, digests, **options)

    stock = Lent(equipment(sources, Watching(batch=BATCH)))
    begun = threading.Event()

    def work(shard: str) -> dict[str, int]:
        with stock.lend() as here:
            begun.set()
            return run_shard(store, run, shard, here).counts

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(work, "00000")
        assert begun.wait(PATIENCE)
        other = threads.submit(work, "00001")
        assert one.result() == other.result() == {"ok": 2 * BATCH}
    assert order == ["first", "first", "second", "second"]


def test_who_waits_for_another_shards_last_batch_begins_nothing_once_it_is_to_stop(
    store: LocalStore, tmp_path: Path
) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 4), shard_size=20)
    stopped = threading.Event()

    class Taken:
        """Another shard has the model, and gives it back when there is a wish to stop."""

        def acquire(self, blocking: bool = True) -> bool:
            if blocking:
                stopped.set()
            return blocking

        def release(self) -> None:
            pass

    here = equipment(sources, Inverter(batch=2), turn=Taken())
    outcome = run_shard(store, run, "00000", here, stop=stopped.is_set)
    assert (outcome.finished, outcome.translated) == (False, 0)
    assert not store.list(hints_folder(run.id, "00000"))


@pytest.mark.parametrize("model", [Model, Ahead])
def test_one_that_is_tried_alone_has_the_hint_to_itself_and_nothing_else_at_work(
    store: LocalStore, tmp_path: Path, model: Any
) -> None:
    folder = make_images(tmp_path / "images", 6)
    (folder / "bad.png").write_bytes(encode(marked(60, (1, 2, 3)), "png"))
    run, sources = start(store, folder, shard_size=20)
    by_digest = {row["sha256"]: row["record_id"] for row in read_plan(store, run).to_pylist()}
    counting = CountingStore(store)
    alone: list[tuple[str, list[str], int]] = []
    named: list[int] = []
    unnamed: list[str] = []

    class Looking(Inverter):
        def translate(
            self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, **options: Any
        ) -> list[Image.Image]:
            (hint,) = store.list(hints_folder(run.id, "00000"))
            records = json.loads(store.read(hint.key))["records"]
            named.append(len(records))
            unnamed.extend({by_digest[digest] for digest in digests or ()} - {*records})
            if len(images) == 1:
                alone.append((by_digest[(digests or [""])[0]], records, counting.writes.now))
            if any(image.getpixel((0, 0)) == (1, 2, 3) for image in images):
                raise RuntimeError("cannot bear it")
            return super().translate(images, digests, **options)

    assert run_shard(counting, run, "00000", equipment(sources, model(Looking(batch=3)))).counts == {
        "ok": 6,
        "failed": 1,
    }  # type: ignore[arg-type]
    assert not unnamed
    assert len(alone) >= 3
    in_its_batch = [one for one in alone if one[1] == [one[0]]]
    assert len(in_its_batch) >= 3
    assert all(writes == 0 for _, _, writes in in_its_batch)
    assert max(named) <= 6


def test_requests_an_image_from_ingest_to_snapshot(tmp_path: Path) -> None:
    """By what each image costs and what all cost once, for shards of 1,000 pictures in batches of 16."""

    def requests(images: int) -> int:
        folder = make_images(tmp_path / f"images-{images}", images)
        store = CountingStore(LocalStore(tmp_path / f"store-{images}"))
        sources = CountingStore(open_sources(str(folder)))
        run = create_run(store, run_spec(store, sources, shard_size=images))  # type: ignore[arg-type]
        run_shard(store, run, "00000", equipment(sources, Inverter(batch=16)))  # type: ignore[arg-type]
        publish(store, run, {}, b"page")  # type: ignore[arg-type]
        return sum(store.requests.values()) + sum(sources.requests.values())

    fewer, more = requests(32), requests(64)
    each = (more - fewer) / 32
    assert each <= 3 + 1 / 16
    assert each + (fewer - 32 * each) / 1000 <= 3.5
