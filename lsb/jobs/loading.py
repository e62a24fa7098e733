"""What a process loads once and keeps: the model and the feature extractor; and the processes that translate."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cached_property, lru_cache, partial

import torch

from lsb.config.job import JobConfig
from lsb.errors import UnfinishedError
from lsb.jobs.job import device_of
from lsb.jobs.measures import open_truth
from lsb.ledger.run import Run, open_run
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.scores import Scorer
from lsb.metrics.truths import OptionalTruths
from lsb.models.load import canvas_of, load_backbone
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Canvas, Geometry
from lsb.pictures.sources import open_sources
from lsb.store.store import open_store
from lsb.translation.builder import check_model, run_engine, run_frames
from lsb.translation.equipment import Equipment
from lsb.translation.execution import describe
from lsb.translation.model import Model
from lsb.translation.model_process import START_SECONDS, ModelProcess


def backbone_for(config: JobConfig, run: Run | None = None) -> Backbone:
    """The job's model, loaded once per process.

    Args:
        run: whose model it must be, in whose dtype; None before there is a run.

    Raises:
        ModelError: what lies where the configuration says is not the run's model.
    """
    dtype = run.transform["dtype"] if run else config.execution.dtype
    backbone = _backbone(config.model, device_of(config), dtype, **config.model_options)
    if run:
        check_model(run, backbone.identity)
    return backbone


@lru_cache(maxsize=1)
def _backbone(
    model: str, device: str, dtype: str, revision: str | None, strict: bool, loras: tuple[str, ...]
) -> Backbone:
    return load_backbone(model, revision=revision, device=device, dtype=dtype, strict=strict, loras=loras)


def extractor_for(config: JobConfig) -> EfficientNetLite0:
    """The feature extractor of the metrics, loaded once per process."""
    return _extractor(device_of(config))


@lru_cache(maxsize=1)
def _extractor(device: str) -> EfficientNetLite0:
    return EfficientNetLite0(device)


class Stock:
    """The equipment of a run's workers: as many as translate at once, each with a process of the model."""

    def __init__(self, config: JobConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self._lock = threading.Lock()
        self._closed = False
        self._models: list[ModelProcess] = []
        self._idle: list[Equipment] = []

    @contextmanager
    def lend(self) -> Iterator[Equipment]:
        """Equipment that nobody else has meanwhile; UnfinishedError once it is closed."""
        with self._lock:
            if self._closed:
                raise UnfinishedError("the run is being ended; run again to go on")
            equipment = self._idle.pop() if self._idle else self._make()
        try:
            yield equipment
        finally:
            with self._lock:
                self._idle.append(equipment)

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
        config, number = self._config, len(self._models)
        device = device_of(config, number)
        model = ModelProcess(
            partial(_load, config, self._run.id, device),
            batch=config.execution.batch,
            limit=config.execution.hang_seconds,
            # CUDA does not survive a fork, not even a server's that has done no more than count devices.
            method="spawn" if device.startswith("cuda") else "forkserver",
        )
        self._models.append(model)
        return Equipment(
            model,
            open_sources(config.source.path),
            describe(device, self._run.transform["dtype"], config.execution.batch),
            run_frames(self._run, self._canvas),
            truths=self._truths,
            feature_sample=config.evaluate.sample,
            try_seconds=START_SECONDS + 2 * config.execution.hang_seconds,
        )


_STOCK: ContextVar[Stock] = ContextVar("stock")


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


def _load(config: JobConfig, run_id: str, device: str) -> Model:
    """In the process: everything that makes pictures. What fixes their pixels is the run's."""
    if config.execution.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.execution.workers))
    store = open_store(config.store)
    run = open_run(store, run_id)
    backbone = _backbone(config.model, device, run.transform["dtype"], **config.model_options)
    engine = run_engine(store, run, backbone, config.execution.batch)
    if not config.evaluate.measure:
        return Model(engine)
    return Model(engine, Scorer(_extractor(device)))


def release_models() -> None:
    """Forget what this process has loaded, before others load it too."""
    _backbone.cache_clear()
    _extractor.cache_clear()
