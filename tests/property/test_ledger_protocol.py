"""No course of events breaks the ledger's promises; and each rule of the protocol is needed for that.

Two workers, clean-up and a publisher run their real code, request by request, in whatever order and with whatever
requests lost, late or cut off by death. Clean-up spares nothing for its age, which is the worst that could happen. So
do a worker, a publisher, clean-up, somebody who erases an image, and two who plan the next run over more images.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from PIL import Image

from lsb.audit import verify
from lsb.errors import AlreadyExistsError, LsbError, StoreBusyError, UsageError
from lsb.jobs.erase import erase
from lsb.jobs.gc import clean_up
from lsb.jobs.lineage import planned_as
from lsb.ledger import layout
from lsb.ledger import run as ledger_run
from lsb.ledger.carrying import read_manifest, unchanged
from lsb.ledger.gates import Gates
from lsb.ledger.log import chain
from lsb.ledger.log.chain import Chain, Link
from lsb.ledger.log.commit_log import ShardLog
from lsb.ledger.log.snapshots import SnapshotLog
from lsb.ledger.manifest import collect
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run, RunSpec, create_run, open_log, open_run, pending
from lsb.ledger.selection import Selection
from lsb.pictures.encoding import encode
from lsb.records import sha256
from lsb.store import read_ahead
from lsb.store.store import Data, Store
from lsb.translation import shard
from lsb.translation.attempt import Attempt
from lsb.translation.model import Model
from lsb.translation.shard import run_shard
from tests.interleaving import Death, MemoryStore, View, World
from tests.ledger import EXECUTION, Equipment, own_size, picture, run_spec

IMAGES = 3
FAULTS = 4
TAPES = st.lists(st.integers(0, 255), min_size=30, max_size=110)


@dataclass
class Tinter:
    """Every worker's device gives other pixels, so that no file can pass for another's."""

    tint: int
    batch: int = 1

    def translate(self, images: Sequence[Image.Image], digests: Sequence[str] | None = None) -> list[Image.Image]:
        return [image.point(lambda value: value ^ self.tint) for image in images]


def begin() -> tuple[MemoryStore, Run, MemoryStore, RunSpec]:
    """A planned run in a store, its sources, and what the next run is to be, for which there is one picture more."""
    sources, store = MemoryStore(), MemoryStore()
    for index in range(IMAGES):
        sources.write(f"{index}.png", encode(picture(index, (4, 4)), "png"))
    run = create_run(store, run_spec(store, sources, shard_size=IMAGES))
    sources.write(f"{IMAGES}.png", encode(picture(IMAGES, (4, 4)), "png"))
    return store, run, sources, run_spec(store, sources, shard_size=IMAGES)


class AtOnce(Executor):
    """Does what it is given before it returns."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, act: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(act(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 told by `result`, as in any executor
            done.set_exception(error)
        return done


