from __future__ import annotations

from pathlib import Path

import pytest

from lsb.errors import TamperedError, UnverifiableError
from lsb.ledger.log.snapshots import SnapshotLog, snapshot_document
from lsb.store.local import LocalStore

DOCUMENT = snapshot_document(1, {"metrics.json": "0" * 64}, {}, {"ok": 1}, 1, {}, {})


@pytest.fixture
def log(tmp_path: Path) -> SnapshotLog:
    return SnapshotLog(LocalStore(tmp_path), "job-0123456789ab", "r" * 64)


def test_a_condemned_folder_is_no_snapshots_folder_any_more(log: SnapshotLog) -> None:
    first = log.append(None, DOCUMENT)
    assert first is not None
    condemnation = log.condemn(log.history().head, folders=[2, 1], reason="clean-up")
    history = log.history()
    assert (history.snapshots, history.condemned, history.head) == ([first], {1, 2}, condemnation)
    assert log.append(history.links[0], DOCUMENT) is None
    assert log.append(condemnation, {**DOCUMENT, "folder": 2}) is not None
    with pytest.raises(TamperedError, match=r"00000002\.json cites folder 2, which was condemned before"):
        log.history()
    assert log.scan()[0].snapshots == [first]


def test_an_entry_of_an_unknown_kind_is_unverifiable(log: SnapshotLog) -> None:
    log.append(None, {**DOCUMENT, "kind": "praise"})
    with pytest.raises(UnverifiableError, match=r"00000000\.json is a 'praise'"):
        log.history()
