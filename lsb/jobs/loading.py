"""What a process loads once and keeps: the model and the feature extractor. With it comes torch."""

from __future__ import annotations

from functools import lru_cache

import torch

from lsb.config.job import JobConfig
from lsb.jobs.job import device_of
from lsb.jobs.measures import given_features
from lsb.ledger.run import Run, open_run
from lsb.metrics.features import EfficientNetLite0, FeatureExtractor
from lsb.metrics.scores import Scorer
from lsb.models.load import ModelOptions, load_backbone
from lsb.models.protocol import Backbone
from lsb.store.store import open_store
from lsb.translation.builder import check_model, run_engine
from lsb.translation.model import Model


def backbone_for(config: JobConfig, run: Run | None = None) -> Backbone:
    """The job's model, loaded once per process.

    Args:
        run: whose model it must be, in whose dtype; None before there is a run.

    Raises:
        ModelError: what lies where the configuration says is not the run's model.
    """
    dtype = run.transform["dtype"] if run else config.execution.dtype
    backbone = _backbone(config.model, device_of(config), dtype, False, **config.model_options)
    if run:
        check_model(run, backbone.identity)
    return backbone


@lru_cache(maxsize=1)
def _backbone(
    model: str,
    device: str,
    dtype: str,
    channels_last: bool,
    revision: str | None,
    strict: bool,
    loras: tuple[str, ...],
) -> Backbone:
    options: ModelOptions = {"revision": revision, "strict": strict, "loras": loras}
    return load_backbone(model, device=device, dtype=dtype, channels_last=channels_last, **options)


def extractor_for(config: JobConfig) -> FeatureExtractor:
    """The feature extractor of the metrics, the embedded one loaded once per process."""
    device, given = device_of(config), given_features(config)
    if given is None:
        return _extractor(device)
    from lsb.metrics.tower import GivenFeatures

    return GivenFeatures(given, device, _extractor(device))


@lru_cache(maxsize=1)
def _extractor(device: str) -> EfficientNetLite0:
    return EfficientNetLite0(device)


def load_model(config: JobConfig, run_id: str, device: str, threads: int) -> Model:
    """In the process: everything that makes pictures. What fixes their pixels is the run's.

    Args:
        threads: of the processor, for one operation.
    """
    torch.set_num_threads(threads)
    store = open_store(config.store)
    run = open_run(store, run_id)
    execution = config.execution
    dtype = run.transform["dtype"]
    backbone = _backbone(config.model, device, dtype, execution.channels_last, **config.model_options)
    engine = run_engine(store, run, backbone, execution.batch, joint=execution.joint)
    if not config.evaluate.measure:
        return Model(engine)
    return Model(engine, Scorer(_extractor(device)))


def release_models() -> None:
    """Forget what this process has loaded, before others load it too."""
    _backbone.cache_clear()
    _extractor.cache_clear()
