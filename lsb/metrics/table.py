"""The table of measures: its rows, its columns, and what to make of each number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from lsb.metrics.column import Column
from lsb.metrics.picture import MEASURES

SCHEMA = "lsb.metrics/1"


class LeftOut(TypedDict):
    """How many pictures of the sample could not be read, or are others than those that were translated."""

    sources: int
    outputs: int
    targets: int
    truths: int


class Sample(TypedDict):
    """What was compared."""

    rule: str
    images: int
    targets: int
    truths: int
    left_out: NotRequired[LeftOut]
    ambiguous_truths: NotRequired[int]  # sources with several truths of their name and other suffixes


class ExtractorUsed(TypedDict):
    """The network behind the features."""

    id: str
    digest: str


class Interval(TypedDict):
    """How the intervals were made."""

    level: float
    resamples: int


class ComparedWith(TypedDict):
    """Digests of the listings of the target's and the truths' pictures, None where none were given."""

    target: str | None
    truth: str | None


class GateMeasures(TypedDict):
    """What raises flags: thresholds by gate, numbers by record id (see `lsb.ledger.gates`), from how many pictures."""

    sources: int
    targets: int
    thresholds: dict[str, float]
    untouched: NotRequired[list[float]]  # RMSE in [0, 1]: what the VAE alone does to many pictures, and to almost all
    numbers: NotRequired[dict[str, list[float]]]


class Measures(TypedDict):
    """The content of metrics.json. What was not measured, or not known to an older version, is missing."""

    schema: str
    sample: NotRequired[Sample]
    extractor: NotRequired[ExtractorUsed]
    interval: NotRequired[Interval]
    rows: Sequence[Mapping[str, Any]]  # `key`, `images`, and by each column's key an estimate as it is shown
    compared_with: NotRequired[ComparedWith]
    gates: NotRequired[GateMeasures]
    listening: NotRequired[Sequence[Mapping[str, Any]]]  # of either look what `lsb.jobs.hearing.LookHeard` has
    unmeasured: NotRequired[str]  # why there are no rows, in a sentence without its end
    settings: NotRequired[Mapping[str, object]]  # what `lsb.jobs.measures.evaluation_settings` says


@dataclass(frozen=True)
class Row:
    """One set of pictures that is measured. `key` is its name in metrics.json."""

    key: str
    title: str
    meaning: str


ROWS = (
    Row("translation", "Translation", "what this run made"),
    Row("source", "Source unchanged", "doing nothing"),
    Row("source_vae", "Source through the VAE", "doing nothing, with the model's blur: a translation has to beat this"),
    Row("target_vae", "Target through the VAE", "the floor: the true pictures with the model's blur"),
    Row("source_colour", "Source, colours matched", "two numbers per colour channel, no model: has to be beaten too"),
)

COLUMNS = (
    *(measure.column for measure in MEASURES if measure.against == "truth"),
    Column(
        "kid",
        "KID × 1000",
        "lower",
        "Distance between the set of outputs and the set of target pictures as a network sees them. "
        "Some of it is the VAE's: the target through the VAE shows how much.",
        digits=2,
    ),
    Column(
        "kid_gap_closed",
        "KID gap closed",
        "higher",
        "0 % is the source through the VAE, 100 % the target through the VAE. Negative is worse than doing nothing.",
        digits=0,
        percent=True,
    ),
    Column(
        "fid",
        "FID",
        "lower",
        "Like KID, with Gaussians in place of a kernel. "
        "Means nothing for fewer than 2,000 pictures, and is left out then.",
        digits=1,
    ),
    *(measure.column for measure in MEASURES if measure.against == "source"),
    Column(
        "truth_retrieval",
        "Truth retrieval",
        "higher",
        "Share of outputs whose most similar target picture is their own truth: the content is still there.",
        digits=0,
        percent=True,
    ),
)


def shown(estimate: Mapping[str, Any], column: Column) -> tuple[str, str]:
    """A number and its interval as text, such as ("0.131", "0.124 to 0.138"); a missing number is ("–", "")."""

    def text(number: float) -> str:
        rounded = f"{number * 100:.{column.digits}f} %" if column.percent else f"{number:.{column.digits}f}"
        return rounded.replace("-", "−")

    if estimate["value"] is None:
        return "–", ""
    has_interval = estimate["low"] is not None and estimate["high"] is not None
    return text(estimate["value"]), f"{text(estimate['low'])} to {text(estimate['high'])}" if has_interval else ""
