"""Which records of a run somebody means, by what is known of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate as pattern_of
from glob import escape

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lsb.errors import UsageError
from lsb.fields import Frozen
from lsb.records import RECORD_ID_HEX, key_of

SELECTING = ["record_id", "source_key", "shard", "status", "error_code", "flags"]  # the manifest's columns that matter
_RECORD_ID = re.compile(rf"[0-9a-f]{{{RECORD_ID_HEX}}}")


class Selection(Frozen):
    """Records by what is known of them; each list that is not empty narrows the choice, an empty one does not.

    `names` and `match` narrow it together: what either means is chosen. They are what somebody asks for; a run freezes
    them as `records`, in the words that runs have always been frozen with, so that the same choice gives the same id.
    """

    shards: tuple[str, ...] = Field(default=(), description="Numbers of shards, such as 00003.")
    names: tuple[str, ...] = Field(
        default=(), description="Record ids or source keys: each means itself and nothing else."
    )
    match: tuple[str, ...] = Field(
        default=(), description="Patterns of source keys, in which * also stands for slashes."
    )
    records: tuple[str, ...] = Field(
        default=(), description="Names and patterns as they are frozen: record ids or patterns."
    )
    statuses: tuple[str, ...] = Field(default=(), description="Statuses of rows: `failed`, `pending`.")
    codes: tuple[str, ...] = Field(default=(), description="Error codes of rows.")
    flags: tuple[str, ...] = Field(default=(), description="Flags of rows, such as no_op.")
    include_terminal: bool = Field(default=False, description="Failures that are not retryable, too.")

    def settled(self, rows: pa.Table, among: str) -> Selection:
        """The same choice with names and patterns as `records`.

        Args:
            rows: `record_id` and `source_key` of all that could be meant.
            among: what these are, for the message: "record of run r".

        Raises:
            UsageError: a name or a pattern that means none of them, or a name that means two.
        """
        if not self.names and not self.match:
            return self
        names, match = [key_of(text) for text in self.names], [key_of(text) for text in self.match]
        of_key = dict(zip(rows["source_key"].to_pylist(), rows["record_id"].to_pylist(), strict=True))
        ids = set(of_key.values())
        if strangers := [text for text in names if text not in ids and text not in of_key]:
            hint = "; a pattern is given with --match" if any(set("*?[") & set(text) for text in strangers) else ""
            raise UsageError(f"no {among} has the id or the source key {', '.join(map(repr, strangers))}{hint}")
        for text in names:
            if text in ids and of_key.get(text, text) != text:
                raise UsageError(
                    f"{text} is the id of one {among} and the source key of another, whose id is {of_key[text]}; "
                    "give this id, or the source key of the first"
                )
        if barren := [text for text in match if not any(map(re.compile(pattern_of(text)).match, of_key))]:
            raise UsageError(f"no {among} has a source key that matches {', '.join(map(repr, barren))}")
        frozen = [text if text in ids else _frozen(escape(text), of_key) for text in names]
        frozen += [_frozen(text, of_key) for text in match]
        return self.model_copy(update={"names": (), "match": (), "records": (*self.records, *frozen)})

    def matching(self, rows: pa.Table) -> pa.Table:
        """The rows that are meant, by the manifest's columns; only those whose lists are not empty are looked at."""
        if self.names or self.match:
            raise ValueError("names and patterns must be settled first")
        for column, wanted in (("shard", self.shards), ("status", self.statuses), ("error_code", self.codes)):
            if wanted:
                rows = rows.filter(pc.is_in(rows[column], pa.array(wanted)))
        if self.flags:
            wanted_flags = set(self.flags)
            rows = rows.filter(pa.array([bool(wanted_flags & set(flags or ())) for flags in rows["flags"].to_pylist()]))
        return self._named(rows)

    def _named(self, rows: pa.Table) -> pa.Table:
        if not self.records:
            return rows
        ids, keys = rows["record_id"].to_pylist(), rows["source_key"].to_pylist()
        chosen = [False] * len(ids)
        for wanted in self.records:
            if _RECORD_ID.fullmatch(wanted):
                found = [record == wanted for record in ids]
            else:
                matches = re.compile(pattern_of(wanted)).match
                found = [matches(key) is not None for key in keys]
            chosen = [one or other for one, other in zip(chosen, found, strict=True)]
        return rows.filter(pa.array(chosen, pa.bool_()))


def _frozen(pattern: str, of_key: Mapping[str, str]) -> str:
    """A pattern as it is frozen: one that looks like a record id can only mean the source of that very name."""
    return of_key[pattern] if _RECORD_ID.fullmatch(pattern) else pattern
