"""Whoever keeps the public key and the newest snapshot's digest sees every change to what that snapshot names."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lsb.audit import Anchor, verify
from lsb.errors import StoreError
from lsb.ledger import layout
from lsb.ledger.attestation import Signer, read_public_key, read_signer
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, open_run
from lsb.metrics.scores import Scores
from lsb.pictures.encoding import encode
from lsb.pictures.images import decode, pixels_sha256
from lsb.records import sha256
from lsb.store.scratch import ScratchStore
from lsb.translation.shard import run_shard
from tests.forger import change_rows, edit, fields, fit, fit_job, fit_shards, fit_snapshots, logs
from tests.keys import key_pair
from tests.ledger import Inverter, equipment, make_images, picture, start, translate_all

NOTHING, KEY, DIGEST, BOTH = "nothing", "key", "digest", "both"


class Judge:
    """Gives every output features."""

    def score(self, sources: Sequence[Image.Image], outputs: Sequence[Image.Image], truths: object) -> list[Scores]:
        return [Scores({}, np.ones(2, np.float32)) for _ in outputs]


@dataclass(frozen=True)
class Case:
    """A finished run with two signed snapshots, and what is known of it elsewhere."""

    store: ScratchStore  # read only: put another one on top to change it
    run: Run
    other: ScratchStore  # the same job done anew by somebody else
    signer: Signer
    forger: Signer
    key: Path
    digest: str

    @property
    def anchors(self) -> dict[str, Anchor]:
        key = read_public_key(self.key)
        return {
            NOTHING: Anchor(),
            KEY: Anchor(key),
            DIGEST: Anchor(snapshot=self.digest),
            BOTH: Anchor(key, self.digest),
        }


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    place = tmp_path_factory.mktemp("tampering")
    folder = make_images(place / "images", 24)
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "copy.png").write_bytes((folder / "odd" / "0001.png").read_bytes())
    (private, public), (forged, _) = key_pair(place), key_pair(place, "forger")
    signer, forger = read_signer(private), read_signer(forged)
    store, other = ScratchStore(None), ScratchStore(None)
    run, sources = start(store, folder, shard_size=6)
    judge = equipment(sources, Inverter(), scorer=Judge())
    for shard in run.shards()[:3]:
        run_shard(store, run, shard, judge, stop=lambda: True)
    publish(store, run, {"kid": 2.0}, b"<html>first", partial=True, signer=signer)
    for shard in run.shards():
        run_shard(store, run, shard, judge)
    newest = publish(store, run, {"kid": 1.0}, b"<html>second", signer=signer)
    again, _ = start(other, folder, shard_size=6)
    translate_all(other, again, sources)
    publish(other, again, {"kid": 1.0}, b"<html>second", signer=forger)
    publish(other, again, {"kid": 0.5}, b"<html>third", signer=forger)
    return Case(store, run, other, signer, forger, public, newest.sha256)


Change = Callable[[ScratchStore, Case, random.Random], None]


def named(case: Case) -> list[str]:
    """Everything that the newest snapshot names, directly or through others, and its own entry."""
    keys = [entry.key for entry in case.store.list()]
    return [key for key in keys if not (key.startswith("jobs/") or layout.is_hint(key) or "/listings/" in key)]


def some(case: Case, chance: random.Random, pattern: str = "") -> str:
    return chance.choice([key for key in named(case) if re.search(pattern, key)])


# Changes to single files, after which nothing fits any more.


def flip_a_bit(store: ScratchStore, case: Case, chance: random.Random) -> None:
    key = some(case, chance)
    data = bytearray(store.read(key))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    store.write(key, bytes(data))


def delete_a_file(store: ScratchStore, case: Case, chance: random.Random) -> None:
    store.delete(some(case, chance))


def truncate_a_file(store: ScratchStore, case: Case, chance: random.Random) -> None:
    key = some(case, chance)
    data = store.read(key)
    store.write(key, data[: chance.randrange(len(data))])


def append_to_a_file(store: ScratchStore, case: Case, chance: random.Random) -> None:
    key = some(case, chance)
    store.write(key, store.read(key) + chance.randbytes(1 + chance.randrange(20)))


def swap_two_files(store: ScratchStore, case: Case, chance: random.Random) -> None:
    pattern = chance.choice([r"\.png$", r"rows-", r"features-", r"/shards/.*/log/", r"\.prompt\.json$", r"snapshots/0"])
    keys = [key for key in named(case) if re.search(pattern, key)]
    one, other = chance.sample(keys, 2)
    while store.read(one) == store.read(other):
        one, other = chance.sample(keys, 2)
    first, second = store.read(one), store.read(other)
    store.write(one, second)
    store.write(other, first)


def put_an_older_version_in_place(store: ScratchStore, case: Case, chance: random.Random) -> None:
    folder, log = layout.snapshots_folder(case.run.id), layout.snapshot_log(case.run.id)
    names = [f"{folder}/00000001/{name}" for name in ("manifest.parquet", "metrics.json", "attestation.json")]
    key = chance.choice([*names, f"{log}/00000001.json", f"{folder}/00000001/report/index.html"])
    store.write(key, store.read(key.replace("00000001", "00000000")))


def save_an_image_again(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """The same pixels in other bytes."""
    key = some(case, chance, r"\.png$")
    buffer = io.BytesIO()
    decode(store.read(key))[0].save(buffer, "PNG", dpi=(72, chance.randrange(73, 300)))
    store.write(key, buffer.getvalue())


def put_another_image_in_place(store: ScratchStore, case: Case, chance: random.Random) -> None:
    store.write(some(case, chance, r"\.png$"), encode(picture(chance.randrange(1000, 2000)), "png"))


def take_a_shards_last_commits_away(store: ScratchStore, case: Case, chance: random.Random) -> None:
    keys = logs(store, layout.shard_log(case.run.id, chance.choice(case.run.shards())))
    for key in keys[chance.randrange(len(keys)) :]:
        store.delete(key)


# Forgeries: the document changed fits itself again, and more or less of what is above it.


def forge_a_document(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """One field of a sealed document lost or of another kind, sealed again."""
    key = some(case, chance, r"/log/|run\.json$")
    name = chance.choice(sorted(fields(store, key).keys() - {"seal"}))
    edit(store, key, **{name: chance.choice([None, [], {}, 7, "forged"])})


def forge_a_commit(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """Rows changed and their shard's log made to fit."""
    key = some(case, chance, r"rows-")
    name, value = chance.choice(
        [("guidance", 1.0), ("source_prompt", "0" * 64), ("tries", 7), ("device", "cpu: other")]
    )
    change_rows(store, key, lambda row: {name: value})
    fit_shards(store, case.run)


