"""One shard from end to end: read, translate, score, encode, write, commit.

    pending records ─ read, decode ─> batches ─ named ─> translate ─> encode, write ─> rows ─> commit, in parts

The stages overlap: while one batch is with the model, the outputs of the one before are encoded and written, and the
pictures of the next are read. All that is known of the work changes in the caller's thread alone. Pictures wait, at the
size that the network works at, until a batch of that size is full; none waits beyond its shard.
Two shards may have the same equipment: the second begins to read when the first has read all, and gives the model its
first batch when that has finished the first one's last.
An image's fault becomes its row; whatever else goes wrong is raised and leaves the committed parts as they are.

In flight are at most, each of them less where files are large:

    read       REQUESTS files of `lsb.store.read_ahead`, and DECODERS pictures in their own size
    waiting    LARGEST bytes of `lsb.translation.waiting`, or one picture
    named      two batches, inputs and outputs: the one with the model, and that before it or after it
    written    WRITES objects, and DECODERS outputs in their own size
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from types import TracebackType

from lsb.errors import DecodingError, EncodingError, ImageError, StoreError, UnfinishedError, UsageError
from lsb.figures import FIGURES
from lsb.ledger.plan import read_shard_plan
from lsb.ledger.run import Run
from lsb.ledger.schemas import ManifestRow, PlanRow
from lsb.observation import at_work_on
from lsb.progress import NoProgress, Progress
from lsb.redaction import redact, visible
from lsb.store.store import Store
from lsb.store.usage import counted
from lsb.translation.attempt import FREE, Attempt, costs_of
from lsb.translation.batch import Batches, Picture, Result
from lsb.translation.equipment import Equipment
from lsb.translation.hints import Hints
from lsb.translation.reading import Found, Group, Reader
from lsb.translation.waiting import Waiting

logger = logging.getLogger(__name__)

WRITES = 8  # outputs that are written at a time
BEAT_SECONDS = 60.0  # after which the hint of a picture in tiles is made young again


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard by the end of one call."""

    shard: str
    finished: bool  # every planned record of the shard has a row
    counts: dict[str, int]  # committed rows of the shard by status
    translated: int  # images that this call translated
    commits: int  # log entries that this call won


def run_shard(
    store: Store,
    run: Run,
    shard: str,
    equipment: Equipment,
    *,
    chosen: Mapping[str, int] | None = None,
    commit_seconds: float = 120.0,
    progress: Progress = NoProgress(),
    stop: Callable[[], bool] = lambda: False,
    committed: Callable[[str, Mapping[str, int]], None] = lambda shard, counts: None,
) -> ShardOutcome:
    """Do what is left of a shard, committing every `commit_seconds` and at the end.

    `stop` is asked between batches; once it says yes, the batch that the model has is finished, what is made is
    committed and the call returns unfinished. A picture in tiles, which may take hours, is left where it is, at the end
    of a batch of its tiles, and is made anew by whoever goes on. So the call ends, too, where the source cannot be
    read any more, before that is raised.
    Any number of calls may work on one shard at once: one wins each commit, the others go on from there.

    Args:
        chosen: None does every record that has no row yet. Otherwise exactly these records, each with the number of
            tries known when it was chosen: those without a row, and those whose `failed` row is not a later try.
            Final rows stay whatever is chosen.
        committed: told the shard and its rows by status after each commit.

    Raises:
        UsageError: the run has no such shard.
        TamperedError: the shard's log or plan is not what was written; nothing is written then.
        StoreError: the store or a transient fault of the sources; what is committed stays.
        ModelError: the model cannot be loaded.
    """
    if shard not in run.shards():
        raise UsageError(f"run {run.id} has no shard {shard!r}; it has {run.plan['shards']}, from 00000")
    with counted() as usage, at_work_on(run=run.id, shard=shard):
        part, limit = read_shard_plan(store, run, shard, equipment.feature_sample)
        planned = part.to_pylist()
        attempt = Attempt(store, run, shard, equipment.execution, limit, committed, chosen, usage=usage)
        attempt.refresh()
        step = f"shard {shard}"
        todo = [row["record_id"] for row in planned if attempt.due(row["record_id"])]
        progress.start(step, len(todo))
        seen = 0
        last = time.monotonic()

        def settled() -> None:
            nonlocal seen, last
            dealt_with = len(todo) - sum(map(attempt.due, todo)) + len(attempt.rows)
            progress.advance(step, max(0, dealt_with - seen))
            seen = max(seen, dealt_with)
            if time.monotonic() - last >= commit_seconds:
                attempt.commit()
                last = time.monotonic()

        with _ShardJob(attempt, equipment, stop, settled) as job:
            # More than once only where the attempt was condemned meanwhile and lost what it had made.
            while any(map(attempt.due, todo)) and not job.ended:
                job.work(planned)
                attempt.commit()
            job.leave()
        progress.finish(step)
        return ShardOutcome(
            shard=shard,
            finished=all(row["record_id"] in attempt.done for row in planned),
            counts=attempt.counts,
            translated=attempt.translated,
            commits=attempt.commits,
        )


