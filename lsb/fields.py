"""What the settings of all rooms are made of: their base, and fields whose values mean what they say."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lsb.redaction import holds_secret

_VARIABLE = re.compile(r"\$[A-Za-z_]")


def _location(value: str) -> str:
    """A path, URI or hub id that means what it says; a leading `~` is replaced."""
    if not value.strip() or not value.isprintable():
        raise ValueError("must be a path or a URI, without control characters")
    if holds_secret(value):
        raise ValueError("a URI must not hold credentials or a signed query; they come from the environment")
    if _VARIABLE.match(value):
        raise ValueError("variables are not filled in here; write the path itself, or ./ before a name that begins so")
    if not value.startswith("~"):
        return value
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise ValueError("no such home directory; write ./ before a name that begins with ~")
    return expanded


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Location = Annotated[str, AfterValidator(_location)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
