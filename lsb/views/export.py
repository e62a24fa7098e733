"""Copy a run's outputs out of the store, under the names of their sources."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import LsbError, StoreError, TamperedError, UsageError
from lsb.ledger.gates import Gates
from lsb.ledger.layout import SUFFIX_OF_FORMAT
from lsb.ledger.log.commit_log import read_checked
from lsb.ledger.manifest import collect
from lsb.ledger.plan import read_plan
from lsb.ledger.run import Run
from lsb.pictures.encoding import OutputSettings
from lsb.prompts.settings import SIDES
from lsb.records import RECORD_ID_HEX, Status, record_id
from lsb.store.folders import NoExclusiveNameError, folder, make_root, name_exclusively
from lsb.store.overlap import refuse_overlap
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store

if TYPE_CHECKING:
    import numpy.typing as npt

LONGEST_NAME = 255  # bytes of one part of a path, on almost every file system
# What the destination itself is to blame for: no other name would fare better.
_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ESTALE, errno.EMFILE})


@dataclass(frozen=True)
class Exported:
    """What became of one export."""

    written: int
    unchanged: int  # were there already with the same bytes
    without_output: int  # planned records that have no output, or none yet
    renamed: int = 0  # outputs whose name is not the source's own with the output's suffix
    names: str | None = None  # the table of those, a CSV file in the destination
    not_written: dict[str, LsbError] = field(default_factory=dict)  # source key -> why

    @property
    def exit_code(self) -> int:
        """0 if all is there; else that of the gravest reason."""
        return max((error.exit_code for error in self.not_written.values()), default=0)


def export(store: Store, run: Run, destination: Path, *, overwrite: bool = False) -> Exported:
    """Write each output to `destination` under its source's relative name, with the output's suffix.

    Files appear whole or not at all; a second call goes on where the first was cut off. One that cannot be written
    keeps no other from being written. No folder below `destination` that is a link is entered, and no file of other
    bytes is replaced unasked. `target_names` says which names are changed; a table in the destination lists them.

    Args:
        overwrite: replace files that have other bytes, and links (not what they lead to).

    Raises:
        UsageError: the destination lies in the store or where the run's pictures are read, or they in it.
        StoreError: nothing can be written there (any more), or the store does not answer.
    """
    refuse_overlap("the export", str(destination), {"the store": store.uri, **_read_from(run)})
    plan = read_plan(store, run, columns=["key", "format"])
    keys = plan["key"].to_pylist()
    if nameless := [key for key in keys if not PurePosixPath(key).name]:
        raise TamperedError(
            f"{run.plan['key']} names a source {nameless[0]!r}, which cannot be a file's name", key=run.plan["key"]
        )
    columns = ["source_key", "status", "output_key", "output_sha256", "output_format", "output_bytes"]
    pieces = collect(store, run, gates=Gates(), columns=columns).pieces
    formats: dict[str, str] = {}
    for piece in pieces:
        made = piece.filter(pc.equal(piece["status"], Status.OK.value))
        formats |= zip(made["source_key"].to_pylist(), made["output_format"].to_pylist(), strict=True)
    output = OutputSettings.of_transform(run.transform)
    planned = (output.format_for(name or "") for name in plan["format"].to_pylist())
    suffixes = {key: SUFFIX_OF_FORMAT[formats.get(key, format)] for key, format in zip(keys, planned, strict=True)}
    suffixes |= {key: SUFFIX_OF_FORMAT[format] for key, format in formats.items() if key not in suffixes}
    changed = changed_names(suffixes)
    written = {key: changed[key] for key in keys if key in changed and key in formats}
    counts: Counter[bool] = Counter()
    problems: dict[str, LsbError] = {}
    table = f"{run.id}.names.csv"
    if written:
        _noting(problems, table, lambda: _put(destination, table, _table(written), overwrite))
    read = lambda row: read_checked(store, row["output_key"], row["output_sha256"])  # noqa: E731
    with read_ahead(_made(pieces, columns), read, size=lambda row: row["output_bytes"] or 0) as answers:
        for row, answer in answers:
            key = row["source_key"]
            name = changed.get(key) or _plain(key, suffixes[key])

            def copy(name: str = name, answer: Callable[[], bytes] = answer) -> None:
                counts[_put(destination, name, answer(), overwrite)] += 1

            _noting(problems, key, copy)
    return Exported(
        written=counts[True],
        unchanged=counts[False],
        without_output=len(keys) - len(formats),
        renamed=len(written),
        names=str(destination / table) if written and table not in problems else None,
        not_written=problems,
    )


def _made(pieces: Iterable[pa.Table], columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows that have an output."""
    for piece in pieces:
        yield from piece.filter(pc.equal(piece["status"], Status.OK.value)).select(columns).to_pylist()


def target_names(suffixes: Mapping[str, str]) -> dict[str, str]:
    """Where each source's output goes, given its suffix: see `changed_names`."""
    changed = changed_names(suffixes)
    return {key: changed.get(key) or _plain(key, suffix) for key, suffix in suffixes.items()}


