"""The model hub: what a name of it looks like, and a copy of what lies there."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from lsb.models.files import PICKLES
from lsb.redaction import redact

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(model: str) -> bool:
    """Whether a name that is no path here may be a model of the hub."""
    return bool(_HUB_ID.fullmatch(model)) and Path(model).suffix.lower() not in PICKLES | {".safetensors"}


def cached_or_fetched(model: str, revision: str | None, parts: Sequence[str]) -> Path | None:
    """The folder of a hub id's files, from `HF_HOME` or the hub; None where neither has it.

    Args:
        revision: a branch, a tag or a commit. A full commit never changes, so that the cache is as good as the hub.
        parts: patterns of the names of the files that are wanted.
    """
    pinned = bool(revision and COMMIT.fullmatch(revision))
    found = _snapshot(model, revision, parts, cached=True) if pinned else None
    return found or _snapshot(model, revision, parts, cached=False)


def _snapshot(model: str, revision: str | None, parts: Sequence[str], *, cached: bool) -> Path | None:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(model, revision=revision, allow_patterns=list(parts), local_files_only=cached)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        logger.info("%s not found (%s): %s", model, "cache" if cached else "hub", redact(str(error)))
        return None
    return Path(found)
