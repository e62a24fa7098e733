"""The pictures that settings are tried on: a few dozen of either look, the same ones each time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from lsb.config.job import JobConfig
from lsb.errors import ConfigError, UsageError
from lsb.jobs.limits import refuse_beyond_model
from lsb.pictures.choice import Choice
from lsb.pictures.optional import picture_of
from lsb.pictures.sources import Source, list_sources, open_sources
from lsb.progress import Progress
from lsb.records import digest_of, key_of, record_id, sha256
from lsb.redaction import visible
from lsb.store.overlap import is_same

logger = logging.getLogger(__name__)

FEWEST = 12  # pictures of a look; of fewer, nothing can be said
SOURCES, TARGETS = 48, 96  # pictures at most; those of the target are looked at once, the others with each setting
LONGEST, LONGEST_TARGET = 2048, 1024  # pixels of a side; more than the network or the measures see is not held
NAME = "read"


@dataclass(frozen=True)
class Sample:
    """Pictures of both looks by record id. `digests` are SHA-256 of the sources' files, `id` of all files.

    `unreadable` are the addresses of files that were to be among them and cannot be read.
    """

    sources: Sequence[Image.Image]
    digests: Sequence[str]
    targets: Sequence[Image.Image]
    id: str
    unreadable: Sequence[str] = ()


def target_folder(config: JobConfig) -> str:
    """Where pictures of the target look lie: those that translations are compared with, else those to learn from.

    Raises:
        ConfigError: there are none, or they are the source's own.
    """
    target = config.evaluate.target or config.prompts.target.images
    if target is None:
        field = "evaluate.target"
        raise ConfigError(f"{field}: missing; settings are tuned towards pictures of the target look", field=field)
    if is_same(target, config.source.path):
        field = "evaluate.target" if config.evaluate.target else "prompts.target.images"
        raise ConfigError(f"{field}: {target} is source.path, too; give pictures of another look", field=field)
    return target


def refuse_untunable(config: JobConfig) -> None:
    """Refuse what no settings could be tried with, before a picture is read.

    Raises:
        UsageError: too few pictures, no target, or what `refuse_beyond_model` refuses.
        SourceError: a folder is not there.
    """
    refuse_beyond_model(config)
    places = ((config.source.path, config.source.choice), (target_folder(config), Choice()))
    for place, choice in places:
        count = len(list_sources(open_sources(place), choice).files)
        if count < FEWEST:
            raise UsageError(f"{place} has {count} pictures; settings are tried on at least {FEWEST} of each look")


def read_sample(config: JobConfig, progress: Progress) -> Sample:
    """The usable pictures of the smallest record ids, each content once.

    Raises:
        UsageError: too few of them can be read.
        StoreError: a folder as a whole cannot be used, now.
    """
    rules = config.geometry.decoding_rules
    looks = (
        (open_sources(config.source.path), config.source.choice, SOURCES, LONGEST),
        (open_sources(target_folder(config)), Choice(), TARGETS, LONGEST_TARGET),
    )
    keys = [_keys(folder, choice) for folder, choice, *_ in looks]
    progress.start(NAME, sum(min(len(some), look[2]) for some, look in zip(keys, looks, strict=True)))
    unreadable: list[str] = []
    sources, targets = (
        _read(folder, some, rules, count, longest, progress, unreadable)
        for some, (folder, _, count, longest) in zip(keys, looks, strict=True)
    )
    progress.finish(NAME)
    everything = digest_of([[*sources], [*targets], rules])
    return Sample([*sources.values()], [*sources], [*targets.values()], everything, unreadable)


def _keys(folder: Source, choice: Choice) -> list[str]:
    """Of a folder's files, in the order of their record ids."""
    return sorted((file.key for file in list_sources(folder, choice).files), key=lambda key: record_id(key_of(key)))


def _read(
    folder: Source,
    keys: Sequence[str],
    rules: int,
    count: int,
    longest: int,
    progress: Progress,
    unreadable: list[str],
) -> dict[str, Image.Image]:
    """Pictures by the digests of their files, in that order. Those that cannot be read are added to `unreadable`."""
    found: dict[str, Image.Image] = {}
    for key in keys:
        if len(found) == count:
            break
        data: list[bytes] = []

        def read(key: str = key, data: list[bytes] = data) -> bytes:
            data.append(folder.read(key))
            return data[0]

        picture = picture_of(folder, key, read, rules=rules)
        if picture is None:
            unreadable.append(f"{folder.uri}/{visible(key)}")
        elif sha256(data[0]) not in found:
            picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
            found[sha256(data[0])] = picture
            progress.advance(NAME)
    if len(found) < FEWEST:
        raise UsageError(
            f"{folder.uri} has {len(found)} pictures that can be read; settings are tried on at least {FEWEST} of each "
            "look"
        )
    return found
