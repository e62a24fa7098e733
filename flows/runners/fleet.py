"""Whoever watches over the copies of a run: starts them, looks at the store, starts those again that have vanished.

The store says what is done and who is at work: a copy whose lease has grown old has vanished whatever its runner says,
and one that its runner has lost out of sight is still there as long as its leases are young.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from flows.runners.part import Part, VanishedError
from flows.runners.runner import AwayError, Runner, runner_of
from flows.watching.run_log import say
from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError, UnfinishedError
from lsb.jobs.rerun import Todo, records_of, what_is_left
from lsb.jobs.work.accounts import Accounts
from lsb.jobs.work.loop import STAGE, ShardsOutcome
from lsb.ledger.leases import GONE_SECONDS, Lease, Leases
from lsb.ledger.run import Run
from lsb.ledger.worker import at_work
from lsb.observation import observer
from lsb.records import Status
from lsb.redaction import redact
from lsb.store.store import open_store

logger = logging.getLogger(__name__)

FUTILE = 3  # times that each copy may vanish without anything having been committed meanwhile
LEAST_SECONDS = 1.0  # between two questions to the runner, and between two looks at the store
MOST_SECONDS = 60.0  # between two looks, of which each of a run of many shards costs so much
SHARE = 50  # of the time between them for which it reckons, a fiftieth
OWN_END_SECONDS = 15.0  # in which copies find out that nothing is left; what is there after that is a shell
END_SECONDS = 120.0  # in which those that are asked to end finish the batch in hand


class Fleet:
    """The copies of one run, as one who watches over them knows them."""

    def __init__(
        self,
        config: JobConfig,
        run: Run,
        runner: Runner,
        leases: Leases,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._run = run
        self._runner = runner
        self._leases = leases
        self._clock = clock
        self._pause = pause
        self._store = open_store(config.store)
        self.outcome = ShardsOutcome()
        self._live: dict[str, int] = {}  # mark -> which of `execution.parallel` it is
        self._missing = list(range(config.execution.parallel))  # those to be started
        self._mark = secrets.token_hex(4)  # of the next one; the same until it is known to be started
        self._accounts = Accounts(self._store, run, config.budget, leases.look())
        self._begun = self._counts = self._accounts.tally.counts
        self._futile = 0
        self._sign = clock()  # the last time that anybody was seen to work
        self._seen: dict[str, Lease] = {}
        self._is_done = False

    def work(self, todo: Todo, stop: Callable[[], bool]) -> None:
        """Have the run translated until nothing is left, nobody comes any more, or somebody wants an end."""
        progress = observer().progress
        progress.start(STAGE, records_of(todo))
        next_look = self._clock()
        try:
            while not stop():
                if self._ask() or self._clock() >= next_look:
                    began = time.thread_time()
                    self._look(progress.advance)
                    cost = SHARE * (time.thread_time() - began)
                    next_look = self._clock() + min(MOST_SECONDS, max(LEAST_SECONDS, cost))
                    if self._is_over():
                        break
                self._start()
                self._wait(LEAST_SECONDS, stop)
        finally:
            progress.finish(STAGE)
        done = self._is_done
        self._see_out(OWN_END_SECONDS if done else 0.0)
        with _away():
            self._runner.stop([*self._live])
        self._see_out(0.0 if done else END_SECONDS)
        self._look(progress.advance)

    def _ask(self) -> bool:
        """The runner, whether copies have ended."""
        ended: dict[str, Exception | None] = {}
        with _away():
            ended = self._runner.ended()
        for mark, how in ended.items():
            self._count(mark, how)
        return bool(ended)

    def _look(self, advance: Callable[[str, int], None]) -> None:
        """At the store: what is done, and who is at work."""
        leases = self._leases.look()
        self._accounts.look(leases, ())
        counts = self._accounts.tally.counts
        more = counts.total() - self._counts.total()
        if leases != self._seen or more:
            self._seen, self._sign = leases, self._clock()
        if more:
            advance(STAGE, more)
            self._counts, self._futile = counts, 0
            self.outcome.translated = counts[Status.OK] - self._begun[Status.OK]
        for mark in self._silent(leases):
            with _away():
                self._runner.stop([mark])
            self._count(mark, VanishedError(f"its lease was not renewed for {GONE_SECONDS:.0f} s"))

    def _silent(self, leases: Mapping[str, Lease]) -> Iterator[str]:
        """Marks of copies that hold something and have not been heard of for too long."""
        for mark in [*self._live]:
            held = [lease for lease in leases.values() if not lease.given_back and self._is_of(mark, lease)]
            if held and all(self._leases.age(lease) > GONE_SECONDS for lease in held):
                yield mark

    def _is_of(self, mark: str, lease: Lease) -> bool:
        worker = self._leases.worker_of(lease)
        return worker is not None and worker.name.endswith(f"-{mark}")

    def _count(self, mark: str, error: Exception | None) -> None:
        """What becomes of a copy that has ended."""
        number = self._live.pop(mark, None)
        if number is None or error is None:
            return
        if isinstance(error, BudgetExceededError):
            self.outcome.over_budget = str(error).partition("; what is done")[0]
            return
        if not isinstance(error, VanishedError):
            _warn(f"copy {number} ended: {redact(str(error))}")
            self.outcome.failures[f"copy {number}"] = error
            return
        self._futile += 1
        if self._futile > FUTILE * self._config.execution.parallel:
            self.outcome.failures[f"copy {number}"] = UnfinishedError(f"copy {number} vanished too often: {error}")
            return
        _warn(f"copy {number} has vanished ({redact(str(error))}) and is started again")
        self._missing.append(number)

    def _is_over(self) -> bool:
        self.outcome.over_budget = self._accounts.tally.spent or self.outcome.over_budget
        if self.outcome.over_budget is not None:
            return True
        everybody_ended = not self._live and not self._missing
        if everybody_ended or self._counts.total() >= self._run.plan["records"]:
            self._is_done = not what_is_left(self._store, self._run)
            return everybody_ended or self._is_done
        quiet = self._clock() - self._sign
        if quiet > max(self._config.execution.server_patience, GONE_SECONDS):
            reason = UnfinishedError(f"nobody was seen at work for {quiet:.0f} s, see execution.server_patience")
            self.outcome.failures["fleet"] = reason
            return True
        return False

    def _start(self) -> None:
        while self._missing:
            number, mark = self._missing[0], self._mark
            try:
                self._runner.start(number, Part(self._config, self._run.id, mark=mark))
            except AwayError as error:
                logger.info("%s", error)
                return
            self._live[mark] = self._missing.pop(0)
            self._mark = secrets.token_hex(4)

    def _see_out(self, seconds: float) -> None:
        """Wait for the copies' end."""
        until = self._clock() + seconds
        with _away():
            while self._live and self._clock() < until:
                for mark in self._runner.ended():
                    self._live.pop(mark, None)
                if self._live:
                    self._pause(0.2)

    def _wait(self, seconds: float, stop: Callable[[], bool]) -> None:
        until = self._clock() + seconds
        while not stop() and (left := until - self._clock()) > 0:
            self._pause(min(0.25, left))


def _warn(text: str) -> None:
    """Whoever reads the terminal, and whoever reads Prefect's pages."""
    logger.warning("%s", text)
    say(text, logging.WARNING)


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except AwayError as error:
        logger.info("%s", error)


def translate_by_copies(config: JobConfig, run: Run, todo: Todo, stop: Callable[[], bool]) -> ShardsOutcome:
    """Have others translate what is left of a run, see `Fleet.work`; what they did is counted from the store."""
    with ExitStack() as stack:
        worker = stack.enter_context(at_work())
        runner = stack.enter_context(runner_of(config))
        fleet = Fleet(config, run, runner, Leases(open_store(config.store), run.id, worker))
        fleet.work(todo, stop)
        return fleet.outcome
