"""One bad answer of a store accuses nobody, makes no hole, and changes nothing that is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lsb.audit import verify
from lsb.errors import NotFoundError, TamperedError
from lsb.jobs.erase import erase
from lsb.jobs.gc import clean_up
from lsb.ledger import layout
from lsb.ledger.log.commit_log import checked_data, read_checked
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, open_run
from lsb.ledger.selection import Selection
from lsb.models.prompt import Prompt, to_bytes
from lsb.prompts.finding import read_prompt
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.store.store import Entries, Store
from lsb.views.export import export
from lsb.views.status import status
from lsb.views.trace import trace
from tests.ledger import make_images, start, translate_all

IMAGES = 6


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if data else b"x"


def page(data: bytes) -> bytes:
    return b"<html>sign in</html>"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def gone(data: bytes) -> bytes:
    raise NotFoundError("no object", key="?")


class Fickle(LocalStore):
    """Gives a bad answer to the first `times` readings of every object that somebody vouches for."""

    def __init__(self, root: Path, lie: Callable[[bytes], bytes], times: int = 1) -> None:
        super().__init__(root)
        self.lie, self.times = lie, times
        self.reads: Counter[str] = Counter()
        self.lists: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        data = super().read(key)
        self.reads[key] += 1
        # Tables of data sets are looked through to save work, and what is learned from them is checked.
        return self.lie(data) if self.reads[key] <= self.times and not key.startswith("datasets/") else data

    def read_pieces(self, key: str) -> Iterator[bytes]:
        yield self.read(key)


class Forgetful(LocalStore):
    """Leaves out everything but the last object of its first listings."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lists: Counter[str] = Counter()

    def list(self, prefix: str = "") -> Entries:
        self.lists[prefix] += 1
        return super().list(prefix)[-1 if self.lists[prefix] == 1 else 0 :]


@pytest.fixture
def done(tmp_path: Path) -> tuple[LocalStore, Run, Store]:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", IMAGES), shard_size=3)
    translate_all(store, run, sources)
    publish(store, run, {"rows": []}, b"page")
    return store, run, sources


LIES = [flipped, page, cut, gone]


@pytest.mark.parametrize("lie", LIES)
def test_a_prompt_is_read_once_more(tmp_path: Path, lie: Callable[[bytes], bytes]) -> None:
    prompt = Prompt(template="a flat icon")
    key = layout.prompt_file("source", sha256(to_bytes(prompt)), learned=False)
    LocalStore(tmp_path).write(key, to_bytes(prompt))
    assert read_prompt(Fickle(tmp_path, lie), key) == prompt


@pytest.mark.parametrize("lie", LIES)
def test_reading_once_more_is_all_it_takes(
    done: tuple[LocalStore, Run, Store], tmp_path: Path, lie: Callable[[bytes], bytes]
) -> None:
    store, run, _ = done

    def fickle() -> Fickle:
        return Fickle(store.root, lie)

    assert open_run(fickle(), run.id) == run
    assert verify(fickle(), run.id).findings == ()
    assert status(fickle(), run).records["ok"] == IMAGES
    assert export(fickle(), run, tmp_path / "out").written == IMAGES
    assert current_run(fickle(), run.job) == run.id
    (traced,) = trace(fickle(), run.id, "even/0000.png")
    assert traced.output is not None
    assert traced.output["file"] == "intact"
    before = {entry.key for entry in store.list() if not layout.is_hint(entry.key)}
    cleaned = clean_up(fickle(), older_than=-1, least=-1)
    assert (cleaned.exit_code, cleaned.left_alone) == (0, {})
    assert {entry.key for entry in store.list() if not layout.is_hint(entry.key)} == before
    erased = erase(fickle(), run.id, Selection(names=("even/0000.png",)), "request 17")
    assert (len(erased.records), erased.unread) == (1, {})
    assert verify(store, run.id).exit_code == 0


@pytest.mark.parametrize("lie", LIES)
def test_what_stays_bad_is_tampered(done: tuple[LocalStore, Run, Store], lie: Callable[[bytes], bytes]) -> None:
    store, run, _ = done
    always = Fickle(store.root, lie, times=99)
    with pytest.raises(TamperedError):
        read_checked(always, run.plan["key"], run.plan["sha256"])
    assert always.reads[run.plan["key"]] == 2
    with pytest.raises(TamperedError), checked_data(always, run.plan["key"], run.plan["sha256"]):
        pass
    assert always.reads[run.plan["key"]] == 4
    assert verify(Fickle(store.root, lie, times=99), run.id).exit_code in (10, 12)


def test_a_listing_that_leaves_things_out_makes_no_gap(done: tuple[LocalStore, Run, Store], tmp_path: Path) -> None:
    store, run, _ = done
    assert verify(Forgetful(store.root), run.id).findings == ()
    before = {entry.key for entry in store.list() if not layout.is_hint(entry.key)}
    assert clean_up(Forgetful(store.root), older_than=-1, least=-1).left_alone == {}
    assert {entry.key for entry in store.list() if not layout.is_hint(entry.key)} == before


def test_what_a_listing_leaves_out_is_checked_all_the_same(done: tuple[LocalStore, Run, Store]) -> None:
    store, run, _ = done
    outputs = [entry.key for entry in store.list("runs") if entry.key.endswith(".png")]
    store.write(outputs[0], b"another picture")
    assert outputs[0] not in {entry.key for entry in Forgetful(store.root).list(layout.run_folder(run.id))}
    assert [finding.key for finding in verify(Forgetful(store.root), run.id).findings] == [outputs[0]]
