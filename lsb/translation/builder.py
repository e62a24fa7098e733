"""A run's engine, from what the run froze: nobody reads its settings from a caller's configuration again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lsb.errors import ModelError
from lsb.ledger.run import Run
from lsb.ledger.transform import ModelIdentity, method_of
from lsb.models.prompt import NULL
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Canvas, Frame, Geometry, Size, frame_of, sigma_scale
from lsb.prompts.finding import read_prompt
from lsb.store.store import Store
from lsb.translation.engine import Engine


def check_model(run: Run, identity: ModelIdentity, hint: str = "put the run's model back") -> None:
    """Refuse a model whose images would not be the run's.

    Args:
        hint: what to do about it.

    Raises:
        ModelError: its digest is another.
    """
    if identity.digest != run.model["digest"]:
        raise ModelError(
            f"{identity.id} is not the model of run {run.id}: its digest is {identity.digest[:16]}…, the run's "
            f"{(run.model['digest'] or '')[:16]}…; {hint}"
        )


def run_frames(run: Run, canvas: Canvas) -> Callable[[Size], Frame]:
    """The frame of each picture of the run by its size.

    Args:
        canvas: of the run's model.
    """
    return partial(frame_of, geometry=Geometry.of_transform(run.transform), canvas=canvas)


def run_engine(store: Store, run: Run, backbone: Backbone, batch: int, *, joint: bool = False) -> Engine:
    """What makes the run's images: prompts, method, area and seed are those of `run.transform`.

    Args:
        backbone: the run's model in the run's dtype.
        batch: images at a time.
        joint: see `Engine`.

    Raises:
        ModelError: it is another model.
        TamperedError: a prompt is not what was written.
    """
    check_model(run, backbone.identity)
    return Engine(
        backbone,
        read_prompt(store, run.prompts["source"]),
        read_prompt(store, run.prompts["target"]),
        settings=method_of(run.transform),
        seed=run.transform["seed"],
        batch=batch,
        sigma_scale=sigma_scale(Geometry.of_transform(run.transform), backbone.canvas),
        negative=read_prompt(store, run.prompts["negative"]) if "negative" in run.prompts else NULL,
        joint=joint,
    )
