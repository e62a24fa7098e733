"""Whether one place that a URI names lies within another, however either is spelled.

What lsb writes must not lie where it reads pictures: the next run would translate the translations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lsb.errors import UsageError


def refuse_overlap(name: str, uri: str, others: Mapping[str, str | None]) -> None:
    """Refuse a place that lies within one of `others`, or has one of them within itself.

    Args:
        name: what the place at `uri` is to the user, such as `store`.
        others: places by what they are to the user; None is nowhere.

    Raises:
        UsageError: names both and says what to do.
    """
    for other, place in others.items():
        if place is None:
            continue
        if lies_within(uri, place):
            _refuse(name, uri, other, place)
        if lies_within(place, uri):
            _refuse(other, place, name, uri)


def is_same(one: str, other: str) -> bool:
    """Whether two places are one, however they are spelled."""
    return lies_within(one, other) and lies_within(other, one)


def lies_within(inner: str, outer: str) -> bool:
    """Whether `inner` is `outer` or lies below it; both are paths or URIs, such as `s3://bucket/prefix`.

    Links are followed, and folders are compared by what they are: two spellings, mounts or cases of a name may be one.
    Neither has to exist.
    """
    one, other = _foreign_path(inner), _foreign_path(outer)
    if one is not None or other is not None:
        return one is not None and other is not None and one[: len(other)] == other
    folder = _local(outer)
    same = _identity(folder)
    return any(path == folder or (same is not None and _identity(path) == same) for path in _upwards(_local(inner)))


def _refuse(inner: str, within: str, outer: str, around: str) -> None:
    place = f"is {outer} {around}, too" if within.rstrip("/") == around.rstrip("/") else f"lies in {outer} {around}"
    raise UsageError(
        f"{inner} {within} {place}; what lsb writes must not lie where it reads pictures: give a folder elsewhere"
    )


def _foreign_path(uri: str) -> list[str] | None:
    """Scheme and parts of what is no folder of this machine, such as an object in a bucket; None for a folder."""
    scheme, _, rest = uri.partition("://")
    return [scheme.lower(), *filter(None, rest.split("/"))] if rest and scheme.lower() != "file" else None


def _local(uri: str) -> Path:
    path = Path(unquote(urlsplit(uri).path)) if uri[:7].lower() == "file://" else Path(uri)
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself, or no path at all
        return path.absolute()


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino
