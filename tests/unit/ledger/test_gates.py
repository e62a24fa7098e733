from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lsb.audit.verify import verify
from lsb.errors import UnverifiableError
from lsb.ledger.gates import Gates
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run
from lsb.ledger.schemas import MANIFEST, read_table
from lsb.store.local import LocalStore
from tests.ledger import make_images, start, translate_all

OLD = {"structure_high": 0.5, "flat_output": 0.1}
NEW = {"no_op": 0.05, "over_changed": 0.4, "out_of_domain": 1.1, "flat_output": 0.02}


def rows(*found: Mapping[str, float] | None) -> pa.Table:
    """Rows of the manifest with these scores and numbers."""
    columns = ("output_change", "source_distance")
    return pa.table(
        {
            "record_id": [str(place) for place in range(len(found))],
            "status": ["ok" if one is not None else "failed" for one in found],
            **{name: pa.array([(one or {}).get(name) for one in found], pa.float64()) for name in columns},
            "scores": pa.array(
                [one and [item for item in one.items() if item[0] not in columns] for one in found],
                MANIFEST.arrow.field("scores").type,
            ),
            "flags": pa.nulls(len(found), pa.list_(pa.string())),
        }
    )


def test_gates_of_earlier_snapshots_fire_as_they_did() -> None:
    table = rows(
        {"structure_distance": 0.4, "output_contrast": 0.2},
        {"structure_distance": 0.6, "output_contrast": 0.05},
        {"output_contrast": 0.05},
        {"structure_distance": 0.6},
        {},
        None,
    )
    assert Gates(OLD).flags(table).to_pylist() == [
        [],
        ["structure_high", "flat_output"],
        ["flat_output"],
        ["structure_high"],
        [],
        [],
    ]


def test_each_gate_has_its_number_and_its_side() -> None:
    fine = {"output_change": 0.1, "structure_distance": 0.2, "source_distance": 0.9, "output_contrast": 0.3}
    beyond = {"output_change": 0.04, "structure_distance": 0.5, "source_distance": 1.2, "output_contrast": 0.01}
    each = [{**fine, name: value} for name, value in beyond.items()]
    flags = Gates(NEW).flags(rows(fine, *each, beyond, {})).to_pylist()
    assert flags == [[], ["no_op"], ["over_changed"], ["out_of_domain"], ["flat_output"], [*NEW], []]


def test_what_has_no_threshold_is_not_judged() -> None:
    assert Gates().flags(rows({"structure_distance": 2.0, "output_change": 0.0})).to_pylist() == [[]]


def test_a_gate_of_a_later_version_is_refused() -> None:
    with pytest.raises(UnverifiableError, match="gate 'later' is not known to this version"):
        Gates({"later": 1.0})


def test_numbers_are_those_of_this_measuring_alone() -> None:
    """Carried rows bring those of another one along."""
    table = rows({"output_change": 0.5, "source_distance": 0.5}, {"output_change": 0.5}, None)
    judged = Gates.of({"gates": {"thresholds": NEW, "numbers": {"1": [0.01, 0.9], "2": [0.01, 0.9]}}}).judged(table)
    assert judged.select(["output_change", "source_distance", "flags"]).to_pylist() == [
        {"output_change": None, "source_distance": None, "flags": []},
        {"output_change": 0.01, "source_distance": 0.9, "flags": ["no_op"]},
        {"output_change": None, "source_distance": None, "flags": None},
    ]


@pytest.fixture
def finished(tmp_path: Path) -> tuple[LocalStore, Run]:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 6), shard_size=4)
    translate_all(store, run, sources)
    return store, run


def measured(store: LocalStore, run: Run) -> dict[str, Any]:
    """Metrics by which the first record hardly changed and the second is out of place."""
    first, second, *others = manifest_table(store, run)["record_id"].to_pylist()
    numbers = {first: [0.01, 0.9], second: [0.2, 1.3], **{record: [0.2, 0.9] for record in others}}
    return {"rows": [], "gates": {"sources": 6, "targets": 6, "thresholds": NEW, "numbers": numbers}}


def test_a_snapshot_has_the_flags_that_its_metrics_give(finished: tuple[LocalStore, Run]) -> None:
    store, run = finished
    snapshot = publish(store, run, measured(store, run), b"page")
    assert snapshot.gates == NEW
    table = read_table(store.read(snapshot.manifest_key), MANIFEST)
    assert table["flags"].to_pylist() == [["no_op"], ["out_of_domain"], [], [], [], []]
    assert table["output_change"].to_pylist()[:2] == [0.01, 0.2]
    assert verify(store, run.id).word == "intact"
    assert publish(store, run, json.loads(store.read(snapshot.metrics_key)), b"page") == snapshot


def test_a_snapshot_of_an_earlier_version_verifies_as_written(finished: tuple[LocalStore, Run]) -> None:
    store, run = finished
    old = publish(store, run, {"rows": []}, b"page", gates=Gates({"structure_high": 0.3, "flat_output": 0.5}))
    assert set(map(tuple, read_table(store.read(old.manifest_key), MANIFEST)["flags"].to_pylist())) == {
        ("flat_output",)
    }
    publish(store, run, measured(store, run), b"page")
    assert verify(store, run.id).word == "intact"


@pytest.mark.parametrize("changed", ["flags", "output_change", "source_distance"])
def test_a_flag_or_number_that_does_not_follow_is_found(
    finished: tuple[LocalStore, Run], changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever makes everything above it fit: here the publisher itself."""
    store, run = finished
    honest = Gates.judged

    def forged(self: Gates, table: pa.Table) -> pa.Table:
        judged = honest(self, table)
        place = judged.schema.get_field_index(changed)
        values = judged[changed].to_pylist()
        values = [[] for _ in values] if changed == "flags" else [0.3 for _ in values]
        return judged.set_column(place, MANIFEST.arrow.field(changed), pa.array(values, judged[changed].type))

    with monkeypatch.context() as patched:
        patched.setattr(Gates, "judged", forged)
        snapshot = publish(store, run, measured(store, run), b"page")
    (finding,) = verify(store, run.id).findings
    assert (finding.kind, finding.key) == ("tampered", snapshot.manifest_key)
    assert "holds other rows than the shards" in finding.message
