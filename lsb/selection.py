"""Which records of a run somebody means, by what is known of them."""

from __future__ import annotations

import re
from fnmatch import translate as pattern_of

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from lsb.records import RECORD_ID_HEX

_RECORD_ID = re.compile(rf"[0-9a-f]{{{RECORD_ID_HEX}}}")


class Selection(BaseModel):
    """Records by what is known of them; each list that is not empty narrows the choice, an empty one does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[str, ...] = ()
    records: tuple[str, ...] = ()  # record ids, or patterns of source keys in which * also stands for slashes
    statuses: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    include_terminal: bool = False  # failures that are not retryable, too

    def matching(self, rows: pa.Table) -> pa.Table:
        """The rows that are meant, by the manifest's columns; only those whose lists are not empty are looked at."""
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
