"""A job over a folder that changes: what the tests of runs that carry share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lsb.audit import verify
from lsb.jobs.lineage import planned_as
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import Snapshot, manifest_table, publish
from lsb.ledger.run import Run
from lsb.metrics.scores import Scores
from lsb.pictures.encoding import encode
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, picture, run_spec


class Counting(LocalStore):
    """Sources that remember what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


class Judge:
    """The mean of an output is its only feature."""

    def score(self, sources: Any, outputs: Any, truths: Any) -> list[Scores]:
        return [Scores({}, np.full(2, np.asarray(output).mean(), np.float32)) for output in outputs]


class Pipeline:
    """A folder of images, a store, and the job that leads from one to the other."""

    def __init__(self, place: Path) -> None:
        self.folder = make_images(place / "images", 8)
        (self.folder / "bad.png").write_bytes(b"not a picture")
        self.store = LocalStore(place / "store")
        self.sources = Counting(self.folder)
        self.side_log = place / "side.log"

    def plan(self, *, fresh: bool = False, only: Any = None, **settings: Any) -> Run:
        spec = run_spec(self.store, self.sources, **settings)
        return planned_as(self.store, replace(spec, fresh=fresh, only=only))

    def translate(self, run: Run) -> None:
        for shard in run.shards():
            made = equipment(self.sources, Inverter(side_log=self.side_log), scorer=Judge())
            run_shard(self.store, run, shard, made)

    def cut_off(self, run: Run, shard: str = "00000", batches: int = 1) -> None:
        """Translate and commit so many batches of two pictures of a shard, and no more."""
        left = iter([False] * 2 * (batches - 1))  # asked before and after each batch but the first is waited for
        made = equipment(self.sources, Inverter(2, self.side_log), scorer=Judge())
        run_shard(self.store, run, shard, made, stop=lambda: next(left, True))

    def add(self, *numbers: int) -> None:
        """New files."""
        for number in numbers:
            (self.folder / f"new-{number}.png").write_bytes(encode(picture(number), "png"))

    def verdict(self, run: Run) -> int:
        """What `lsb verify` ends with; a run that was cut off is incomplete, and nothing else."""
        verdict = verify(self.store, run.id)
        assert {finding.kind for finding in verdict.findings} <= {"incomplete"}
        assert verdict.orphans == ()
        return verdict.exit_code

    def finish(self, run: Run, **options: Any) -> Snapshot:
        self.translate(run)
        return publish(self.store, run, {}, b"page", **options)

    def rows(self, run: Run) -> dict[str, dict[str, Any]]:
        return {row["source_key"]: row for row in manifest_table(self.store, run).to_pylist()}

    def actions(self, run: Run) -> dict[str, str]:
        plan = read_plan(self.store, run)
        return dict(zip(plan["key"].to_pylist(), plan["action"].to_pylist(), strict=True))

    def change(self) -> None:
        """One new file, one with other bytes, one gone."""
        (self.folder / "new.png").write_bytes(encode(picture(70), "png"))
        (self.folder / "odd" / "0001.png").write_bytes(encode(picture(71), "png"))
        (self.folder / "even" / "0004.png").unlink()

    def translated(self) -> int:
        return len(self.side_log.read_text().split())


def spoil(job: Pipeline, place: str) -> None:
    """Change a byte in the one file that a pattern means."""
    (path,) = job.store.root.glob(place)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def lose(job: Pipeline, place: str) -> None:
    (path,) = job.store.root.glob(place)
    path.unlink()
