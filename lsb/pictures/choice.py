"""Which entries of a folder are looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Literal

# Names that begin with a dot; what Synology, QNAP, Windows and macOS keep beside pictures: previews, what was deleted,
# and the other half of a file.
EXCLUDED = (".*", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX")
HIDDEN, BY_PATTERN = "hidden", "excluded"


@dataclass(frozen=True)
class Choice:
    """What a listing is to show.

    Attributes:
        exclude: patterns (`*`, `?`, `[abc]`) of names that are left out, a folder with all in it. One with a slash is
            compared with the whole path below the source, another with each name on it. Case counts.
        links: whether links to folders beyond the source are followed, too.
    """

    exclude: tuple[str, ...] = EXCLUDED
    links: Literal["within", "all"] = "within"

    def excluded(self, parts: Sequence[str]) -> int | None:
        """How many names of a path, which is given name by name, lead to what is left out; None if nothing is."""
        for end in range(1, len(parts) + 1):
            if self.left_out(parts[end - 1], "/".join(parts[:end])):
                return end
        return None

    def left_out(self, name: str, path: str) -> str | None:
        """The kind of a file or folder that is left out, whatever lies above it; None if it is not."""
        names, paths = self._patterns
        if (names and names.fullmatch(name)) or (paths and paths.fullmatch(path)):
            return HIDDEN if name.startswith(".") else BY_PATTERN
        return None

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        names, paths = (
            [translate(pattern) for pattern in self.exclude if ("/" in pattern) == slash] for slash in (False, True)
        )
        return _any(names), _any(paths)


def _any(patterns: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(patterns)) if patterns else None
