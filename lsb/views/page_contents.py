"""What stands on a run's page, gathered from its store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lsb.bridge.methods import untuned
from lsb.errors import BridgeError
from lsb.ledger.layout import run_folder
from lsb.ledger.manifest import Collected
from lsb.ledger.run import Run
from lsb.ledger.schemas import ManifestRow
from lsb.ledger.transform import method_of
from lsb.metrics.truths import OptionalTruths
from lsb.pictures.encoding import OutputSettings
from lsb.pictures.geometry import Geometry, Size
from lsb.pictures.optional import find_picture
from lsb.pictures.sources import Source, described
from lsb.records import Status
from lsb.store.store import Store
from lsb.views.costs import Costs
from lsb.views.flagged import Flagged, numbers_of
from lsb.views.page_html import GRID, WORST, Command, Example, ReportInput, render_report, report_image
from lsb.views.problems import Problems
from lsb.views.prompts_shown import prompts_shown

NAMED = 50  # pictures of one status and code that are named; the manifest has them all
FARTHEST = "structure_distance"
TONE = "tone_distance"
_LEADER = r"/(?P<leader>[0-9a-f]+)\.[a-z]+$"


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
    seen = _Seen(Flagged(collected.gates))
    for rows in collected.pieces:
        seen.add(rows)
    uri = f"{store.uri.rstrip('/')}/{run_folder(run.id)}"
    counts = {status.value: collected.counts().get(status.value, 0) for status in Status}
    counts["pending"] = collected.missing
    rules = Geometry.of_transform(run.transform).decoding_rules
    truths = OptionalTruths(truth, rules)
    examples = tuple(_examples(seen.first, store, sources, truths))
    worst = tuple(_examples(seen.farthest, store, sources, truths))
    flagged = tuple(seen.flagged.groups(uri, lambda rows: _examples(rows, store, sources, truths)))
    return ReportInput(
        job=run.job,
        run_id=run.id,
        source_domain=run.dataset["name"],
        target_domain=run.prompts["target"].split("/")[1],
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts={status: count for status, count in counts.items() if count or status == Status.OK},
        examples=examples,
        worst=worst,
        flagged=flagged,
        not_shown=(len(seen.first) - len(examples), len(seen.farthest) - len(worst)),
        metrics=metrics,
        problems=seen.problems.groups(uri),
        stopped=stopped or "",
        left_out=described(run.left_out or {}),
        untuned=_untuned(run),
        costs=tuple(seen.costs.in_words(collected.usage)),
        prompts=tuple(prompts_shown(store, run, metrics)),
        settings=(*_settings(run), *seen.sizes(OutputSettings.of_transform(run.transform))),
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
        scores = {name: value for name, value in row["scores"] or () if name != TONE} | numbers_of(row)
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


def _untuned(run: Run) -> str:
    try:
        return untuned(method_of(run.transform)) or ""
    except BridgeError:  # a method of another version of lsb: nothing is known of its settings
        return ""


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    yield "source", run.source
    yield "images", f"{run.plan['records']} in {run.plan['shards']} shards of at most {run.plan['shard_size']}"
    if run.parent:
        yield "carried", f"{run.plan['carried']} from snapshot {run.parent['snapshot']} of {run.parent['run']}"
    for name, value in _flat(run.transform):
        if not name.startswith(("model.", "prompts.")):
            yield name, value


@dataclass
class _Seen:
    """What the page says of a manifest's rows, gathered from one piece of them after another."""

    flagged: Flagged
    first: list[ManifestRow] = field(default_factory=list)  # with an output, by record id
    farthest: list[ManifestRow] = field(default_factory=list)  # the worst first
    problems: Problems = field(default_factory=lambda: Problems(NAMED))
    sums: Counter[str] = field(default_factory=Counter)
    most: dict[str, float] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)  # kinds of metadata in the sources
    copied: Counter[str] = field(default_factory=Counter)
    padding: Padding = field(default_factory=lambda: Padding())
    costs: Costs = field(default_factory=Costs)

    def add(self, rows: pa.Table) -> None:
        self.problems.add(rows)
        self.flagged.add(rows)
        self.costs.add(rows)
        made = rows.filter(pc.equal(rows["status"], Status.OK.value))
        shown = made.filter(pc.is_valid(made["output_key"]))
        self.first += shown.slice(0, GRID - len(self.first)).to_pylist()
        measured = pc.map_lookup(shown["scores"], FARTHEST, "last")
        shown, measured = shown.filter(pc.is_valid(measured)), measured.drop_null()
        order = np.argsort(-measured.to_numpy(), kind="stable")[:WORST]
        worst = shown.take(pa.array(order)).to_pylist()
        self.farthest = sorted([*self.farthest, *worst], key=lambda row: -dict(row["scores"] or ())[FARTHEST])[:WORST]
        self._add_sizes(made)
        self.found += _kinds(made["source_metadata"])
        self.copied += _kinds(made["output_metadata"])
        self.padding.add(made.filter(pc.is_null(made["carried_from"])))

    def _add_sizes(self, made: pa.Table) -> None:
        counted = {
            "limited": made["output_limited"],
            "reduced": pc.is_valid(pc.map_lookup(made["scores"], "source_reduction", "last")),
            "enlarged": pc.greater(made["output_scale"], 1),
            "tiles": pc.greater(made["tiles"], 0),
            "transparent": made["source_transparent"],
            "frames": pc.greater(made["source_frames"], 1),
        }
        self.sums.update({name: pc.sum(mask).as_py() or 0 for name, mask in counted.items()})
        for name in ("output_scale", "tiles"):
            self.most[name] = max(self.most.get(name, 0), pc.max(made[name]).as_py() or 0)

    def sizes(self, output: OutputSettings) -> Iterator[tuple[str, str]]:
        """What is to be said of the sizes of the pictures, and what that has cost."""
        if number := self.sums["limited"]:
            yield "kept smaller", f"{number:,} outputs are smaller than their source, for geometry.max_scale"
        if number := self.sums["reduced"]:
            yield "read reduced", f"{number:,} sources were too large to be read whole; their outputs are as reduced"
        if number := self.sums["enlarged"]:
            most = self.most["output_scale"]
            yield "enlarged", f"{number:,} outputs are larger than the network drew them, at most {most:.1f} times"
        if number := self.sums["tiles"]:
            yield "in tiles", f"{number:,} pictures were translated in tiles, at most {self.most['tiles']:,}"
        yield from self._kept(output)
        if (share := self.padding.share) is not None:
            yield "padding", f"{100 * share:.1f} % of the rows that the network was given filled up batches"

    def _kept(self, output: OutputSettings) -> Iterator[tuple[str, str]]:
        """What became of what is no colour of a first picture."""
        if number := self.sums["transparent"]:
            became = "was put back into the outputs" if output.alpha == "keep" else "was laid on white"
            yield "transparency", f"of {number:,} sources {became}"
        if number := self.sums["frames"]:
            yield "frames", f"{number:,} files have several pictures, of which the first was taken"
        if self.found:
            yield "metadata copied", _numbered(self.copied) or "none"
        if dropped := self.found - self.copied:
            yield "metadata dropped", f"{_numbered(dropped)}: the outputs' format has no place for them"


