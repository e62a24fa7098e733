"""A worker that is killed in one of the stages that overlap: what it leaves behind, and what the next one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lsb.audit import verify
from lsb.ledger.layout import hints_folder
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run, open_log, pending
from lsb.pictures.decoder import Decoder
from lsb.pictures.images import RULES, ImageInfo
from lsb.store.local import LocalStore
from lsb.translation.attempt import Attempt
from lsb.translation.shard import run_shard
from tests.ledger import Ahead, Inverter, equipment, make_images, start

# A server without threads does the forking: this process may have some from other tests.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
IMAGES, BATCH, KILLED_AT = 12, 2, 7  # the seventh picture, so that some are committed
STAGES = ("read", "decode", "hint", "model", "encode", "write")


class Killer:
    """Kills its process when it is asked for the last time."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def work(root: Path, folder: Path, run: Run, stage: str) -> None:
    """A worker that dies in one stage of its work. It commits as often as it can."""
    kill = Killer(KILLED_AT if stage not in ("model", "hint") else KILLED_AT // BATCH)

    class Sources(LocalStore):
        def read(self, key: str) -> bytes:
            if stage == "read":
                kill()
            return super().read(key)

    class Decoding(Decoder):
        def decode(self, data: bytes, rules: int = RULES) -> tuple[Image.Image, ImageInfo]:
            if stage == "decode":
                kill()
            return super().decode(data, rules)

    class Translating(Inverter):
        def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            if stage == "model":
                kill()
            return super().translate(images, *rest, **options)

    class Writing(LocalStore):
        def write(self, key: str, data: bytes) -> None:
            super().write(key, data)
            if stage == ("hint" if "/hints/" in key else "write" if key.endswith(".png") else "rows"):
                kill()

    if stage == "encode":
        written = Attempt.write

        def encode(self: Attempt, *arguments: Any) -> Any:
            kill()
            return written(self, *arguments)

        Attempt.write = encode  # type: ignore[method-assign]
    here = equipment(Sources(folder), Ahead(Translating(batch=BATCH)), decoder=Decoding())
    with ThreadPoolExecutor(len(run.shards())) as threads:
        for shard in run.shards():
            read = threading.Event()  # then the next one is begun
            lent = replace(here, all_read=read.set)
            threads.submit(run_shard, Writing(root), run, shard, lent, commit_seconds=1e-9)
            read.wait()


@pytest.mark.parametrize(
    ("stage", "shards"), [(stage, 1) for stage in STAGES] + [(stage, 2) for stage in ("model", "write")]
)
def test_a_kill_in_any_stage_costs_what_is_not_committed_and_no_more(tmp_path: Path, stage: str, shards: int) -> None:
    """With two shards it falls where the second has been begun and the first has not come to its end."""
    store, folder = LocalStore(tmp_path / "store"), make_images(tmp_path / "images", IMAGES)
    run, sources = start(store, folder, shard_size=IMAGES // shards)
    process = FORKS.Process(target=work, args=(store.root, folder, run, stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    committed = sum(
        sum(entry.counts.values()) for shard in run.shards() for entry in open_log(store, run, shard).entries()
    )
    left = pending(store, run)
    assert sum(left.values()) == IMAGES - committed
    assert not [found for found in verify(store, run.id).findings if found.kind != "incomplete"]
    plan = read_plan(store, run, columns=["record_id", "shard"]).to_pylist()
    for shard, count in left.items():
        log = open_log(store, run, shard)
        done = log.rows(log.entries())["record_id"].to_pylist()
        records = {row["record_id"] for row in plan if row["shard"] == shard}.difference(done)
        assert len(records) == count
        hints = [json.loads(store.read(entry.key))["records"] for entry in store.list(hints_folder(run.id, shard))]
        assert all(len(names) <= 2 * BATCH for names in hints)
        batches: list[int] = []

        class Watching(Inverter):
            def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
                batches.append(len(images))  # noqa: B023
                return super().translate(images, *rest, **options)

        assert run_shard(store, run, shard, equipment(sources, Watching(batch=BATCH))).translated == len(records)
        suspects = {record for names in hints for record in names} & records
        assert sorted(batches) == sorted([BATCH] * ((len(records) - len(suspects)) // BATCH) + [1] * len(suspects))
    publish(store, run, {}, b"page")
    assert verify(store, run.id).exit_code == 0
    assert Counter(row["status"] for row in manifest_table(store, run).to_pylist()) == {"ok": IMAGES}
