"""What a page says of a run's prompts: their words, what the model makes of them alone, whether it listens to them."""

from __future__ import annotations

import binascii
import io
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from lsb.errors import LsbError
from lsb.ledger.run import Run
from lsb.prompts.finding import provenance_of
from lsb.prompts.settings import SIDES
from lsb.store.store import Store
from lsb.views.page_html import PromptShown, ReportImage


def prompts_shown(store: Store, run: Run, metrics: Mapping[str, Any] | None) -> Iterator[PromptShown]:
    """The source's and the target's, as far as something is known of them."""
    heard = {look["look"]: heard_in_words(look) for look in (metrics or {}).get("listening", ())}
    for side in SIDES:
        look = run.prompts[side].split("/")[1]
        try:
            known = provenance_of(store, look, run.transform["prompts"][side])
        except LsbError:  # a page can do without
            known = {}
        if known:
            pictures = tuple(_pictures(known.get("imagined", ())))
            yield PromptShown(look, str(known.get("text", "")), _learned(known), pictures, heard.get(look, ""))


def heard_in_words(look: Mapping[str, Any]) -> str:
    """Whether the model listens to words on pictures of a look, by what `lsb.jobs.hearing.LookHeard` has."""
    rises = list(zip(look["sigmas"], look["rise"], strict=True))
    each = ", ".join(f"{100 * rise:+.1f} % at {sigma:.2g}" for sigma, rise in rises)
    if not look["clear"]:
        return (
            f"it is not clear from {look['pictures']} pictures that the model listens: the other look's words change "
            f"the error, by sigma: {each}"
        )
    return (
        f"the other look's words raise the error on {look['pictures']} pictures, by sigma: {each}; "
        f"they matter from {look['matters_from']:.2g} on"
    )


def _learned(known: Mapping[str, Any]) -> str:
    if "best_step" not in known:
        return ""
    steps = max((entry["step"] for entry in known.get("history", ())), default=0)
    words = f"best at step {known['best_step']} of {steps}"
    if known.get("sigmas"):
        low, high = known["sigmas"]
        words += f", at noise from {low:.2g} to {high:.2g}"
    if known.get("begun_with") is not None:
        words += f", with fewer pictures until step {known['begun_with']}"
    return words


def _pictures(encoded: Any) -> Iterator[ReportImage]:
    for text in encoded:
        try:
            data = b64decode(text, validate=True)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
                width, height = picture.size
        except (binascii.Error, OSError, ValueError, TypeError):
            continue
        yield ReportImage(data, "image/webp", width, height)
