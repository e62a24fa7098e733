"""The ledger on each kind of store: many committers of one shard, and sources that lie there as well."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lsb.audit import verify
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import open_log, pending
from lsb.pictures.encoding import encode
from lsb.pictures.images import LETTERBOX_RULES
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.store.store import Store, open_store
from lsb.translation.shard import ShardOutcome, run_shard
from lsb.views.status import status
from tests.ledger import Inverter, equipment, make_images, picture, start, translate_all

COMMITTERS = 16
IMAGES = 8


def test_of_sixteen_committers_one_wins_each_entry_and_the_others_adopt_it(store: Store, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", IMAGES), shard_size=IMAGES)
    together = threading.Barrier(COMMITTERS)

    class Together(Inverter):
        """Nobody finishes the first batch before everybody has begun it, so that all commit at once."""

        first = True

        def translate(self, *arguments: object) -> list:  # type: ignore[type-arg]
            if self.first:
                self.first = False
                together.wait()
            return super().translate(*arguments)  # type: ignore[arg-type]

    def commit(number: int) -> ShardOutcome:
        own = open_store(store.uri)
        return run_shard(own, run, "00000", equipment(sources, Together(batch=2)), commit_seconds=1e-9)

    with ThreadPoolExecutor(COMMITTERS) as pool:
        outcomes = list(pool.map(commit, range(COMMITTERS)))
    entries = open_log(store, run, "00000").entries()
    # Whoever saw another's batch in its hint has done those images one by one.
    sizes = [sum(entry.counts.values()) for entry in entries]
    assert (sum(sizes), set(sizes) <= {1, 2}) == (IMAGES, True)
    assert sum(outcome.commits for outcome in outcomes) == len(entries)
    assert all(outcome.finished and outcome.counts == {"ok": IMAGES} for outcome in outcomes)
    rows = manifest_table(store, run).to_pylist()
    assert max(Counter(row["record_id"] for row in rows).values()) == 1
    assert {row["attempt"] for row in rows} == {entry.attempt for entry in entries}
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.checked["outputs"]) == (0, IMAGES)


def test_a_run_over_sources_in_a_store(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(6):
        store.write(f"pictures/{index}.png", encode(picture(index), "png"))
    store.write("pictures/bad.png", b"no picture")
    ledger = open_store(f"{store.uri}/ledger", create=True)
    run, sources = start(ledger, f"{store.uri}/pictures", shard_size=4)
    assert run.source == f"{store.uri}/pictures"
    translate_all(ledger, run, sources)
    assert (pending(ledger, run), status(ledger, run).records["quarantined"]) == ({}, 1)
    publish(ledger, run, {}, b"page")
    assert verify(ledger, run.id).exit_code == 0

    caplog.set_level(logging.DEBUG, logger="lsb.store.s3")
    again = ingest(open_sources(f"{store.uri}/pictures"), "noise", ledger, rules=LETTERBOX_RULES)
    assert again.version == run.dataset["version"]
    assert not [record for record in caplog.records if record.args and str(record.args[1]).endswith("0.png")]
    store.write("pictures/0.png", encode(picture(99), "png"))
    assert (
        ingest(open_sources(f"{store.uri}/pictures"), "noise", ledger, rules=LETTERBOX_RULES).version != again.version
    )
