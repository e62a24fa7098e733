from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lsb.errors import StoreBusyError
from lsb.jobs.work.accounts import Accounts
from lsb.ledger.layout import is_rows_file, leases_folder
from lsb.ledger.leases import newest
from lsb.ledger.log.commit_log import ShardLog
from lsb.ledger.run import open_log
from lsb.store.local import LocalStore
from tests.unit.jobs.work.fleet import Fleet


def accounts_of(fleet: Fleet) -> Accounts:
    """As somebody sees them who has just begun."""
    budget = fleet.config(budget={"max_device_hours": 1.0}).budget
    return Accounts(fleet.store, fleet.run, budget, newest(fleet.store.list(leases_folder(fleet.run.id))))


def test_of_two_threads_that_look_at_once_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that renews the leases looks as well, and must not be kept waiting."""
    fleet = Fleet(tmp_path, 2)
    accounts = accounts_of(fleet)
    assert fleet.work().translated == 2
    found = newest(fleet.store.list(leases_folder(fleet.run.id)))
    inside, may = threading.Event(), threading.Event()
    listed = LocalStore.list

    def slow(store: LocalStore, prefix: str = "") -> Any:
        assert threading.current_thread() is not threading.main_thread()
        inside.set()
        assert may.wait(600)
        return listed(store, prefix)

    monkeypatch.setattr(LocalStore, "list", slow)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(accounts.look, found, [])
        try:
            assert inside.wait(600)
            accounts.look(found, [])
        finally:
            may.set()
        other.result()


def test_what_could_not_be_read_of_others_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, 4)
    accounts = accounts_of(fleet)
    assert fleet.work().translated == 4
    found = newest(fleet.store.list(leases_folder(fleet.run.id)))

    def busy(*_: object) -> Any:
        raise StoreBusyError("slow down")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "list", busy)
        with pytest.raises(StoreBusyError):
            accounts.look(found, [])
    accounts.look(found, [])
    assert {shard: dict(account.counts) for shard, account in accounts._accounts.items()} == {
        shard: {"ok": 2} for shard in fleet.run.shards()
    }


def test_what_others_have_done_is_counted_without_reading_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a look costs the same whatever the number of records in a shard."""
    fleet = Fleet(tmp_path, 4)
    accounts = accounts_of(fleet)
    assert fleet.work().translated == 4
    asked: list[str] = []
    read = LocalStore.read

    def noted(store: LocalStore, key: str, *rest: Any, **more: Any) -> Any:
        asked.append(key)
        return read(store, key, *rest, **more)

    monkeypatch.setattr(LocalStore, "read", noted)
    accounts.look(newest(fleet.store.list(leases_folder(fleet.run.id))), [])
    assert [accounts.rows(shard) for shard in fleet.run.shards()] == [2, 2]
    assert all(account.seconds > 0 for account in accounts._accounts.values())
    assert asked
    assert not [key for key in asked if is_rows_file(key)]


def test_of_a_version_whose_entries_do_not_say_when_work_began_the_rows_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, 4)
    append = ShardLog.append
    with monkeypatch.context() as patched:
        patched.setattr(ShardLog, "append", lambda *rest, started, **more: append(*rest, **more))
        assert fleet.work().translated == 4
    for shard in fleet.run.shards():
        assert [entry.started for entry in open_log(fleet.store, fleet.run, shard).entries()] == [None]
        assert accounts_of(fleet)._accounts[shard].seconds > 0
