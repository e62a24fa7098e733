from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsb.ledger.gates import GATES, Gates
from lsb.ledger.manifest import collect
from lsb.ledger.run import Run
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.views.flagged import WORDS
from lsb.views.page_contents import gather_report
from lsb.views.page_html import ReportInput, render_report
from tests.ledger import make_images, start, translate_all

THRESHOLDS = {"no_op": 1.1, "over_changed": 0.4, "out_of_domain": 1.0, "flat_output": 0.02}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Run, Store]:
    top = tmp_path_factory.mktemp("finished")
    store = LocalStore(top / "store")
    run, sources = start(store, make_images(top / "images", 20), shard_size=20)
    translate_all(store, run, sources)
    return store, run, sources


def page(finished: tuple[LocalStore, Run, Store], changes: dict[int, float], distance: float = 0.5) -> ReportInput:
    """The page of a run of which some records, by their place, changed so much."""
    store, run, sources = finished
    ids = collect(store, run, gates=Gates()).rows["record_id"].to_pylist()
    numbers = {record: [changes.get(place, 2.0), distance] for place, record in enumerate(ids)}
    metrics: dict[str, Any] = {"rows": []}
    metrics["gates"] = {"sources": 20, "targets": 20, "thresholds": THRESHOLDS, "numbers": numbers}
    collected = collect(store, run, gates=Gates.of(metrics))
    return gather_report(store, run, collected, metrics, sources)


def test_each_gate_has_its_words() -> None:
    assert WORDS.keys() == GATES.keys()


def test_what_is_flagged_comes_first_and_the_farthest_beyond_before_the_rest(
    finished: tuple[LocalStore, Run, Store],
) -> None:
    found = page(finished, {1: 0.9, 4: 0.1, 6: 0.5})
    by_name = {group.name: group for group in found.flagged}
    assert {name: (group.count, group.judged) for name, group in by_name.items()} == {
        "no_op": (3, 20),
        "out_of_domain": (0, 20),
        "flat_output": (0, 20),  # of structure nothing is known in this run
    }
    assert [example.scores["output_change"] for example in by_name["no_op"].examples] == [0.1, 0.5, 0.9]
    assert by_name["no_op"].warning == ""
    html = render_report(found)
    places = [html.index(text) for text in ("To look at first", "Hardly changed: 3 of 20", "What it looks like")]
    assert places == sorted(places)
    assert f"--records-from {finished[0].uri}/runs/{finished[1].id} --flag no_op" in html
    assert "change 0.10" in html


def test_a_flag_on_many_is_said_at_the_head_of_the_page(finished: tuple[LocalStore, Run, Store]) -> None:
    found = page(finished, dict.fromkeys(range(9), 0.5))
    (no_op, *_) = found.flagged
    assert (no_op.count, len(no_op.examples), no_op.not_shown) == (9, 6, 0)
    html = render_report(found)
    warning = "45 % of the translations hardly changed their source: settings, prompts or model do not fit this task."
    assert html.index(warning) < html.index("<main>")
    assert "Shown are the farthest beyond." in html


def test_a_picture_that_cannot_be_read_is_counted_and_not_shown(
    finished: tuple[LocalStore, Run, Store], tmp_path: Path
) -> None:
    store, run, _ = finished
    (no_op, *_) = page((store, run, LocalStore(tmp_path)), {0: 0.5}).flagged
    assert (no_op.count, no_op.examples, no_op.not_shown) == (1, (), 1)


def test_a_run_too_small_to_be_judged_says_so(finished: tuple[LocalStore, Run, Store]) -> None:
    store, run, sources = finished
    metrics = {"rows": [], "gates": {"sources": 12, "targets": 0, "thresholds": {"flat_output": 0.02}}}
    html = render_report(gather_report(store, run, collect(store, run, gates=Gates.of(metrics)), metrics, sources))
    assert "12 measured sources are too few to tell what is usual" in " ".join(html.split())


def test_a_page_of_an_earlier_snapshot_has_its_flags(finished: tuple[LocalStore, Run, Store]) -> None:
    store, run, sources = finished
    gates = Gates({"structure_high": 0.3, "flat_output": 0.9})
    found = gather_report(store, run, collect(store, run, gates=gates), {"rows": []}, sources)
    assert [(group.name, group.count) for group in found.flagged] == [("flat_output", 20)]
