"""What a process loads once and keeps: the model, the prompts, the feature extractor."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from functools import lru_cache

import torch

from lsb.config import JobConfig
from lsb.domains import read_prompt
from lsb.execution import describe
from lsb.ingest import open_sources
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.scores import Scorer
from lsb.models.load import load_backbone
from lsb.models.protocol import Backbone
from lsb.sharding import open_run
from lsb.storage.store import open_store
from lsb.translate import Translator
from lsb.worker import Worker
from tasks.observation import Observer, observe_from_now_on

LARGEST_EXTRACTOR_BATCH = 32


def backbone_for(config: JobConfig) -> Backbone:
    """The job's model, loaded once per process."""
    device = device_of_this_process(config.execution.device)
    return _backbone(config.model, device, config.execution.dtype, **config.model_options)


@lru_cache(maxsize=1)
def _backbone(
    model: str, device: str, dtype: str, revision: str | None, strict: bool, loras: tuple[str, ...]
) -> Backbone:
    return load_backbone(model, revision=revision, device=device, dtype=dtype, strict=strict, loras=loras)


def extractor_for(config: JobConfig) -> EfficientNetLite0:
    """The feature extractor of the metrics, loaded once per process; its batches are the job's, so none is padded."""
    device = device_of_this_process(config.execution.device)
    return _extractor(device, min(config.execution.batch, LARGEST_EXTRACTOR_BATCH))


@lru_cache(maxsize=1)
def _extractor(device: str, batch: int) -> EfficientNetLite0:
    return EfficientNetLite0(device, batch)


@lru_cache(maxsize=1)
def worker_for(config: JobConfig, run_id: str) -> Worker:
    """Everything that a process brings along to every shard of a run."""
    store = open_store(config.store)
    run = open_run(store, run_id)
    backbone = backbone_for(config)
    translator = Translator(
        backbone,
        read_prompt(store, run.prompts["source"]),
        read_prompt(store, run.prompts["target"]),
        settings=config.bridge,
        seed=config.seed,
        batch=config.execution.batch,
    )
    device = device_of_this_process(config.execution.device)
    return Worker(
        translator,
        open_sources(config.source.path),
        describe(device, config.execution.dtype, config.execution.batch),
        truth=open_sources(config.evaluate.truth) if config.evaluate.truth else None,
        scorer=Scorer(extractor_for(config)),
        feature_sample=config.evaluate.sample,
    )


def release_models() -> None:
    """Forget what this process has loaded, before a pool of others loads it too."""
    _backbone.cache_clear()
    worker_for.cache_clear()
    _extractor.cache_clear()


def device_of_this_process(device: str) -> str:
    """`auto` resolved, and one accelerator for each process of a pool."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        number = multiprocessing.current_process().name.rpartition("-")[2]
        index = int(number) - 1 if number.isdigit() else 0
        return f"cuda:{index % max(1, torch.cuda.device_count())}"
    return device


def start_pool_process(config_json: str, run_id: str, threads: int) -> None:
    """Initializer of a pool's process: load everything, share the cores, stop with the parent.

    The parent forwards a wish to stop as SIGTERM. A parent that was killed cannot; its processes end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    observe_from_now_on(Observer(stop=stop.is_set))
    # The parent has held both back, because a process that is still importing dies of them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    worker_for(JobConfig.model_validate_json(config_json), run_id)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
