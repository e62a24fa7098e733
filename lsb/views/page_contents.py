"""What stands on a run's page, gathered from its store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lsb.ledger.layout import run_folder
from lsb.ledger.manifest import Collected
from lsb.ledger.run import Run
from lsb.ledger.schemas import ManifestRow
from lsb.metrics.truths import OptionalTruths
from lsb.pictures.encoding import OutputSettings
from lsb.pictures.geometry import Geometry, Size
from lsb.pictures.optional import find_picture
from lsb.pictures.sources import Source, described
from lsb.records import Status
from lsb.store.store import Store
from lsb.views.page_html import GRID, WORST, Command, Example, ReportInput, render_report, report_image
from lsb.views.problems import problem_groups

NAMED = 50  # pictures of one status and code that are named; the manifest has them all
FARTHEST = "structure_distance"
TONE = "tone_distance"


def page_of(
    store: Store,
    run: Run,
    metrics: Mapping[str, Any] | None,
    sources: Source,
    truth: Source | None = None,
    stopped: str | None = None,
) -> Callable[[Collected], bytes]:
    """What `lsb.ledger.publish.publish` makes the page with, of what it publishes; arguments as `gather_report`'s."""

    def page(collected: Collected) -> bytes:
        return render_report(gather_report(store, run, collected, metrics, sources, truth, stopped)).encode()

    return page


def gather_report(
    store: Store,
    run: Run,
    collected: Collected,
    metrics: Mapping[str, Any] | None,
    sources: Source,
    truth: Source | None = None,
    stopped: str | None = None,
) -> ReportInput:
    """Everything on the page of what was collected of `run`.

    Args:
        metrics: the content of metrics.json, None where nothing was measured.
        sources: where the run's source images lie; one that is gone leaves a gap on the page, no error.
        truth: each source's truth under the source's own name, with any suffix.
        stopped: why some records have no row.
    """
    rows: list[ManifestRow] = collected.rows.to_pylist()
    uri = f"{store.uri.rstrip('/')}/{run_folder(run.id)}"
    counts = {status.value: sum(row["status"] == status for row in rows) for status in Status}
    counts["pending"] = run.plan["records"] - len(rows)
    done = [row for row in rows if row["status"] == Status.OK and row["output_key"]]
    measured = [row for row in done if FARTHEST in dict(row["scores"] or ())]
    farthest = sorted(measured, key=lambda row: -dict(row["scores"] or ())[FARTHEST])
    rules = Geometry.of_transform(run.transform).decoding_rules
    truths = OptionalTruths(truth, rules)
    examples = tuple(_examples(done[:GRID], store, sources, truths))
    worst = tuple(_examples(farthest[:WORST], store, sources, truths))
    return ReportInput(
        job=run.job,
        run_id=run.id,
        source_domain=run.dataset["name"],
        target_domain=run.prompts["target"].split("/")[1],
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts={status: count for status, count in counts.items() if count or status == Status.OK},
        examples=examples,
        worst=worst,
        not_shown=(len(done[:GRID]) - len(examples), len(farthest[:WORST]) - len(worst)),
        metrics=metrics,
        problems=problem_groups(collected.rows, uri, NAMED),
        stopped=stopped or "",
        left_out=described(run.left_out or {}),
        settings=(*_settings(run), *_sizes(collected.rows, OutputSettings.of_transform(run.transform))),
        digests=tuple(_digests(run)),
        commands=(
            Command("lsb run JOB.yaml", "with the job's file: goes on with what is pending, redoes nothing committed"),
            Command(f"lsb verify {uri}", "checks that nothing was changed since"),
            Command(f"lsb export {uri} translated", "writes the translations under the sources' own names"),
            Command(f"lsb status {uri}", "counts by status"),
        ),
        version=metadata.version("lsb"),
    )


def _examples(rows: Sequence[ManifestRow], store: Store, sources: Source, truths: OptionalTruths) -> Iterator[Example]:
    for row in rows:
        source = find_picture(sources, row["source_key"], row["source_sha256"])
        key = row["output_key"]
        output = find_picture(store, key, row["output_sha256"]) if source and key else None
        if source is None or output is None:
            continue
        truth = truths.find(row["source_key"])
        scores = {name: value for name, value in row["scores"] or () if name != TONE}
        if truth is not None:
            scores[TONE] = _tone(output, truth)  # the row's may be that of another truth
        shown = None if truth is None else report_image(truth)
        pictures = report_image(source), report_image(output), shown
        sizes = _size_in_words(row, source.size, output.size)
        yield Example(row["record_id"], row["source_key"], *pictures, scores, sizes)


