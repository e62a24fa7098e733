"""What a run is measured with, and whether the measures of a snapshot are still those that measuring now would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lsb.config.job import JobConfig
from lsb.errors import SourceError, StoreError
from lsb.metrics.given import GivenFiles, GivenWeights
from lsb.metrics.table import SCHEMA, Measures
from lsb.metrics.truths import Truths
from lsb.pictures.optional import listed_pictures, listing_digest
from lsb.pictures.sources import Source, open_sources


def evaluation_settings(config: JobConfig) -> Mapping[str, object]:
    """What the metrics were measured with, apart from the run. Kept in metrics.json."""
    settings: dict[str, object] = config.evaluate.model_dump(mode="json")
    # What stands at its default is left out, as it was before there was a choice.
    if settings["measure"]:
        del settings["measure"]
    if config.evaluate.features == GivenWeights():
        del settings["features"]
    return settings


def unmeasured(config: JobConfig, reason: str) -> Measures:
    """The content of metrics.json of what was not measured, and why, in a sentence without its end."""
    return {"schema": SCHEMA, "rows": [], "unmeasured": reason, "settings": evaluation_settings(config)}


def open_target(config: JobConfig) -> Source | None:
    """The target look's pictures, None where none are given; SourceError if they are missing or not readable."""
    return open_sources(config.evaluate.target) if config.evaluate.target else None


def open_truth(config: JobConfig) -> Source | None:
    """The sources' truths, None where none are given; SourceError if they are missing or not readable."""
    return open_sources(config.evaluate.truth) if config.evaluate.truth else None


def given_features(config: JobConfig) -> GivenFiles | None:
    """The weights whose features sets are compared by, None for the embedded ones. Errors as for
    `GivenWeights.located`."""
    return config.evaluate.features.located() if config.evaluate.measure else None


def still_hold(metrics: Mapping[str, Any], config: JobConfig, sources: Callable[[], Sequence[str]]) -> bool:
    """Whether measuring with this configuration, now, would compare the same pictures in the same way.

    Target and truth are looked at by their listing. If they are away, nothing shows that they are others. Measures of
    an older version, which kept no digest of the listing, hold unless they found nothing where there is something now.

    Args:
        metrics: the content of metrics.json.
        sources: the source keys of the pictures that were made.
    """
    if metrics.get("settings") != evaluation_settings(config):
        return False
    if "unmeasured" in metrics:
        return not config.evaluate.measure
    given = given_features(config)
    if given is not None and metrics["extractor"]["digest"] != given.digest():
        return False
    try:
        target, truth = open_target(config), open_truth(config)
        targets = [] if target is None else listed_pictures(target)
        truths = None if truth is None else Truths(truth)
        known = metrics.get("compared_with")
        if known is not None:
            now = {
                "target": None if target is None else listing_digest(targets),
                "truth": None if truths is None else truths.digest,
            }
            return bool(known == now)
        sample = metrics.get("sample", {})
        if targets and sample.get("targets") == 0:
            return False
        return truths is None or sample.get("truths") != 0 or not any(map(truths.key_of, sources()))
    except (SourceError, StoreError):
        return True
