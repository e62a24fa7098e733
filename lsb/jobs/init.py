"""A job's first file: two folders and a model, and every other setting commented out at its default."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig, job_of, load_config
from lsb.config.reference import about, in_yaml, model_of, settings_of
from lsb.errors import ConfigError, UsageError
from lsb.jobs.job import refuse_store_among_pictures
from lsb.models.device import usable_device
from lsb.models.hub import is_hub_id
from lsb.models.load import facts_of
from lsb.pictures.ingest import refuse_empty
from lsb.pictures.sources import list_sources, open_sources

_HEAD = """\
# A job; `lsb run {name} --dry-run` says what it would do. What is commented out stands at its default.
# docs/configuration.md says more of every setting. A relative path is relative to this file.
{prompts}
"""
_WORDS = """\
# The looks are named to the model in words of your choice: `lsb listen {name}` says whether it knows them.
# For looks that have no words, `lsb init --learn` has a new word learned from the pictures of each.
"""
_LEARNED = """\
# A new word is learned from the pictures of each look; `initial` is yours to say, words that come near. With `text`
# instead of `images`, `token` and `initial` nothing is learned.
"""
_WIDTH = 120
_LONGEST = 18  # characters of a look's name: two and " to " are a job's name


def write_job(
    path: Path, source: str, target: str, model: str, store: str | None = None, *, learn: bool = False
) -> JobConfig:
    """Write a job that translates the pictures of one folder to the look of another's, and read it.

    Where this machine has CUDA the network is to calculate in bfloat16. That is written down, since the default of a
    setting that fixes pixels must not depend on which machine plans.

    Args:
        path: the file, which must not exist.
        source: folder or URI of the pictures to translate.
        target: folder or URI of pictures of the target look.
        model: as in a job.
        store: as in a job; without one `store` beside the file.
        learn: have prompts learned from the pictures, instead of the looks' names as words.

    Raises:
        UsageError: there is such a file, or it cannot be written; or the places will not do as a job's.
        SourceError: a folder is not there, or has no pictures.
        ModelError: no model there. A hub's, or one at a URI, is not looked at: its tau is left to latents of 64 x 64.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists; give another file with --out, or move it away")
    source, target, store = _absolute(source), _absolute(target), _absolute(store or str(path.parent / "store"))
    model = model if is_hub_id(model) and not os.path.exists(model) else _absolute(model)
    if source == target:
        raise UsageError(
            f"source and target are the same folder, {source}; give pictures of another look as the target"
        )
    before, after = _names(source, target)
    prompts: dict[str, dict[str, str]] = {
        "source": {"text": before.replace("-", " ")},
        "target": {"domain": after, "text": after.replace("-", " ")},
    }
    if learn:
        prompts = {
            "source": {"images": source, "token": f"<{before}>", "initial": before.replace("-", " ")},
            "target": {"domain": after, "images": target, "token": f"<{after}>", "initial": after.replace("-", " ")},
        }
    settings = {
        "name": f"{before}-to-{after}",
        "store": store,
        "model": model,
        "source": {"domain": before, "path": source},
        "prompts": prompts,
        "evaluate": {"target": target},
    }
    config = job_of(settings)
    refuse_store_among_pictures(config)
    for folder in (config.source.path, target):
        sources = open_sources(folder)
        refuse_empty(sources, list_sources(sources))
    facts = facts_of(config.model) if "://" not in config.model and os.path.isabs(config.model) else None
    if facts is not None:
        settings["bridge"] = {"tau": BridgeSettings.tau_for(facts.latent_side)}
    if usable_device("auto").startswith("cuda"):
        settings["execution"] = {"dtype": "bfloat16"}
    text = (
        _HEAD.format(name=path.name, prompts=(_LEARNED if learn else _WORDS).format(name=path.name))
        + "\n".join(_lines(JobConfig, settings))
        + "\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another file with --out") from error
    try:
        return load_config(path)
    except ConfigError:  # such as `${` in a folder's name
        path.unlink()
        raise


def _absolute(place: str) -> str:
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))


def _names(source: str, target: str) -> tuple[str, str]:
    """Names of two looks: the last parts of the folders' names in which these differ."""
    words = [[_word(part) for part in reversed(place.split("/"))] for place in (source, target)]
    pairs = zip(*words, strict=False)
    return next(((one, other) for one, other in pairs if one and other and one != other), ("source", "target"))


def _word(part: str) -> str:
    plain = unicodedata.normalize("NFKD", part.casefold()).encode("ascii", "ignore").decode()  # without accents
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-")


def _lines(model: type[BaseModel], given: Mapping[str, Any], indent: str = "", mark: str = "") -> Iterator[str]:
    """Each setting with its comment, those that are not given behind a `#` at the line's beginning."""
    settings = {setting.name: setting for setting in settings_of(model)}
    for name, field in model.model_fields.items():
        own = mark if name in given else "#"
        if (inner := model_of(field)) is not None:
            yield f"{own}{indent}{name}:  # {about(inner).partition('. ')[0].rstrip('.')}"
            yield from _lines(inner, given.get(name, {}), f"{indent}  ", own)
            continue
        value = in_yaml(given[name]) if name in given else settings[name].default
        line, comment = f"{own}{indent}{name}: {value}", f"# {settings[name].summary}"
        yield from [f"{line}  {comment}"] if len(line) + len(comment) < _WIDTH else [f"{own}{indent}{comment}", line]
