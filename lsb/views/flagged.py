"""Outputs to look at first, by the gate that has flagged them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.ledger.gates import GATES, NUMBERS, Gates
from lsb.ledger.schemas import ManifestRow
from lsb.records import Status
from lsb.views.page_html import Example, FlagGroup

SHOWN = 6  # pictures of a group
MANY = 0.2  # of those that were judged: no matter of single pictures


class _Words(NamedTuple):
    title: str
    meaning: str  # `{}` is the threshold
    remedy: str
    many: str  # what it says of the run if many are flagged


WORDS = {
    "no_op": _Words(
        "Hardly changed",
        "Hardly farther from the source through the model's VAE than the source itself is: change below {}, where 1 is "
        "what the VAE does alone.",
        "They want more: a larger tau (of other methods than LSB: sigma) or guidance.",
        "hardly changed their source: settings, prompts or model do not fit this task",
    ),
    "over_changed": _Words(
        "Structure lost",
        "About as far from the source's layout as unrelated pictures are: structure distance above {}.",
        "They want less: a smaller tau, a larger t0 (of other methods than LSB: a smaller sigma).",
        "have lost their source's structure: settings, prompts or model do not fit this task",
    ),
    "out_of_domain": _Words(
        "Unlike the source domain",
        "Their sources look unlike the run's other sources: distance above {}. What comes of them means little.",
        "See whether they belong here; source.exclude leaves files out.",
        "come from sources unlike the others: the folder holds several looks",
    ),
    "structure_high": _Words(
        "Structure lost",
        "Structure distance above {}.",
        "They want less: a smaller tau, a larger t0 (of other methods than LSB: a smaller sigma).",
        "have lost their source's structure: settings, prompts or model do not fit this task",
    ),
    "flat_output": _Words(
        "Nothing drawn",
        "All pixels are nearly alike: standard deviation below {}.",
        "See whether their sources are blank, too.",
        "are blank: model and dtype may not go together",
    ),
}


@dataclass
class Flagged:
    """What of a manifest's rows is flagged, as pieces of it are added."""

    gates: Gates
    _counts: Counter[str] = field(default_factory=Counter)
    _judged: Counter[str] = field(default_factory=Counter)
    _first: dict[str, list[tuple[float, ManifestRow]]] = field(default_factory=dict)  # the farthest beyond first

    def add(self, rows: pa.Table) -> None:
        """`rows`: of the manifest."""
        made = rows.filter(pc.and_(pc.equal(rows["status"], Status.OK.value), pc.is_valid(rows["output_key"])))
        for name, threshold in self.gates.thresholds.items():
            gate = GATES[name]
            numbers = gate.numbers(made)
            fired = gate.fires(made, threshold)
            self._judged[name] += len(numbers) - numbers.null_count
            self._counts[name] += int(fired.sum())
            found = made.filter(pa.array(fired))
            beyond = gate.numbers(found).to_numpy() * (1 if gate.raised == "below" else -1)
            order = np.argsort(beyond, kind="stable")[:SHOWN]
            farthest = [*zip(beyond[order].tolist(), found.take(pa.array(order)).to_pylist(), strict=True)]
            self._first[name] = sorted([*self._first.get(name, ()), *farthest], key=lambda one: one[0])[:SHOWN]

    def groups(
        self, run_uri: str, examples: Callable[[Sequence[ManifestRow]], Iterator[Example]]
    ) -> Iterator[FlagGroup]:
        """One for each gate that has judged something, those that have flagged most first.

        Args:
            run_uri: of the run, for the commands.
            examples: makes what is shown of rows, without those whose pictures cannot be read.
        """
        for name in sorted(self._judged, key=lambda name: (-self._counts[name], [*GATES].index(name))):
            if not self._judged[name]:
                continue
            words, count, rows = WORDS[name], self._counts[name], [row for _, row in self._first[name]]
            shown = tuple(examples(rows))
            share = count / self._judged[name]
            yield FlagGroup(
                name=name,
                title=words.title,
                meaning=words.meaning.format(f"{self.gates.thresholds[name]:.3g}"),
                remedy=words.remedy,
                count=count,
                judged=self._judged[name],
                warning=f"{100 * share:.0f} % of the translations {words.many}." if share >= MANY else "",
                command=f"lsb run OTHER.yaml --records-from {shlex.quote(run_uri)} --flag {name}",
                examples=shown,
                not_shown=len(rows) - len(shown),
            )


def numbers_of(row: Mapping[str, object]) -> dict[str, float]:
    """What the measuring found of a row beside its scores."""
    return {name: value for name in NUMBERS if isinstance(value := row.get(name), float)}
