"""The processes that translate a run, lent to those who work on its shards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property, partial

from lsb.config.job import JobConfig
from lsb.errors import UnfinishedError
from lsb.jobs.job import device_of
from lsb.jobs.measures import open_truth
from lsb.ledger.run import Run
from lsb.metrics.truths import OptionalTruths
from lsb.models.load import NETWORKS, canvas_of
from lsb.pictures.geometry import Canvas, Geometry
from lsb.pictures.sources import open_sources
from lsb.translation.equipment import Equipment
from lsb.translation.model_process import START_SECONDS, ModelProcess


class Stock:
    """The equipment of a run's workers: as many as translate at once, each with a process of the model.

    A worker's equipment is lent to the next shard once the one before has read all its pictures: while the model has
    the last of these, the next shard's first are read.
    """

    def __init__(self, config: JobConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self._lock = threading.Lock()
        self._closed = False
        self._readers = threading.Semaphore(config.execution.workers)
        self._models: list[ModelProcess] = []
        self._idle: list[Equipment] = []

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one who does a shard, who gets it when nobody else reads with some worker's equipment."""
        self._readers.acquire()
        with ExitStack() as reading:
            reading.callback(self._readers.release)
            token = _PLACE.set(_Place(self, reading))
            try:
                yield
            finally:
                _PLACE.reset(token)

    @contextmanager
    def lend(self) -> Iterator[Equipment]:
        """The equipment of the context's place, or of one that is waited for; UnfinishedError once it is closed."""
        with ExitStack() as alone:
            if _PLACE.get(None) is None:
                alone.enter_context(self.place())
            yield _PLACE.get().equipment

    def _take(self, reading: ExitStack) -> Equipment:
        with self._lock:
            if self._closed:
                raise UnfinishedError("the run is being ended; run again to go on")
            equipment = self._idle.pop(0) if self._idle else self._make()
        reading.callback(self._idle.append, equipment)
        return replace(equipment, all_read=reading.close)

    def close(self) -> None:
        """End all processes at once."""
        with self._lock:
            self._closed = True
            for model in self._models:
                model.close()

    @cached_property
    def _truths(self) -> OptionalTruths:
        """Those of all workers."""
        folder = open_truth(self._config) if self._config.evaluate.measure else None
        return OptionalTruths(folder, Geometry.of_transform(self._run.transform).decoding_rules)

    @cached_property
    def _canvas(self) -> Canvas:
        return canvas_of(self._config.model, **self._config.model_options)

    def _make(self) -> Equipment:
        # With these comes torch, and a run of which nothing is left needs none of it.
        from lsb.jobs.loading import load_model
        from lsb.translation.builder import run_frames
        from lsb.translation.execution import Shortcuts, describe, threads_each

        config, number = self._config, len(self._models)
        device = device_of(config, number)
        threads = threads_each(config.execution.workers)
        shortcuts = Shortcuts(config.execution.joint, config.execution.channels_last)
        model = ModelProcess(
            partial(load_model, config, self._run.id, device, threads),
            batch=config.execution.batch,
            limit=config.execution.hang_seconds,
            # CUDA does not survive a fork, not even a server's that has done no more than count devices.
            method="spawn" if device.startswith("cuda") else "forkserver",
            imports=NETWORKS,
        )
        self._models.append(model)
        return Equipment(
            model,
            open_sources(config.source.path),
            describe(device, self._run.transform["dtype"], config.execution.batch, threads, shortcuts),
            run_frames(self._run, self._canvas),
            truths=self._truths,
            feature_sample=config.evaluate.sample,
            try_seconds=START_SECONDS + 2 * config.execution.hang_seconds,
        )


@dataclass
class _Place:
    """Of one who reads, until all is read."""

    stock: Stock
    reading: ExitStack

    @cached_property
    def equipment(self) -> Equipment:
        return self.stock._take(self.reading)


_STOCK: ContextVar[Stock] = ContextVar("stock")
_PLACE: ContextVar[_Place] = ContextVar("place")


@contextmanager
def equipped_for(config: JobConfig, run: Run) -> Iterator[None]:
    """Inside, `lent` has equipment for the run; its processes end with the block."""
    stock = Stock(config, run)
    token = _STOCK.set(stock)
    try:
        yield
    finally:
        _STOCK.reset(token)
        stock.close()


def lent() -> AbstractContextManager[Equipment]:
    """Equipment for one worker of the run that the current context is equipped for."""
    return _STOCK.get().lend()


def place() -> AbstractContextManager[None]:
    """Waits until a worker of that run reads nothing; what is `lent` inside is its."""
    return _STOCK.get().place()