def _kinds(column: pa.ChunkedArray) -> Counter[str]:
    return Counter(pc.list_flatten(column).to_pylist())


def _numbered(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} of {number:,}" for kind, number in kinds.items())


@dataclass
class Padding:
    """Of the rows of the batches that `ok` rows of a manifest were made in, those that were a picture's."""

    taken: float = 0.0
    given: float = 0.0

    @property
    def share(self) -> float | None:
        """What was no picture's; None if that is not known of any."""
        return 1 - self.taken / self.given if self.given else None

    def add(self, rows: pa.Table) -> None:
        """More rows; of those that share an output, the one that it is named after counts."""
        leader = pc.struct_field(pc.extract_regex(rows["output_key"], _LEADER), "leader")
        rows = rows.filter(pc.and_(pc.equal(rows["record_id"], leader), pc.is_valid(rows["batch_padding"])))
        batch, padding = (rows[name].to_numpy().astype(float) for name in ("batch", "batch_padding"))
        tiles = rows["tiles"].fill_null(0).to_numpy().astype(float)
        self.taken += float(np.where(tiles > 0, tiles, 1.0).sum())
        # Each whole picture stands for its share of the rows of its batch.
        self.given += float(np.where(tiles > 0, tiles + padding, batch / (batch - padding)).sum())


def padded_share(rows: pa.Table) -> float | None:
    """Of the rows of the batches that `ok` rows of a manifest were made in, the share that was no picture's; None if
    that is not known of any."""
    padding = Padding()
    padding.add(rows)
    return padding.share


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
