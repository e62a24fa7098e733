from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lsb.cli import main as cli
from lsb.cli.commands import looking
from lsb.ledger.layout import lease_file
from lsb.ledger.leases import GONE_SECONDS, Leases
from lsb.ledger.worker import Worker, at_work
from lsb.store.local import LocalStore
from lsb.views.holders import holders
from tests.ledger import make_images, start, translate_all


def test_who_holds_what_and_who_has_not_been_heard_of(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, _ = start(store, make_images(tmp_path / "images", 5), shard_size=1)
    assert holders(store, run) == []
    ann, bob = (Leases(store, run.id, Worker(name, None, 1, None)) for name in ("ann", "bob"))
    with at_work() as ended:
        Leases(store, run.id, ended).take("00003", None)
    for leases, shard in ((ann, "00002"), (ann, "00000"), (bob, "00001"), (ann, "00004")):
        leases.take(shard, None)
    ann.give_back("00004")
    (first, second) = holders(store, run)
    assert (first.worker, first.shards, first.silent) == ("ann", ("00000", "00002"), False)
    assert (second.worker, second.shards, second.silent) == ("bob", ("00001",), False)
    old = first.seen.timestamp() - GONE_SECONDS - 1
    os.utime(store.root / lease_file(run.id, "00001", 0), (old, old))
    store.write(lease_file(run.id, "00001", 0, back=False).replace("00001-", "00009-"), b"of nobody")
    (first, second) = holders(store, run)
    assert (first.silent, second.silent) == (False, True)
    assert second.seen.timestamp() == pytest.approx(old)


def test_a_run_is_watched_until_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 4), shard_size=2)
    Leases(store, run.id, Worker("ann", None, 1, None)).take("00001", None)
    uri = f"{store.uri}/runs/{run.id}"
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        if not seconds:  # the translator's
            return
        pauses.append(seconds)
        if len(pauses) == 2:  # nothing has changed the first time
            translate_all(store, run, sources)

    monkeypatch.setattr(looking.time, "sleep", pause)
    assert cli.run_command(["status", uri, "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "0 of 4 records, pending 4; ann holds 00001",
        "4 of 4 records, ok 4; ann holds 00001",
    ]
    assert len(pauses) == 2
    assert min(pauses) >= looking.WATCHED_SECONDS
    assert cli.run_command(["status", uri, "--watch", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["records"]["ok"] == 4
    assert [(one["worker"], one["shards"]) for one in found["at_work"]] == [("ann", ["00001"])]
    assert cli.run_command(["status", uri]) == 0
    assert "ann holds 00001, last seen " in capsys.readouterr().out
