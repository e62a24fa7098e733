"""Images that kill the model, hang it or do not fit, through whole shard jobs with a real process for the model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lsb.audit import verify
from lsb.ledger.layout import hints_folder
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run, pending
from lsb.pictures.encoding import encode
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.batch import DEATHS
from lsb.translation.model import Made, Model, Task
from lsb.translation.model_process import ModelProcess
from lsb.translation.shard import run_shard
from tests.ledger import Colour, Inverter, equipment, make_images, marked, marks, start

IMAGES = 8
LONG = 600.0
DEADLY, HANGING, LARGE = (1, 2, 3), (4, 5, 6), (7, 8, 9)  # pixels by which the translator knows them


@dataclass
class Sensitive(Inverter):
    """Dies of one picture, hangs at another, and has no room for more than `fits` images at a time."""

    fits: int = 99

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]:
        seen = marks(images)
        if DEADLY in seen:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGING in seen:
            threading.Event().wait()
        if (batch or self.batch) > self.fits or LARGE in seen:
            raise MemoryError(f"no room for {len(images)} images")
        return super().translate(images, digests)


def build(side_log: Path, fits: int) -> Model:
    return Model(Sensitive(batch=4, side_log=side_log, fits=fits))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def begin(store: LocalStore, tmp_path: Path, **odd: Colour) -> tuple[Run, Store]:
    folder = make_images(tmp_path / "images", IMAGES)
    for number, (name, mark) in enumerate(odd.items()):
        (folder / f"{name}.png").write_bytes(encode(marked(100 + number, mark), "png"))
    return start(store, folder, shard_size=IMAGES + len(odd))


def model(tmp_path: Path, *, fits: int = 99) -> ModelProcess:
    return ModelProcess(partial(build, tmp_path / "side.log", fits), batch=4, limit=LONG)


class Impatient(ModelProcess):
    """Gives up soon, but only where it hangs: on a busy machine any batch may take long."""

    def _ask(self, tasks: Sequence[Task], batch: int | None) -> Any:
        self.limit = 0.2 if HANGING in marks([task.image for task in tasks]) else LONG
        return super()._ask(tasks, batch)


def rows_of(store: Store, run: Run) -> dict[str, dict[str, Any]]:
    return {row["source_key"]: row for row in manifest_table(store, run, partial=True).to_pylist()}


def test_a_deadly_image_fails_and_all_others_are_translated(store: LocalStore, tmp_path: Path) -> None:
    run, sources = begin(store, tmp_path, deadly=DEADLY)
    with model(tmp_path) as process:
        outcome = run_shard(store, run, "00000", equipment(sources, process))
    assert (outcome.finished, outcome.counts) == (True, {"ok": IMAGES, "failed": 1})
    row = rows_of(store, run)["deadly.png"]
    assert (row["error_code"], row["retryable"], row["batch"]) == ("worker_died", False, 1)
    assert (row["source_width"], row["working_width"]) == (12, 12)
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.orphans) == (0, ())


def test_a_hanging_image_fails_and_may_be_tried_again(store: LocalStore, tmp_path: Path) -> None:
    run, sources = begin(store, tmp_path, hanging=HANGING)
    with Impatient(partial(build, tmp_path / "side.log", 99), batch=4, limit=LONG) as process:
        outcome = run_shard(store, run, "00000", equipment(sources, process))
    assert (outcome.finished, outcome.counts) == (True, {"ok": IMAGES, "failed": 1})
    row = rows_of(store, run)["hanging.png"]
    assert (row["error_code"], row["retryable"], row["batch"]) == ("timed_out", True, 4)


def test_rows_name_the_batch_that_fitted(store: LocalStore, tmp_path: Path) -> None:
    run, sources = begin(store, tmp_path, large=LARGE)
    with model(tmp_path, fits=2) as process:
        outcome = run_shard(store, run, "00000", equipment(sources, process))
    assert (outcome.finished, outcome.counts) == (True, {"ok": IMAGES, "failed": 1})
    rows = rows_of(store, run)
    large = rows.pop("large.png")
    assert (large["error_code"], large["retryable"], large["batch"]) == ("out_of_memory", True, 1)
    # Down to two for everybody, and to one from the batch on that the large one was in.
    assert {row["batch"] for row in rows.values()} <= {2, 1}


class Gone(BaseException):
    """Not an Exception: the process that works on the shard is killed."""


class Fatal(ModelProcess):
    """Whoever translates with it dies, together with the process that has the model, of the deadly picture."""

    def begin(self, tasks: Sequence[Task], **options: Any) -> Callable[[], list[Made]]:
        if DEADLY in marks([task.image for task in tasks]):
            raise Gone
        return super().begin(tasks, **options)


def test_a_record_that_takes_everything_along_is_found_over_several_attempts(store: LocalStore, tmp_path: Path) -> None:
    run, sources = begin(store, tmp_path, deadly=DEADLY)
    with Fatal(partial(build, tmp_path / "side.log", 99), batch=4, limit=LONG) as process:
        here = equipment(sources, process, try_seconds=0.0)
        ends = 0
        while pending(store, run):
            try:
                run_shard(store, run, "00000", here)
            except Gone:
                ends += 1
    # Once in company, and as often alone as it takes.
    assert ends == 1 + DEATHS
    row = rows_of(store, run)["deadly.png"]
    assert (row["error_code"], row["retryable"]) == ("worker_died", False)
    # Nothing but what was under way together with it was done twice.
    assert len((tmp_path / "side.log").read_text().split()) <= IMAGES + 2 * 3


def test_the_records_of_a_live_attempt_come_last_and_no_harm_is_done(store: LocalStore, tmp_path: Path) -> None:
    """One worker is in the middle of its second batch, with two of four named, while another does the whole shard."""
    run, sources = begin(store, tmp_path)
    order: list[int] = []
    batches: list[int] = []

    class Watching(Inverter):
        def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            order.append(len(images))
            return super().translate(images, *rest, **options)

    class Slow(Inverter):
        def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            batches.append(len(images))
            if len(batches) == 2:
                assert run_shard(store, run, "00000", equipment(sources, Watching(batch=2))).finished
            return super().translate(images, *rest, **options)

    outcome = run_shard(store, run, "00000", equipment(sources, Slow(batch=2)))
    assert order == [2, 2, 1, 1, 1, 1]
    assert (outcome.finished, outcome.counts, outcome.commits) == (True, {"ok": IMAGES}, 0)
    assert len(store.list(hints_folder(run.id, "00000"))) == 2
    publish(store, run, {}, b"page")
    assert verify(store, run.id).exit_code == 0