@dataclass
class _ShardJob:
    """Reads, translates and writes for an attempt."""

    attempt: Attempt
    equipment: Equipment
    stop: Callable[[], bool]
    settled: Callable[[], None]  # called where all that was written has its rows, which may be committed then
    ended: bool = False  # before its end
    left: bool = False  # in the middle of a picture in tiles
    hints: Hints = field(init=False)
    model: Batches = field(init=False)
    reader: Reader = field(init=False)
    in_turn: bool = False  # to ask the model
    trouble: StoreError | None = None  # the source cannot be read any more
    asked: _Asked | None = None  # the batch that the model has
    begun: Future[list[Result]] | None = None  # the one after it, where the model takes it before it has finished
    writing: list[_Writing] = field(default_factory=list)  # the batch before it

    def __post_init__(self) -> None:
        attempt = self.attempt
        self.hints = Hints(attempt.store, attempt.run.id, attempt.shard, attempt.id)
        self.model = Batches(self.equipment.model, self.hints, alive=self._between_tiles, quiet=self._let_it_end)
        self._renewed = time.monotonic()
        self.reader = Reader(attempt.store, attempt.run, self.equipment)
        self._device = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._writers = ThreadPoolExecutor(WRITES, thread_name_prefix="write")

    def __enter__(self) -> _ShardJob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for threads in (self._device, self._writers):  # what still runs may take as long as a store is waited for
            threads.shutdown(wait=False, cancel_futures=True)
        self._pass_on()

    def work(self, planned: list[PlanRow]) -> None:
        """Make the rows of what is due, or of as much as there is time for.

        Records that another attempt may have died of come last and one by one, the least suspect first, with nothing
        else at work, and what is made is committed before.
        """
        groups: dict[str, Group] = {}
        for row in planned:
            groups.setdefault(row["duplicate_of"] or row["record_id"], []).append(row)
        due = {row["record_id"] for row in planned if self.attempt.due(row["record_id"])}
        found = self.hints.suspects(due, self.attempt.tries, self.equipment.try_seconds) if due else Counter()
        self.model.deaths.update(found)
        alone = {
            leader: max(found[row["record_id"]] for row in members)
            for leader, members in groups.items()
            if any(row["record_id"] in found for row in members)
        }
        self._together(members for leader, members in groups.items() if leader not in alone)
        for number, leader in enumerate(sorted(alone, key=lambda leader: alone[leader])):
            if self.ended:
                return
            if number == 0 or alone[leader]:
                self.attempt.commit()
            self._alone(groups[leader])
            self.settled()
            self.ended = self.ended or self.stop()

    def leave(self) -> None:
        """Say that what is named and has no row is not at fault for that.

        Raises:
            StoreError: why there is no more to do.
        """
        if any(map(self.attempt.due, self.hints.named)):
            self.hints.write(())
        if self.trouble is not None:
            raise self.trouble

    def _together(self, groups: Iterable[Group]) -> None:
        with closing(self._batches(groups)) as batches:
            for batch in batches:
                self._settle()
                self.settled()
                self.ended = (self.asked is not None or not batch) and self.stop()
                if self.ended:
                    break
                if batch and self._waits_for_the_model() and self.stop():
                    self.ended = True
                    break
                pictures = self._still_due(batch)
                if not pictures:
                    continue
                self._name(pictures)
                if self.asked is not None and (answer := self.model.begin(pictures)) is not None:
                    self.begun = self._device.submit(copy_context().run, answer)
                if self._collect() and self.stop():
                    self.ended = True
                    break
                self._start(pictures)
        self._settle()
        self.settled()
        self._collect()
        self._pass_on()
        self._settle()
        self.settled()

    def _waits_for_the_model(self) -> bool:
        """Return when it is this shard's turn to ask the model; whether that took any waiting."""
        turn = self.equipment.turn
        waits = not (self.in_turn or turn.acquire(blocking=False))
        if waits:
            turn.acquire()
        self.in_turn = True
        return waits

    def _pass_on(self) -> None:
        if self.in_turn:
            self.in_turn = False
            self.equipment.turn.release()

    def _alone(self, group: Group) -> None:
        members = [row for row in group if self.attempt.due(row["record_id"])]
        if not members:
            return
        self._waits_for_the_model()
        self.hints.write([row["record_id"] for row in members], self.attempt.tries)
        if picture := self._taken(self.reader.read(members)):
            self._start([picture])
            self._collect()
            self._settle()
        self._pass_on()

    def _batches(self, groups: Iterable[Group]) -> Generator[list[Picture]]:
        """Readable pictures of what is due, of one size, as many as the model takes at a time, or fewer.

        None at all where what was read has filled no batch, so that the caller can commit or stop.
        """
        waiting = Waiting()
        try:
            yield from self._filled(waiting, groups)
        finally:
            waiting.leave()

    def _filled(self, waiting: Waiting, groups: Iterable[Group]) -> Iterator[list[Picture]]:
        with self.reader.ahead(self._due(groups)) as answers:
            taken = 0
            for answer in answers:
                try:
                    found = answer()
                except StoreError as error:
                    self.trouble, self.ended = error, True
                    return
                taken += 1
                if picture := self._taken(found):
                    waiting.add(picture)
                for batch in waiting.full(self.model.size):
                    taken = 0
                    yield batch
                if taken >= self.model.size:
                    taken = 0
                    yield []
        self.equipment.all_read()
        yield from waiting.rest(self.model.size)

    def _due(self, groups: Iterable[Group]) -> Iterator[Group]:
        # Asked anew for each: a lost commit may have brought rows of others.
        for group in groups:
            if members := [row for row in group if self.attempt.due(row["record_id"])]:
                yield members

    def _taken(self, found: Found) -> Picture | None:
        """The picture; of records that have none, the rows are made."""
        for place, one in enumerate(found.refusals):
            costs = costs_of(found.usage) if place == 0 and found.picture is None else FREE
            read: ManifestRow = {**one.read, **costs}
            if one.unusable:
                self.attempt.quarantined(one.planned, one.code, one.detail, read)
            else:
                self.attempt.failed(one.planned, one.code, one.detail, read, one.retryable)
        return found.picture

    def _still_due(self, batch: Iterable[Picture]) -> list[Picture]:
        """The same without what others have committed while it waited."""
        left = []
        for picture in batch:
            if members := [row for row in picture.members if self.attempt.due(row["record_id"])]:
                left.append(replace(picture, members=members))
        return left

    def _name(self, pictures: Iterable[Picture]) -> None:
        """Name a batch in the hint, beside the one that the model has. All others have their rows."""
        at_work = [*pictures, *(self.asked.pictures if self.asked else ()), *(one.picture for one in self.writing)]
        names = {record for picture in at_work for record in picture.records}
        if not names <= self.hints.named:
            self.hints.write(names, self.attempt.tries)

    def _start(self, pictures: list[Picture]) -> None:
        """Give a batch to the model, which has none, or has this one already."""
        self._name(pictures)  # again where pictures of the batch before were tried alone
        started = datetime.now(UTC)
        ask, self.begun = self.begun, None
        if ask is None and not self.model.tried_alone(pictures):
            ask = self._device.submit(copy_context().run, self.model.ask, pictures)
        self.asked = _Asked(pictures, started, ask)

    def _collect(self) -> bool:
        """Wait for the batch that the model has, and begin to write its outputs; whether there was one."""
        asked, self.asked = self.asked, None
        if asked is None:
            return False
        try:
            results = self.model.translate(asked.pictures, asked.answer.result if asked.answer else None)
        except UnfinishedError:
            if not self.left:
                raise
            return True
        FIGURES.batch(sum(result.made.seconds or 0 for result in results if result.made))
        self._name(asked.pictures)
        for picture, result in zip(asked.pictures, results, strict=True):
            made = None
            if result.made is not None:
                write = partial(self.attempt.write, picture, result, asked.started, self.equipment.decoder)
                made = self._writers.submit(copy_context().run, write)
            self.writing.append(_Writing(picture, result, made))
        return True

    def _let_it_end(self) -> None:
        """What was begun meanwhile is no part of what is found out about a batch that failed."""
        if self.begun is not None:
            wait([self.begun])

    def _between_tiles(self) -> None:
        """After each batch of them, in whichever thread asks the model."""
        if self.stop():
            self.left = self.ended = True
            raise UnfinishedError("a picture in tiles was left for the next run")
        if time.monotonic() - self._renewed >= BEAT_SECONDS:
            self.hints.renew()
            self._renewed = time.monotonic()

    def _settle(self) -> None:
        """Make the rows of the batch whose outputs are being written, when they are."""
        for one in self.writing:
            if one.result.problem is not None:
                self.attempt.give_up(one.picture, one.result.problem, one.result.batch)
            if one.made is None or one.result.made is None:
                continue
            try:
                written = one.made.result()
            except (ImageError, DecodingError, EncodingError) as error:
                self.attempt.give_up(one.picture, error, one.result.batch)
                continue
            self.attempt.keep(one.picture, one.result, written)
            if one.result.made.unscored is not None:
                name = visible(one.picture.members[0]["key"])
                about = {"attempt": self.attempt.id, "record": one.picture.leader}
                logger.warning("no scores for %s: %s", name, redact(str(one.result.made.unscored)), extra=about)
        self.writing = []


@dataclass(frozen=True)
class _Asked:
    """A batch that the model has; no answer comes by itself where its one picture is tried for the last time."""

    pictures: list[Picture]
    started: datetime
    answer: Future[list[Result]] | None


@dataclass(frozen=True)
class _Writing:
    """An output that is being written, or a picture that has none."""

    picture: Picture
    result: Result
    made: Future[ManifestRow] | None
