from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import lsb
from lsb.errors import TamperedError, TemporaryFileError, UnverifiableError
from lsb.ledger.log import commit_log
from lsb.ledger.log.commit_log import LogEntry, ShardLog, checked_data
from lsb.ledger.schemas import MANIFEST, write_table
from lsb.records import sha256
from lsb.store.store import Store, contents

COLUMNS = ["record_id", "status"]


@pytest.mark.parametrize("held", [2_000_000, 1_000_000, 0])
def test_a_large_object_is_checked_in_a_file(store: Store, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(commit_log, "HELD_BYTES", held)
    large = bytes(range(256)) * 5000
    store.write("a", large)
    with checked_data(store, "a", sha256(large)) as data:
        assert isinstance(data, bytes) == (held > len(large))
        assert contents(data) == large
    assert isinstance(data, bytes) or data.closed
    with pytest.raises(TamperedError, match="a differs from what was written"), checked_data(store, "a", sha256(b"")):
        pass
    with pytest.raises(TamperedError, match="b is missing"), checked_data(store, "b", sha256(b"")):
        pass


def test_without_room_for_a_file_it_is_said_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", b"12")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with checked_data(store, "a", sha256(b"12")) as data:
        assert data == b"12"
    monkeypatch.setattr(commit_log, "HELD_BYTES", 1)
    with pytest.raises(TemporaryFileError, match="TMPDIR"), checked_data(store, "a", sha256(b"12")):
        pass


@pytest.mark.parametrize("limit", [0, 3000, 9000, 20_000, 60_000])
def test_a_full_disk_is_said_wherever_it_is_noticed(limit: int) -> None:
    """Also where what is left is written when the file is closed. In a process of its own, whose files have a limit."""
    script = f"""
import resource, signal, tempfile
from lsb.errors import TemporaryFileError
from lsb.isolation import temporary_file, temporary_files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with temporary_file() as file, temporary_files():
        for _ in range(30):
            file.write(b"x" * 3001)
        file.flush()
except TemporaryFileError:
    print("said")
"""
    environment = {"PYTHONPATH": str(Path(lsb.__file__).parents[1]), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("said\n", "")


@pytest.fixture
def log(store: Store) -> ShardLog:
    return ShardLog(store, "job-0123456789ab", "r" * 64, "p" * 64, "00000")


def row(record: str, status: str) -> dict[str, object]:
    blank = {"tries": 1, "retryable": False, "nfe": 8, "tau": 1.0, "t0": 0.2, "guidance": 11.0}
    texts = ["source_key", "transform_id", "model_id", "model_digest", "source_prompt", "target_prompt", "seed"]
    return {**blank, **dict.fromkeys([*texts, "method"], "x"), "record_id": record, "status": status}


def commit(log: ShardLog, attempt: str, rows: dict[str, str], after: LogEntry | None) -> LogEntry:
    data = write_table(MANIFEST.table([row(*pair) for pair in rows.items()]), MANIFEST)
    name = f"{attempt}/rows-00000.parquet"
    log.store.write(f"runs/job-0123456789ab/shards/00000/{name}", data)
    entry = log.append(
        after.link if after else None,
        attempt=attempt,
        files={name: sha256(data)},
        rows=name,
        features=None,
        counts={"ok": len(rows)},
    )
    assert entry is not None
    return entry


def state(log: ShardLog) -> dict[str, str]:
    table = log.rows(log.entries(), columns=COLUMNS)
    return dict(zip(table["record_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def test_a_shard_without_commits_has_no_rows(log: ShardLog) -> None:
    assert log.entries() == []
    assert state(log) == {}


def test_commits_add_up(log: ShardLog) -> None:
    first = commit(log, "a1", {"r1": "ok"}, None)
    commit(log, "b2", {"r2": "quarantined"}, first)
    assert state(log) == {"r1": "ok", "r2": "quarantined"}
    assert log.entries()[0] == first


def test_a_failed_row_gives_way_to_a_later_one(log: ShardLog) -> None:
    first = commit(log, "a1", {"r1": "failed", "r2": "ok"}, None)
    second = commit(log, "b2", {"r1": "failed"}, first)
    commit(log, "c3", {"r1": "ok"}, second)
    assert state(log) == {"r1": "ok", "r2": "ok"}


@pytest.mark.parametrize("final", ["ok", "quarantined"])
def test_a_final_row_that_is_replaced_is_tampered(log: ShardLog, final: str) -> None:
    first = commit(log, "a1", {"r1": final}, None)
    commit(log, "b2", {"r1": "ok"}, first)
    with pytest.raises(TamperedError, match=r"b2/rows-00000\.parquet replaces the final row of record r1"):
        state(log)


def test_a_row_file_that_differs_or_is_gone_is_named(log: ShardLog) -> None:
    entry = commit(log, "a1", {"r1": "ok"}, None)
    log.store.write(entry.rows_key, b"x")
    with pytest.raises(TamperedError, match=r"a1/rows-00000\.parquet differs"):
        state(log)
    log.store.delete(entry.rows_key)
    with pytest.raises(TamperedError, match=r"a1/rows-00000\.parquet is missing"):
        state(log)


def test_an_entry_for_another_plan_does_not_belong(log: ShardLog) -> None:
    commit(log, "a1", {"r1": "ok"}, None)
    other = ShardLog(log.store, log.run_id, log.run_sha256, "q" * 64, log.shard)
    with pytest.raises(TamperedError, match="plan_sha256 differ"):
        other.entries()


def test_a_condemned_attempt_keeps_what_it_committed_and_commits_no_more(log: ShardLog) -> None:
    first = commit(log, "a1", {"r1": "ok"}, None)
    condemnation = log.condemn(first.link, attempts=["c3", "a1"], reason="clean-up")
    assert condemnation is not None
    history = log.history()
    assert (history.condemned, history.head) == ({"a1", "c3"}, condemnation.link)
    assert (log.entries(), history.condemnations) == ([first], [condemnation])
    assert history.named == first.digests()
    link = condemnation.link
    assert log.append(first.link, attempt="b2", files={"b2/x": "0"}, rows="b2/x", features=None, counts={}) is None
    entry = log.append(link, attempt="a1", files={"a1/x": "0"}, rows="a1/x", features=None, counts={})
    assert entry is not None
    with pytest.raises(TamperedError, match=r"00000002\.json cites attempt a1, which was condemned before"):
        log.entries()
    history, problems = log.scan()
    assert (history.commits, len(problems)) == ([first], 1)


def test_an_entry_names_nothing_outside_its_attempt(log: ShardLog) -> None:
    files = {"a1/rows": "0", "b2/image": "1"}
    with pytest.raises(TamperedError, match="names b2/image, outside its attempt's folder"):
        log.append(None, attempt="a1", files=files, rows="a1/rows", features=None, counts={})


def test_an_entry_of_an_unknown_kind_is_unverifiable(log: ShardLog) -> None:
    assert log._chain().append(None, {"kind": "praise"}) is not None
    with pytest.raises(UnverifiableError, match=r"00000000\.json is a 'praise'"):
        log.entries()
