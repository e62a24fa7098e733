"""A run's translator, from what the run froze: nobody reads its settings from a caller's configuration again."""

from __future__ import annotations

from lsb.bridge.settings import BridgeSettings
from lsb.errors import ModelError
from lsb.ledger.run import Run
from lsb.ledger.transform import ModelIdentity
from lsb.models.protocol import Backbone
from lsb.prompts.finding import read_prompt
from lsb.store.store import Store
from lsb.translation.translator import Translator


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


def run_translator(store: Store, run: Run, backbone: Backbone, batch: int) -> Translator:
    """What makes the run's images: prompts, path and seed are those of `run.transform`.

    Args:
        backbone: the run's model in the run's dtype.
        batch: images at a time.

    Raises:
        ModelError: it is another model.
        TamperedError: a prompt is not what was written.
    """
    check_model(run, backbone.identity)
    return Translator(
        backbone,
        read_prompt(store, run.prompts["source"]),
        read_prompt(store, run.prompts["target"]),
        settings=BridgeSettings.model_validate(run.transform["bridge"]),
        seed=run.transform["seed"],
        batch=batch,
    )
