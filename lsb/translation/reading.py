"""The pictures of a shard, read and decoded ahead of whoever translates them.

Requests to the source and decoding overlap, each in threads of its own; what is found comes in the order of the plan.
Nothing is changed but doubts of a source: what becomes of a record is told to whoever takes what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lsb.errors import DecodingError, ImageError, NotFoundError, StoreError
from lsb.ledger.run import Run
from lsb.ledger.schemas import ManifestRow, PlanRow
from lsb.metrics.pixels import reduced
from lsb.pictures.decoder import DECODERS
from lsb.pictures.encoding import LONGEST_SIDE, OutputSettings
from lsb.pictures.geometry import Geometry
from lsb.pictures.knowledge import doubt
from lsb.pictures.output import kept_of
from lsb.records import sha256
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store
from lsb.store.usage import Usage, counted
from lsb.translation.batch import Picture
from lsb.translation.equipment import Equipment
from lsb.translation.model import Task

Group = list[PlanRow]  # planned records with equal bytes
FirstRead = tuple[Usage, bytes | StoreError]  # of a group's first file: its bytes, or why there are none


@dataclass(frozen=True)
class Refusal:
    """Why there is no picture of a record; `unusable` if that is the fault of its bytes."""

    planned: PlanRow
    code: str
    detail: str
    read: ManifestRow = field(default_factory=lambda: ManifestRow())
    retryable: bool = True
    unusable: bool = False


@dataclass(frozen=True)
class Found:
    """What reading a group found: a picture or none, and the records that have none; and what that has cost."""

    picture: Picture | None
    refusals: list[Refusal]
    usage: Usage


@dataclass(frozen=True)
class Reader:
    """Reads groups of a run's records."""

    store: Store
    run: Run
    equipment: Equipment

    @contextmanager
    def ahead(self, groups: Iterable[Group]) -> Iterator[Iterator[Callable[[], Found]]]:
        """For each group, in order, what gives what `read` found, or raises what that raised.

        At most REQUESTS of `lsb.store.read_ahead` are read or wait to be decoded, DECODERS are decoded or wait to be
        taken. `groups` are asked for in the caller's thread, no further ahead than is read.
        """
        with (
            read_ahead(groups, self._first_read, size=lambda members: members[0]["bytes"]) as files,
            read_ahead(files, lambda one: self._found(*one), requests=DECODERS) as found,
        ):
            yield (answer for _, answer in found)

    def read(self, members: Group) -> Found:
        """The picture of records with equal bytes.

        Raises:
            StoreError: the source as a whole cannot be read, now.
        """
        first = self._first_read(members)
        return self._found(members, lambda: first)

    def _first_read(self, members: Group) -> FirstRead:
        with counted() as usage:
            try:
                return usage, self.equipment.sources.read(members[0]["key"])
            except StoreError as error:  # which has cost a request as well
                return usage, error

    def _found(self, members: Group, answer: Callable[[], FirstRead]) -> Found:
        refusals: list[Refusal] = []
        before, first = answer()
        with counted() as usage:
            picture = self._picture(members, first, refusals)
        usage += before
        return Found(picture and replace(picture, usage=usage), refusals, usage)

    def _picture(self, members: Group, first: bytes | StoreError, refusals: list[Refusal]) -> Picture | None:
        sources, decoder = self.equipment.sources, self.equipment.decoder
        rules = Geometry.of_transform(self.run.transform).decoding_rules
        for index, planned in enumerate(members):
            try:
                if not index and isinstance(first, StoreError):
                    raise first
                data = sources.read(planned["key"]) if index or isinstance(first, StoreError) else first
            except StoreError as error:
                if not error.of_object:
                    raise
                code = "source_missing" if isinstance(error, NotFoundError) else "source_unreadable"
                refusals.append(Refusal(planned, code, str(error)))
                continue
            digest = sha256(data)
            if digest != (planned["sha256"] or digest) or len(data) != planned["bytes"]:
                detail = "the file's bytes are not the ones that were planned; a new run takes the new ones"
                refusals.append(Refusal(planned, "source_changed", detail))
                # Its size and time need not show it, so that the next ingest would believe what this one did.
                doubt(self.store, self.run.dataset["name"], sources.uri, planned["record_id"])
                continue
            try:
                image, info = decoder.decode(data, rules)
                kept = kept_of(data, info, OutputSettings.of_transform(self.run.transform), decoder, rules)
            except ImageError as error:
                seen: ManifestRow = {"source_sha256": digest}
                refusals.append(Refusal(planned, error.code, error.message, seen, unusable=True))
                continue
            except DecodingError as error:
                # Equal bytes would cost as much again.
                seen = {"source_sha256": digest, "source_bytes": len(data)}
                refusals += [Refusal(row, error.code, error.message, seen) for row in members[index:]]
                return None
            read: ManifestRow = {
                "source_sha256": digest,
                "source_bytes": len(data),
                "source_format": info.format,
                "source_mode": info.mode,
                "source_width": info.width,
                "source_height": info.height,
                "source_orientation": info.orientation,
                "source_frames": info.frames,
                "source_transparent": info.transparent,
                "source_metadata": None if kept.found is None else [*kept.found],
            }
            frame = self.equipment.frame(image.size)
            read |= {"working_width": frame.working[0], "working_height": frame.working[1]}
            read["tiles"] = None if frame.tiles is None else frame.tiles.count
            longest = LONGEST_SIDE.get(kept.format, max(frame.output))
            if max(frame.output) > longest:
                detail = f"{max(frame.output)} pixels on a side, {kept.format} has at most {longest}"
                refusals += [Refusal(row, "output_too_large", detail, read, retryable=False) for row in members[index:]]
                return None
            truth = self.equipment.truths.find(planned["key"])
            task = Task(frame.prepare(image), digest, frame, reduced(image), truth and reduced(truth))
            return Picture(members[index:], read, task, kept)
        return None
