"""Python processes that we start must not import what happens to lie in the working folder."""

from __future__ import annotations

import os
from collections.abc import MutableMapping


def isolate_children(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the working folder off the import path of every Python started from now on.

    `python -c` and `python -m` put it first, and so do the helper processes of `multiprocessing` (fork server, resource
    tracker, spawned children): a `signal.py` there would run. The variable reaches all of them.
    """
    environment["PYTHONSAFEPATH"] = "1"