def _size_in_words(row: ManifestRow, source: Size, output: Size) -> str:
    working, scale = (row.get("working_width"), row.get("working_height")), row.get("output_scale")
    words = "×".join(map(str, source))
    if output != source:
        words += f" → {output[0]}×{output[1]}"
    if scale is None or scale == 1:  # nobody noted it, or there is nothing to note
        return words
    return f"{words}, {'enlarged' if scale > 1 else 'reduced'} from {working[0]}×{working[1]}"


def _tone(output: Image.Image, truth: Image.Image) -> float:
    from lsb.metrics.picture.tone_distance import tone_distance
    from lsb.metrics.pixels import unit_pixels  # with it comes torch, which an erasure can do without

    return float(tone_distance(unit_pixels([output]), unit_pixels([truth])))


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    yield "source", run.source
    yield "images", f"{run.plan['records']} in {run.plan['shards']} shards of at most {run.plan['shard_size']}"
    if run.parent:
        yield "carried", f"{run.plan['carried']} from snapshot {run.parent['snapshot']} of {run.parent['run']}"
    for name, value in _flat(run.transform):
        if not name.startswith(("model.", "prompts.")):
            yield name, value


def _sizes(rows: pa.Table, output: OutputSettings) -> Iterator[tuple[str, str]]:
    """What is to be said of the sizes of the pictures, and what that has cost."""
    made = rows.filter(pc.equal(rows["status"], Status.OK.value))
    limited = pc.sum(made["output_limited"]).as_py() or 0
    read_reduced = len(pc.map_lookup(made["scores"], "source_reduction", "last").drop_null())
    if limited:
        yield "kept smaller", f"{limited:,} outputs are smaller than their source, for geometry.max_scale"
    if read_reduced:
        yield "read reduced", f"{read_reduced:,} sources were too large to be read whole; their outputs are as reduced"
    enlarged = made["output_scale"].drop_null().to_numpy()
    if number := int((enlarged > 1).sum()):
        most = float(enlarged.max())
        yield "enlarged", f"{number:,} outputs are larger than the network drew them, at most {most:.1f} times"
    if number := int((made["tiles"].drop_null().to_numpy() > 0).sum()):
        yield "in tiles", f"{number:,} pictures were translated in tiles, at most {pc.max(made['tiles']).as_py():,}"
    yield from _kept(made, output)
    share = padded_share(made.filter(pc.is_null(made["carried_from"])))
    if share is not None:
        yield "padding", f"{100 * share:.1f} % of the rows that the network was given filled up batches"


def _kept(made: pa.Table, output: OutputSettings) -> Iterator[tuple[str, str]]:
    """What became of what is no colour of a first picture."""
    if number := pc.sum(made["source_transparent"]).as_py() or 0:
        became = "was put back into the outputs" if output.alpha == "keep" else "was laid on white"
        yield "transparency", f"of {number:,} sources {became}"
    if number := pc.sum(pc.greater(made["source_frames"], 1)).as_py() or 0:
        yield "frames", f"{number:,} files have several pictures, of which the first was taken"
    found, copied = (_kinds(made[column]) for column in ("source_metadata", "output_metadata"))
    if found:
        yield "metadata copied", _numbered(copied) or "none"
    if dropped := found - copied:
        yield "metadata dropped", f"{_numbered(dropped)}: the outputs' format has no place for them"


def _kinds(column: pa.ChunkedArray) -> Counter[str]:
    return Counter(pc.list_flatten(column).to_pylist())


def _numbered(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} of {number:,}" for kind, number in kinds.items())


def padded_share(rows: pa.Table) -> float | None:
    """Of the rows of the batches that `ok` rows of a manifest were made in, the share that was no picture's; None if
    that is not known of any."""
    images = (
        rows.group_by("output_key")
        .aggregate([(name, "min") for name in ("batch", "batch_padding", "tiles")])
        .to_pylist()
    )
    taken = given = 0.0
    for batch, padding, tiles in ((row["batch_min"], row["batch_padding_min"], row["tiles_min"]) for row in images):
        if padding is None:
            continue
        taken += tiles or 1
        # Each whole picture stands for its share of the rows of its batch.
        given += tiles + padding if tiles else batch / (batch - padding)
    return 1 - taken / given if given else None


def _digests(run: Run) -> Iterator[tuple[str, str]]:
    yield "run", run.sha256
    yield "data set", run.dataset["version"]
    yield "plan", run.plan["sha256"]
    yield "transform", run.transform_id
    for side, key in sorted(run.prompts.items()):
        yield f"{side} prompt", str(key)


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings under dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)
