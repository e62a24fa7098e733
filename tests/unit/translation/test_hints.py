from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lsb.errors import StoreBusyError
from lsb.store.local import LocalStore
from lsb.translation.hints import Hints

RUN = "invert-0123456789ab"
LONG = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def hints(store: LocalStore, attempt: str) -> Hints:
    return Hints(store, RUN, "00000", attempt)


def age(store: LocalStore, attempt: str, seconds: float) -> None:
    path = store.root / f"runs/{RUN}/shards/00000/hints/{attempt}.json"
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


def test_the_first_attempt_finds_nothing_and_writes_nothing(store: LocalStore) -> None:
    assert hints(store, "a").suspects(["r1"], {}, LONG) == {}
    assert store.list() == []


def test_an_attempt_has_one_small_hint_written_over_before_each_batch(store: LocalStore) -> None:
    mine = hints(store, "a")
    mine.write(["r2", "r1"], {})
    mine.write(["r3"], {"r3": 1, "r9": 4})
    (entry,) = store.list()
    assert entry.key == f"runs/{RUN}/shards/00000/hints/a.json"
    assert json.loads(store.read(entry.key)) == {
        "schema": "lsb.hint/1",
        "records": ["r3"],
        "deaths": {},
        "tries": {"r3": 1},
    }
    before = store.list()
    mine.write(["r3"], {"r3": 1})
    assert store.list() == before


def test_hints_that_are_cleaned_up_meanwhile_name_nobody(store: LocalStore) -> None:
    class Swept(LocalStore):
        def write(self, key: str, data: bytes) -> None:
            for entry in self.list():
                self.delete(entry.key)

    hints(store, "a").write(["r1"], {})
    assert hints(Swept(store.root), "b").suspects(["r1"], {}, LONG) == {}


def test_suspects_are_records_without_a_row_in_the_last_batch_of_another_attempt(store: LocalStore) -> None:
    first = hints(store, "a")
    first.write(["r1", "r2"], {})
    first.write(["r3", "r4", "r5"], {})
    assert hints(store, "b").suspects(["r1", "r2", "r4", "r5", "r6"], {}, LONG) == {"r4": 0, "r5": 0}


def test_deaths_that_were_seen_add_up_over_attempts(store: LocalStore) -> None:
    for attempt in ("a", "b"):
        mine = hints(store, attempt)
        mine.seen["r1"] += 1
        mine.write(["r7"], {})
    assert hints(store, "c").suspects(["r1"], {}, LONG) == {"r1": 2}


def test_a_lone_try_counts_once_it_is_older_than_a_try_may_take(store: LocalStore) -> None:
    hints(store, "a").write(["r1"], {})
    hints(store, "b").write(["r2", "r3"], {})
    for attempt in ("a", "b"):
        age(store, attempt, 100)
    pending = ["r1", "r2", "r3"]
    assert hints(store, "c").suspects(pending, {}, 200) == {"r1": 0, "r2": 0, "r3": 0}
    assert hints(store, "d").suspects(pending, {}, 50) == {"r1": 1, "r2": 0, "r3": 0}


def test_a_row_wipes_the_slate(store: LocalStore) -> None:
    mine = hints(store, "a")
    mine.seen["r1"] += 2
    mine.write(["r1"], {})
    assert hints(store, "b").suspects(["r1"], {"r1": 1}, LONG) == {}
    mine.write(["r1"], {"r1": 1})
    assert hints(store, "c").suspects(["r1"], {"r1": 1}, LONG) == {"r1": 2}


@pytest.mark.parametrize("data", [b"", b"[]", b'{"records": 3, "deaths": {}, "tries": {}}', b"\xff"])
def test_a_hint_that_cannot_be_read_is_passed_over(store: LocalStore, data: bytes) -> None:
    store.write(f"runs/{RUN}/shards/00000/hints/a.json", data)
    hints(store, "b").write(["r1"], {})
    assert hints(store, "c").suspects(["r1"], {}, LONG) == {"r1": 0}


def test_a_busy_store_is_not_passed_over(store: LocalStore) -> None:
    class Busy(LocalStore):
        def read(self, key: str) -> bytes:
            raise StoreBusyError("try again")

    hints(store, "a").write(["r1"], {})
    with pytest.raises(StoreBusyError):
        Hints(Busy(store.root), RUN, "00000", "b").suspects(["r1"], {}, LONG)
