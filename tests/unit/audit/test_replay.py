"""Replay against a translator that inverts colours, or does so nearly; the model's own replay is an e2e test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsb.audit.bench import threads_of
from lsb.audit.replay import CONDITIONS, TOLERANCES, Bench, replay
from lsb.audit.sample import sampled
from lsb.audit.verdict import Replayed, Verdict
from lsb.errors import DecodingError
from lsb.ledger.run import Run
from lsb.pictures.encoding import encode
from lsb.pictures.images import ImageInfo, decode
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.shard import run_shard
from tests.ledger import EXECUTION, Inverter, equipment, make_images, own_size, picture, start

IMAGES = 7


@dataclass
class Bungler(Inverter):
    """Inverts, but for `levels` too much in one pixel of each image."""

    levels: int = 0
    seen: list[str] = field(default_factory=list)

    def translate(self, images: Sequence[Image.Image], digests: Sequence[str] | None = None) -> list[Image.Image]:
        self.seen += digests or ()
        made = []
        for output in super().translate(images, digests):
            pixels = np.array(output)
            value = int(pixels[0, 0, 0])
            pixels[0, 0, 0] = value + self.levels if value + self.levels <= 255 else value - self.levels
            made.append(Image.fromarray(pixels))
        return made


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def begun(store: LocalStore, tmp_path: Path) -> tuple[Run, Store]:
    """A finished run whose second shard was made in batches of 2."""
    folder = make_images(tmp_path / "images", IMAGES)
    (folder / "copy.png").write_bytes((folder / "odd" / "0001.png").read_bytes())
    run, sources = start(store, folder, shard_size=4)
    run_shard(store, run, "00000", equipment(sources))
    small = replace(equipment(sources, Inverter(batch=2)), execution={**EXECUTION, "batch": 2})
    run_shard(store, run, "00001", small)
    return run, sources


def again(
    store: Store, begun: tuple[Run, Store], count: int = 100, *, levels: int = 0, seed: str = "", **elsewhere: Any
) -> tuple[list[Replayed], list[Mapping[str, Any]]]:
    """What a replay found, and the rows that benches were asked for."""
    run, sources = begun
    asked: list[Mapping[str, Any]] = []

    def bench(row: Mapping[str, Any]) -> Bench:
        asked.append(row)
        here = {name: row[name] for name in CONDITIONS} | elsewhere
        return Bench(Bungler(batch=here["batch"], levels=levels), own_size, here)

    return replay(store, run, sources, bench, count, seed), asked


def kinds(results: Sequence[Replayed]) -> set[str | None]:
    return {result.finding.kind if result.finding else None for result in results}


def test_under_the_same_conditions_the_pixels_are_the_same_to_the_bit(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    results, asked = again(store, begun)
    assert len(results) == IMAGES  # the copy has no output of its own
    assert all(result.same and result.basis == "bit" and result.differing == () for result in results)
    assert kinds(results) == {None}
    assert sorted(row["batch"] for row in asked) == [2, 4]


def test_one_level_under_the_same_conditions_is_a_difference(store: LocalStore, begun: tuple[Run, Store]) -> None:
    results, _ = again(store, begun, levels=1)
    assert kinds(results) == {"replay differs"}
    assert {result.largest for result in results} == {1}
    assert Verdict("run", tuple(r.finding for r in results if r.finding), (), {}).exit_code == 13


def test_under_other_conditions_the_tolerance_is_applied_and_the_fields_are_named(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    largest = TOLERANCES["float32"].largest
    elsewhere = {"device": "cuda: another", "instruction_set": "AVX512"}
    near, _ = again(store, begun, levels=largest, **elsewhere)
    assert kinds(near) == {None}
    assert {(result.basis, result.differing, result.same) for result in near} == {
        ("tolerance", ("device", "instruction_set"), False)
    }
    far, _ = again(store, begun, levels=largest + 1, **elsewhere)
    assert kinds(far) == {"replay differs"}
    assert all("instruction_set" in result.finding.message for result in far if result.finding)


def test_rows_that_say_nothing_of_threads_are_compared_within_the_tolerance(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    run, sources = begun
    before = LocalStore(store.root / "before")
    bare = replace(equipment(sources), execution={**EXECUTION, "threads": None})
    run, sources = start(before, Path(run.source), shard_size=8)
    run_shard(before, run, "00000", bare)
    results, _ = again(before, (run, sources), levels=1, threads=2)
    assert {(result.basis, result.differing) for result in results} == {("tolerance", ("threads",))}
    assert kinds(results) == {None}


@pytest.mark.parametrize(("said", "threads"), [(3, 3), (None, 7), (0, 7), (-3, 7), (10**9, 7)])
def test_a_row_that_asks_for_threads_that_cannot_be_gets_those_that_there_are(said: Any, threads: int) -> None:
    row: Any = {"threads": said}
    assert threads_of(row, 7) == threads


def test_a_sample_is_the_same_each_time_and_another_with_another_seed(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    first, _ = again(store, begun, 3)
    assert len(first) == 3
    assert again(store, begun, 3)[0] == first
    others = [[result.output_key for result in again(store, begun, 3, seed=seed)[0]] for seed in "abcd"]
    assert any(keys != [result.output_key for result in first] for keys in others)


def test_a_source_that_is_gone_or_changed_is_unverifiable(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path
) -> None:
    (tmp_path / "images" / "even" / "0000.png").unlink()
    (tmp_path / "images" / "even" / "0002.png").write_bytes(encode(picture(99), "png"))
    results, _ = again(store, begun)
    found = {result.source_key: result.finding.message for result in results if result.finding}
    assert found.keys() == {"even/0000.png", "even/0002.png"}
    assert "no object" in found["even/0000.png"]
    assert "not the ones that were translated" in found["even/0002.png"]
    assert kinds(results) == {None, "unverifiable"}


def test_another_size_is_a_difference(store: LocalStore, begun: tuple[Run, Store]) -> None:
    class Cutter(Inverter):
        def translate(self, images: Sequence[Image.Image], digests: Any = None) -> list[Image.Image]:
            return [image.crop((0, 0, 2, 2)) for image in images]

    run, sources = begun
    results = replay(store, run, sources, lambda row: Bench(Cutter(), own_size, {**row, "device": "another"}), 1)
    assert kinds(results) == {"replay differs"}


def test_a_lossy_output_is_compared_after_encoding(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 2), image_format="jpeg")
    run_shard(store, run, "00000", equipment(sources))
    results, _ = again(store, (run, sources))
    assert all(result.same for result in results)


def test_sampling_knows_names_and_seed_alone() -> None:
    names = [f"name-{number}" for number in range(50)]
    assert sampled(reversed(names), 5) == sampled(names, 5) == sorted(sampled(names, 5))
    assert sampled(names, 5, "a") != sampled(names, 5, "b")
    assert sampled(names, None) == sorted(names)
    assert sampled(names, 0) == []
    assert set(sampled(names, 5)) < set(sampled(names, 9))


def test_pictures_are_decoded_in_a_process_with_limits(
    store: LocalStore, begun: tuple[Run, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """Takes too long for all but the source of the first output."""

        left = 1

        def decode(self, data: bytes, rules: int = 0) -> tuple[Image.Image, ImageInfo]:
            self.left -= 1
            if self.left < 0:
                raise DecodingError("decode_timed_out: too long", code="decode_timed_out")
            return decode(data)

    slow = Slow()
    monkeypatch.setattr("lsb.audit.replay.shared_decoder", lambda: slow)
    found, _ = again(store, begun, 2, levels=1)
    messages = sorted(result.finding.message for result in found if result.finding)
    assert [result.finding.kind for result in found if result.finding] == ["unverifiable"] * 2
    assert "cannot be compared: decode_timed_out" in messages[1]
    assert "cannot be replayed: decode_timed_out" in messages[0]
