"""A model that gives back what it is given, for a process of its own."""

from __future__ import annotations

from typing import Any

from lsb.translation.model import Model


class Echo:
    batch = 1

    def translate(self, images: list[Any], digests: Any = None, *, batch: int | None = None) -> list[Any]:
        del digests, batch
        return images


def echoing() -> Model:
    return Model(Echo())
