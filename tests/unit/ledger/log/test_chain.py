from __future__ import annotations

from pathlib import Path

import pytest

from lsb.errors import StoreBusyError, TamperedError
from lsb.ledger.log import chain as chain_module
from lsb.ledger.log.chain import Chain
from lsb.store.local import LocalStore
from lsb.store.store import Data, Store


@pytest.fixture
def chain(store: Store) -> Chain:
    return Chain(store, "jobs/a/log", "lsb.test/1", {"job": "a"})


def grow(chain: Chain, count: int) -> None:
    for number in range(count):
        links = chain.links()
        assert chain.append(links[-1] if links else None, {"value": number})


def test_entries_are_read_in_order_with_their_parents(chain: Chain) -> None:
    grow(chain, 3)
    links = chain.links()
    assert [link.document["value"] for link in links] == [0, 1, 2]
    assert [link.document["parent"] for link in links] == [None, links[0].sha256, links[1].sha256]
    assert links[0].time <= links[2].time


def test_the_second_of_two_writers_is_refused(chain: Chain) -> None:
    grow(chain, 1)
    head = chain.links()[-1]
    assert chain.append(head, {"value": "first"}) is not None
    assert chain.append(head, {"value": "second"}) is None
    assert [link.document["value"] for link in chain.links()] == [0, "first"]


@pytest.mark.parametrize("missing", [0, 1])
def test_a_gap_is_tampered_and_named(chain: Chain, missing: int) -> None:
    grow(chain, 3)
    chain.store.delete(f"jobs/a/log/{missing:08d}.json")
    with pytest.raises(TamperedError, match=f"jobs/a/log/{missing:08d}.json is missing") as caught:
        chain.links()
    assert caught.value.key == f"jobs/a/log/{missing:08d}.json"


def test_a_wrong_parent_is_tampered(chain: Chain, tmp_path: Path) -> None:
    grow(chain, 2)
    other = Chain(LocalStore(tmp_path / "other"), "jobs/a/log", "lsb.test/1", {"job": "a"})
    grow(other, 1)
    chain.store.write("jobs/a/log/00000000.json", other.store.read("jobs/a/log/00000000.json"))
    with pytest.raises(TamperedError, match=r"00000001\.json names another entry before it"):
        chain.links()


def test_an_entry_of_another_log_does_not_belong(chain: Chain) -> None:
    other = Chain(chain.store, "jobs/b/log", "lsb.test/1", {"job": "b"})
    grow(other, 1)
    chain.store.write("jobs/a/log/00000000.json", chain.store.read("jobs/b/log/00000000.json"))
    with pytest.raises(TamperedError, match="does not belong here: its job differ"):
        chain.links()


def test_an_entry_at_another_number_does_not_belong(chain: Chain) -> None:
    grow(chain, 1)
    chain.store.write("jobs/a/log/00000001.json", chain.store.read("jobs/a/log/00000000.json"))
    with pytest.raises(TamperedError, match=r"00000001\.json does not belong here"):
        chain.links()


def test_other_files_beside_the_log_are_ignored(chain: Chain) -> None:
    grow(chain, 1)
    chain.store.write("jobs/a/log/00000001.json.bak", b"x")
    assert len(chain.links()) == 1


class LosesAnswers(LocalStore):
    """Says busy `times` times; with `done` the first request had succeeded all the same."""

    def __init__(self, root: Path, times: int, done: bool) -> None:
        super().__init__(root)
        self.times = times
        self.done = done

    def create(self, key: str, data: Data) -> None:
        if self.times > 0:
            self.times -= 1
            if self.done:
                super().create(key, data)
                self.done = False
            raise StoreBusyError("no answer", key=key)
        super().create(key, data)


@pytest.mark.parametrize("done", [False, True])
def test_a_lost_answer_is_no_defeat(tmp_path: Path, done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module.time, "sleep", lambda seconds: None)
    chain = Chain(LosesAnswers(tmp_path, 3, done), "jobs/a/log", "lsb.test/1", {"job": "a"})
    link = chain.append(None, {"value": 1})
    assert link is not None
    assert chain.links() == [link]


def test_a_store_that_never_answers_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module.time, "sleep", lambda seconds: None)
    chain = Chain(LosesAnswers(tmp_path, 99, False), "jobs/a/log", "lsb.test/1", {"job": "a"})
    with pytest.raises(StoreBusyError):
        chain.append(None, {"value": 1})