def forge_an_image(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """An output, its row and everything above them made anew, without a signature."""
    key = some(case, chance, r"\.png$")
    made = picture(chance.randrange(1000, 2000))
    store.write(key, encode(made, "png"))
    new = {"output_sha256": sha256(store.read(key)), "pixels_sha256": pixels_sha256(made)}
    for rows in logs(store, key.rpartition("/")[0]):
        if "rows-" in rows:
            change_rows(store, rows, lambda row: new if row["output_key"] == key else {})
    fit(store, case.run.id)


def forge_an_image_and_sign(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """The same, signed by another key."""
    forge_an_image(store, case, chance)
    fit(store, case.run.id, case.forger)


def forge_a_report(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """Report or metrics of the newest snapshot changed, and everything above made anew."""
    name = chance.choice(["report/index.html", "metrics.json"])
    store.write(f"{layout.snapshot_folder(case.run.id, 1)}/{name}", chance.randbytes(30).hex().encode())
    fit_snapshots(store, case.run)
    fit_job(store, case.run)


def forge_the_run(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """What run.json says of the source changed, and everything above made anew."""
    edit(store, layout.run_file(case.run.id), source=f"/elsewhere/{chance.randrange(99)}")
    fit(store, case.run.id)


def move_the_time(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """When the newest snapshot was published changed; its files and attestation stay as they were signed."""
    key = logs(store, layout.snapshot_log(case.run.id))[-1]
    edit(store, key, time=f"20{chance.randrange(10, 99)}-01-01T00:00:00.000000+00:00")
    fit_job(store, case.run)


def take_the_newest_snapshot_away(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """Its entry, its files, and what the job's log says of it; or only some of these."""
    store.delete(logs(store, layout.snapshot_log(case.run.id))[-1])
    store.delete(logs(store, layout.job_log(case.run.job))[-1])
    for entry in store.list(layout.snapshot_folder(case.run.id, 1)):
        if chance.random() < 0.5:
            store.delete(entry.key)


def add_a_snapshot(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """One more, unsigned, over the same rows."""
    publish(store, open_run(store, case.run.id), {"kid": chance.random()}, b"<html>forged")


def do_the_run_anew(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """Everything deleted, and another run of the same job in its place, signed by another key."""
    for entry in store.list():
        store.delete(entry.key)
    for entry in case.other.list():
        store.write(entry.key, case.other.read(entry.key))


def take_all_snapshots_away(store: ScratchStore, case: Case, chance: random.Random) -> None:
    """And what the job's log says of them."""
    for entry in [*store.list(layout.snapshots_folder(case.run.id)), *store.list("jobs")]:
        store.delete(entry.key)


# The exit codes with nothing known, with the key, with the digest, with both. `forge_a_document` is not among them: its
# code depends on the field.
CLASSES: dict[Change, tuple[int, int, int, int]] = {
    flip_a_bit: (10, 10, 10, 10),
    delete_a_file: (10, 10, 10, 10),
    truncate_a_file: (10, 10, 10, 10),
    append_to_a_file: (10, 10, 10, 10),
    swap_two_files: (10, 10, 10, 10),
    put_an_older_version_in_place: (10, 10, 10, 10),
    save_an_image_again: (10, 10, 10, 10),
    put_another_image_in_place: (10, 10, 10, 10),
    take_a_shards_last_commits_away: (10, 10, 10, 10),
    forge_a_commit: (10, 10, 10, 10),
    forge_an_image: (0, 12, 10, 10),
    forge_an_image_and_sign: (0, 12, 10, 10),
    forge_a_report: (0, 12, 10, 10),
    forge_the_run: (0, 12, 10, 10),
    do_the_run_anew: (0, 12, 10, 10),
    add_a_snapshot: (0, 12, 10, 10),
    move_the_time: (0, 0, 10, 10),
    take_the_newest_snapshot_away: (11, 11, 10, 10),
    take_all_snapshots_away: (11, 12, 10, 10),
}


def code(case: Case, store: ScratchStore, anchor: str) -> int:
    return verify(store, case.run.id, anchor=case.anchors[anchor]).exit_code


def test_what_was_not_changed_passes(case: Case) -> None:
    assert {anchor: code(case, case.store, anchor) for anchor in case.anchors} == dict.fromkeys(case.anchors, 0)


def changes(count: int) -> Iterator[tuple[int, Change]]:
    """Each class once, then single files more often than forgeries."""
    kinds = [*CLASSES, forge_a_document]
    weights = [4 if CLASSES.get(kind, ())[:1] == (10,) or kind is forge_a_document else 1 for kind in kinds]
    yield from enumerate([*kinds, *random.Random(2024).choices(kinds, weights, k=count - len(kinds))])


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.long)])
def test_with_key_and_digest_each_of_many_random_changes_is_found(case: Case, count: int) -> None:
    """Tampered where something differs; a document of a schema that nobody knows is unverifiable."""
    for number, change in changes(count):
        store = ScratchStore(case.store)
        change(store, case, random.Random(number))
        verdict = verify(store, case.run.id, anchor=case.anchors[BOTH])
        allowed = {10} if change is not forge_a_document else {10, 12}
        assert verdict.exit_code in allowed, f"{change.__name__} with seed {number}: {verdict.findings}"


@pytest.mark.parametrize("change", CLASSES, ids=lambda change: change.__name__)
def test_what_each_class_needs_to_be_seen(case: Case, change: Change) -> None:
    store = ScratchStore(case.store)
    change(store, case, random.Random(1))
    assert tuple(code(case, store, anchor) for anchor in case.anchors) == CLASSES[change]


def test_a_schema_that_nobody_knows_and_what_cannot_be_read_are_unverifiable(case: Case) -> None:
    for key in named(case):
        verdict = verify(Locked(case.store, key), case.run.id, anchor=case.anchors[BOTH])
        assert verdict.exit_code == 12, f"{key}: {verdict.findings}"
        assert key in {finding.key for finding in verdict.findings}


class Locked(ScratchStore):
    """One object is there but cannot be read."""

    def __init__(self, under: ScratchStore, locked: str) -> None:
        super().__init__(under)
        self.locked = locked

    def read(self, key: str) -> bytes:
        if key == self.locked:
            raise StoreError(f"cannot read {key}: Permission denied", key=key)
        return super().read(key)


def test_orphans_raise_no_alarm(case: Case) -> None:
    store = ScratchStore(case.store)
    for name in ("shards/00000/0123456789abcdef/x.png", "snapshots/00000007/manifest.parquet", "note.txt"):
        store.write(f"runs/{case.run.id}/{name}", b"nobody names this")
    verdict = verify(store, case.run.id, anchor=case.anchors[BOTH])
    assert (verdict.exit_code, len(verdict.orphans)) == (0, 3)


def test_the_table_in_the_documentation_is_the_measured_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    words = {0: "unseen", 10: "tampered", 11: "incomplete", 12: "unverifiable"}
    for change, codes in CLASSES.items():
        title = change.__name__.replace("_", " ")
        assert f"| {title} | {' | '.join(words[code] for code in codes)} |" in text, title