def changed_names(suffixes: Mapping[str, str]) -> dict[str, str]:
    """Where outputs go that do not have their source's own name with the suffix replaced by the output's.

    Changed are names that would meet on some file system, all of them: it may not tell letter cases or Unicode's forms
    of a character apart, nor hold a file beside a folder of its name. The suffix is appended where that keeps them
    apart (`a.png.png` and `a.jpg.png`), else part of the record's id is put before it, as it is where a name would be
    too long: `Cat~1a2b3c4d.png`.
    """
    parents = {PurePosixPath(key).parent for key in suffixes}
    folders = {_folded(str(folder)) for parent in parents for folder in (parent, *parent.parents)}
    steps = (_plain, _appended, _with_id, _with_whole_id)
    at = {key: 2 for key, suffix in suffixes.items() if _too_long(_plain(key, suffix))}  # the others are at 0
    name = lambda key: _folded(steps[at.get(key, 0)](key, suffixes[key]))  # noqa: E731
    twins: Counter[str] | None = None
    while True:
        # Of a million names the hashes are held, and the names themselves only of those whose hashes meet.
        hashes = np.fromiter((hash(name(key)) for key in suffixes), np.int64, len(suffixes))
        alike = _repeated(np.concatenate([hashes, np.fromiter(map(hash, folders), np.int64, len(folders))]))
        folded = {key: name(key) for key, maybe in zip(suffixes, np.isin(hashes, alike), strict=True) if maybe}
        uses = Counter(folded.values())
        meeting = [key for key in folded if at.get(key, 0) < 3 and (uses[folded[key]] > 1 or folded[key] in folders)]
        if not meeting:
            return {
                key: changed
                for key, step in at.items()
                if (changed := steps[step](key, suffixes[key])) != _plain(key, suffixes[key])
            }
        if twins is None:
            twins = Counter(_folded(_appended(key, suffix)) for key, suffix in suffixes.items())
        lowest: dict[str, int] = {}
        for key in meeting:
            lowest[folded[key]] = min(at.get(key, 0), lowest.get(folded[key], 3))
        for key in meeting:
            if (step := at.get(key, 0)) == lowest[folded[key]]:
                appended = _appended(key, suffixes[key])
                helps = step == 0 and twins[_folded(appended)] == 1 and not _too_long(appended)
                at[key] = 1 if helps else max(2, step + 1)


def _repeated(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    found, counts = np.unique(hashes, return_counts=True)
    return found[counts > 1]


def _plain(key: str, suffix: str) -> str:
    return str(PurePosixPath(key).with_suffix(suffix))


def _appended(key: str, suffix: str) -> str:
    return key + suffix


def _with_id(key: str, suffix: str, digits: int = 8) -> str:
    path = PurePosixPath(key)
    stem, end = path.stem, f"~{record_id(key)[:digits]}{suffix}"
    while _too_long(stem + end):
        stem = stem[:-1]
    return str(path.with_name(stem + end))


def _with_whole_id(key: str, suffix: str) -> str:
    return _with_id(key, suffix, RECORD_ID_HEX)


def _too_long(name: str) -> bool:
    return len(os.fsencode(name.rpartition("/")[2])) > LONGEST_NAME


def _folded(name: str) -> str:
    """One text for all names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _read_from(run: Run) -> dict[str, str | None]:
    """Where the run's pictures are read, by what is read there."""
    prompts: Mapping[str, Any] = (run.config or {}).get("prompts", {})
    learnt_from = {f"prompts.{side}.images": prompts[side].get("images") for side in SIDES if side in prompts}
    return {"the source": run.source, "the truths": run.truth, "the target's pictures": run.target, **learnt_from}


def _table(names: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("source_key", "exported_as"))
    writer.writerows(names.items())
    return text.getvalue().encode()


def _noting(problems: dict[str, LsbError], key: str, act: Callable[[], object]) -> None:
    """Do something; if it fails by the fault of one name or one output, note why."""
    try:
        act()
    except (TamperedError, UsageError) as error:
        problems[key] = error
    except StoreError as error:
        if not error.of_object:
            raise
        problems[key] = error


def _put(destination: Path, name: str, data: bytes, overwrite: bool) -> bool:
    """Write a file whole or not at all; False if it is there already."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise TamperedError(f"source name {name!r} leads out of the destination", key=name)
    *parts, last = path.parts
    place = destination / path
    with _one_line(destination, key=None):
        make_root(destination)
    with _one_line(place, key=name), folder(destination, parts, make=True) as inside:
        found = _there(inside, last)
        if found == data:
            return False
        if found is not None and not overwrite:
            raise _in_the_way(place)
        temporary = f".{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, 0o666, dir_fd=inside), "wb") as file:
                file.write(data)
            if overwrite:
                os.replace(temporary, last, src_dir_fd=inside, dst_dir_fd=inside)
            else:
                _name(inside, temporary, last)
        except FileExistsError as error:
            raise _in_the_way(place) from error
        finally:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=inside)
    return True


def _there(inside: int, name: str) -> bytes | str | None:
    """The bytes of a file, a word for anything else of that name, None if there is nothing."""
    try:
        mode = os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        return "no file"
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=inside), "rb") as file:
        return file.read()


def _name(inside: int, temporary: str, name: str) -> None:
    try:
        name_exclusively(inside, temporary, inside, name)
    except NoExclusiveNameError:  # nothing was there a moment ago, which is all that such a file system can tell
        os.replace(temporary, name, src_dir_fd=inside, dst_dir_fd=inside)


def _in_the_way(place: Path) -> UsageError:
    return UsageError(f"{place} exists with other bytes; export elsewhere or give --overwrite")


@contextmanager
def _one_line(place: Path, *, key: str | None) -> Iterator[None]:
    """What the system says as an error of ours: of one name, or, without a key, of the destination."""
    try:
        yield
    except OSError as error:
        link = error.errno == errno.ELOOP
        reason = "a folder on the way is a link, and export goes through none" if link else error.strerror
        message = f"cannot write {place}: {reason or type(error).__name__}; check path, permissions and space"
        alone = key is not None and error.errno not in _HOPELESS
        raise StoreError(message, **({"key": key} if alone else {})) from error