@pytest.fixture(scope="module", autouse=True)
def one_request_at_a_time() -> Iterator[None]:
    """So that each actor stands before one request, and a tape gives one course of events."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_ahead, "REQUESTS", 1)
        patch.setattr(ledger_run, "LOGS", 1)
        patch.setattr(shard, "ThreadPoolExecutor", AtOnce)
        yield


PLANNED, RUN, SOURCES, NEXT = begin()
ERASED = Selection(names=("0.png",))


def work(name: str, tint: int) -> Callable[[View], Any]:
    equipment = Equipment(
        model=Model(Tinter(tint)), sources=SOURCES, execution={**EXECUTION, "device": name}, frame=own_size
    )
    return lambda store: run_shard(store, RUN, "00000", equipment, commit_seconds=1e-9)


def clean(store: View) -> None:
    for _ in range(2):
        clean_up(store, older_than=-1, least=-1)


def release(store: View) -> None:
    publish(store, RUN, {"rows": []}, b"page", partial=True)


def erase_one(store: View) -> None:
    with suppress(UsageError):  # it has no row yet
        erase(store, RUN.id, ERASED, "request 17")


def plan_next(store: View) -> Run:
    return planned_as(store, NEXT)


def all_that_is_named_is_there(store: MemoryStore) -> None:
    """At every moment: what an entry names, or a snapshot, lies there as it was named, or was erased."""
    named: dict[str, str] = {}
    erased: set[str] = set()
    for key, (data, _) in store.objects.items():
        if "/log/" not in key or not key.startswith("runs/"):
            continue
        entry = json.loads(data)
        folder = key.split("/log/")[0]
        if entry["kind"] == "condemn":
            gone = entry["erased"] if "erased" in entry else (entry["erasure"] or {"erased": []})["erased"]
            erased.update(f"{folder}/{name}" for name in gone)
            continue
        if entry["kind"] == "snapshot":
            folder += f"/{entry['folder']:08d}"
        named |= {f"{folder}/{name}": digest for name, digest in entry["files"].items()}
    for key in named.keys() - erased:
        assert key in store.objects, f"{key} is named by an entry and gone"
        assert sha256(store.read(key)) == named[key], f"{key} is another than an entry names"


def course_of(tape: Sequence[int], *, conditional: bool = True) -> None:
    """Play a tape, then finish the work, and check everything."""
    store = MemoryStore(dict(PLANNED.objects), conditional=conditional)
    world = World(store, all_that_is_named_is_there)
    names = {name: world.add(name, work(name, tint)) for name, tint in (("ann", 1), ("bob", 2))}
    world.add("clean-up", clean)
    world.add("publisher", release)
    numbers = iter(tape)
    world.play(numbers, FAULTS)
    story = "\n".join(world.course)
    assert world.broken is None, f"{world.broken}\n{story}"
    for actor in world.actors:
        expected = not isinstance(actor.result, BaseException) or isinstance(actor.result, StoreBusyError | Death)
        assert expected, f"{actor.name} ended with {actor.result!r}\n{story}"

    # Whoever comes next finds everything in order, and finishes.
    try:
        run_shard(
            store, RUN, "00000", Equipment(model=Model(Tinter(3)), sources=SOURCES, execution=EXECUTION, frame=own_size)
        )
        publish(store, RUN, {"rows": []}, b"page")
        clean_up(store, older_than=-1, least=-1)
    except LsbError as error:
        raise AssertionError(f"nobody can finish it: {error!r}\n{story}") from error
    assert pending(store, RUN) == {}, story
    rows = manifest_table(store, RUN).to_pylist()
    assert Counter(row["status"] for row in rows) == {"ok": IMAGES}, story
    verdict = verify(store, RUN.id)
    assert verdict.findings == (), f"{verdict.findings}\n{story}"
    assert verdict.orphans == (), f"{verdict.orphans}\n{story}"
    # A worker that came to its end knows what it has committed.
    makers = Counter()
    log = open_log(store, RUN, "00000")
    for entry in log.entries():
        makers[log.table(entry)["device"][0].as_py()] += 1
    for name, actor in names.items():
        if not isinstance(actor.result, BaseException):
            assert actor.result.commits == makers[name], f"{name} miscounts its commits\n{story}"


def course_of_planning(tape: Sequence[int]) -> None:
    """Likewise, while two plan the next run, which goes on from this one, and an image is erased."""
    store = MemoryStore(dict(PLANNED.objects))
    world = World(store, all_that_is_named_is_there)
    planners = [world.add(name, plan_next) for name in ("planner", "other planner")]
    world.add("ann", work("ann", 1))
    world.add("clean-up", clean)
    world.add("publisher", release)
    world.add("eraser", erase_one)
    world.play(iter(tape), FAULTS)
    story = "\n".join(world.course)
    assert world.broken is None, f"{world.broken}\n{story}"
    for actor in world.actors:
        expected = not isinstance(actor.result, BaseException) or isinstance(actor.result, StoreBusyError | Death)
        assert expected, f"{actor.name} ended with {actor.result!r}\n{story}"

    last = Equipment(model=Model(Tinter(3)), sources=SOURCES, execution=EXECUTION, frame=own_size)
    try:
        following = planned_as(store, NEXT)
        for run in (RUN, following):  # the first one goes on after the next was planned
            for shard in run.shards():
                run_shard(store, run, shard, last)
            publish(store, run, {"rows": []}, b"page")
        erase(store, RUN.id, ERASED, "request 17")
        clean_up(store, older_than=-1, least=-1)
    except LsbError as error:
        raise AssertionError(f"nobody can finish it: {error!r}\n{story}") from error
    for planner in planners:
        assert isinstance(planner.result, BaseException) or planner.result == following, story
    for run, images in ((RUN, IMAGES), (following, IMAGES + 1)):
        verdict = verify(store, run.id)
        assert verdict.findings == (), f"{verdict.findings}\n{story}"
        assert verdict.orphans == (), f"{verdict.orphans}\n{story}"
        rows = {row["source_key"]: row["status"] for row in manifest_table(store, run).to_pylist()}
        assert (len(rows), set(rows.values()) <= {"ok", "erased"}) == (images, True), story
    # All that the parent's snapshot holds is carried, and nothing else.
    carried = read_plan(store, following)
    carried = carried.filter(pc.equal(carried["action"], "carry"))["key"].to_pylist()
    held = [] if following.parent is None else read_manifest(store, following.parent)["source_key"].to_pylist()
    assert carried == held, story
    assert following.parent is None or following.parent["run"] == RUN.id, story
    seen["carried"].add(len(carried))
    seen["snapshots"].add(verify(store, RUN.id).checked["snapshots"])


seen: dict[str, set[int]] = {"carried": set(), "snapshots": set()}  # by the courses of one exploration


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.time, "sleep", lambda seconds: None)


def explore(examples: int, course: Callable[..., None] = course_of, **more: Any) -> None:
    @settings(
        derandomize=True,
        max_examples=examples,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(TAPES)
    def holds(tape: list[int]) -> None:
        course(tape, **more)

    try:
        holds()
    except FlakyFailure as failure:  # attempts are named by chance: what breaks a promise once need not do so again
        raise failure.exceptions[0] from failure


@pytest.mark.parametrize("courses", [20, pytest.param(150, marks=pytest.mark.long)])
def test_no_course_of_events_breaks_a_promise(courses: int) -> None:
    explore(courses)


@pytest.mark.parametrize("courses", [12, pytest.param(100, marks=pytest.mark.long)])
def test_no_course_of_events_breaks_a_promise_while_the_next_run_is_planned(courses: int) -> None:
    for numbers in seen.values():
        numbers.clear()
    explore(courses, course_of_planning)
    # They do come in the middle of the other's work.
    assert len(seen["carried"]) > 1
    assert len(seen["snapshots"]) > 1


def no_attempt_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        layout, "attempt_folder", lambda run, shard, attempt: f"{layout.shard_folder(run, shard)}/{'0' * 16}"
    )
    monkeypatch.setattr(ShardLog, "_check_place", lambda *_: None)


def refused_means_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(self: Chain, after: Link | None, document: Any) -> Link | None:
        link = appended(self, after, document)
        return None if refusals.pop(self.log, False) else link

    class Remembering:
        """The store, and whether it has refused a creation."""

        def __init__(self, store: Any, log: str) -> None:
            self.store, self.log = store, log

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def create(self, key: str, data: Data) -> None:
            try:
                self.store.create(key, data)
            except AlreadyExistsError:
                refusals[self.log] = True
                raise

    refusals: dict[str, bool] = {}
    appended = Chain.append
    monkeypatch.setattr(
        Chain,
        "append",
        lambda self, after, document: append(
            Chain(Remembering(self.store, self.log), self.log, self.schema, self.identity), after, document
        ),
    )


def cleaning_up_without_condemning(monkeypatch: pytest.MonkeyPatch) -> None:
    def condemned(self: Any, after: Link | None, **_: Any) -> bool:
        return True

    monkeypatch.setattr(ShardLog, "condemn", condemned)
    monkeypatch.setattr(SnapshotLog, "condemn", condemned)


def taking_over_what_others_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker finds an image of its record that nobody has named yet, and names it in place of its own."""

    def keep(self: Attempt, picture: Any, *more: Any) -> None:
        folder = layout.shard_folder(self.run.id, self.shard)
        found = [entry.key for entry in self.store.list(folder) if entry.key.endswith(f"{picture.leader}.png")]
        kept(self, picture, *more)
        if found:
            self.objects[found[0]] = self.objects[self.rows[-1]["output_key"]]
            self.rows[-1]["output_key"] = found[0]

    kept = Attempt.keep
    monkeypatch.setattr(Attempt, "keep", keep)
    monkeypatch.setattr(ShardLog, "_check_place", lambda *_: None)


@pytest.mark.parametrize(
    "breach",
    [
        no_attempt_in_the_key,
        taking_over_what_others_left,
        pytest.param(refused_means_lost, marks=pytest.mark.long),
        pytest.param(cleaning_up_without_condemning, marks=pytest.mark.long),
    ],
    ids=lambda breach: breach.__name__,
)
def test_without_a_rule_some_course_breaks_a_promise(
    monkeypatch: pytest.MonkeyPatch, breach: Callable[[pytest.MonkeyPatch], None]
) -> None:
    breach(monkeypatch)
    with pytest.raises(AssertionError):
        explore(150)


@pytest.mark.long
def test_if_more_was_carried_than_the_snapshot_holds_some_course_would_break_a_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def carried(store: Store, parent: dict[str, Any], records: Iterable[pa.Table]) -> pa.Array:
        run = open_run(store, parent["run"])
        rows = collect(store, run, gates=Gates()).rows
        return unchanged(rows, read_plan(store, run), pa.concat_tables(records), parent["same_decoding"])

    monkeypatch.setattr("lsb.ledger.plan.carried_by", carried)
    with pytest.raises(AssertionError, match=r"lacks \d records that are carried|does not follow from"):
        explore(100, course_of_planning)


def test_without_conditional_creation_some_course_breaks_a_promise() -> None:
    with pytest.raises(AssertionError):
        explore(150, conditional=False)
