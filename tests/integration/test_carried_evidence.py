"""What verify and the views say of carried records where something was changed, or is gone."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.compute as pc
import pytest

from lsb.audit import verify
from lsb.errors import TamperedError
from lsb.ledger import layout
from lsb.ledger.layout import run_file
from lsb.ledger.log.seal import seal, unseal
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import latest_snapshot, manifest_table
from lsb.ledger.run import Run
from lsb.ledger.schemas import PLAN, write_table
from lsb.pictures.encoding import encode
from lsb.records import sha256
from lsb.views.status import status
from lsb.views.trace import trace
from tests.integration.pipeline import Pipeline
from tests.ledger import picture

pytestmark = pytest.mark.usefixtures("exact_clock")


def test_what_is_carried_from_a_run_that_is_gone_is_tampered_with(job: Pipeline, first: Run) -> None:
    job.add(70)
    second = job.plan()
    job.finish(second)
    job.store.delete(run_file(first.id))
    views = (
        lambda: manifest_table(job.store, second),
        lambda: status(job.store, second),
        lambda: trace(job.store, second.id, "even/0000.png"),
    )
    for view in views:
        with pytest.raises(TamperedError, match=f"runs/{first.id}/run.json is missing"):
            view()
    assert verify(job.store, second.id).exit_code == 10


def test_how_a_parent_decoded_is_checked(job: Pipeline, first: Run) -> None:
    job.add(70)
    second = job.plan()
    job.finish(second)
    key = run_file(second.id)
    document = unseal(job.store.read(key), key=key, schema="lsb.run/1")
    assert document["parent"]["same_decoding"] is True
    document["parent"]["same_decoding"] = False
    job.store.write(key, seal(document))
    messages = [finding.message for finding in verify(job.store, second.id).findings]
    assert any("whether it decoded pictures in the same way" in message for message in messages)


def delete_image(job: Pipeline, first: Run, second: Run) -> str:
    key = job.rows(second)["even/0002.png"]["output_key"]
    job.store.delete(key)
    return key


def change_image(job: Pipeline, first: Run, second: Run) -> str:
    key = job.rows(second)["even/0002.png"]["output_key"]
    job.store.write(key, encode(picture(1), "png"))
    return key


def change_manifest(job: Pipeline, first: Run, second: Run) -> str:
    snapshot = latest_snapshot(job.store, first)
    assert snapshot is not None
    job.store.write(snapshot.manifest_key, job.store.read(snapshot.manifest_key)[:-1] + b"x")
    return snapshot.manifest_key


def cut_snapshot(job: Pipeline, first: Run, second: Run) -> str:
    key = f"runs/{first.id}/snapshots/log/00000000.json"
    job.store.delete(key)
    return key


def cut_log(job: Pipeline, first: Run, second: Run) -> str:
    """The newest commit of the shard that made an image."""
    row = job.rows(second)["even/0002.png"]
    job.store.delete(f"runs/{first.id}/shards/{row['shard']}/log/00000000.json")
    return row["output_key"]


@pytest.mark.parametrize("spoil", [delete_image, change_image, change_manifest, cut_snapshot, cut_log])
def test_verify_finds_what_was_changed_about_carried_records(
    job: Pipeline, first: Run, spoil: Callable[[Pipeline, Run, Run], str]
) -> None:
    job.change()
    second = job.plan()
    job.finish(second)
    key = spoil(job, first, second)
    verdict = verify(job.store, second.id)
    assert verdict.exit_code == 10
    assert key in {finding.key for finding in verdict.findings}


def test_the_plan_of_a_run_that_carries_can_be_worked_out_again(job: Pipeline, first: Run) -> None:
    """A plan that carries a record which has changed does not pass."""
    job.change()
    second = job.plan()
    plan = read_plan(job.store, second)
    forged = plan.set_column(
        plan.schema.get_field_index("action"),
        PLAN.arrow.field("action"),
        pc.if_else(pc.equal(plan["key"], "odd/0001.png"), "carry", plan["action"]),
    )
    data = write_table(forged, PLAN)
    key = layout.plan_file(second.id, sha256(data))
    job.store.write(key, data)
    name = layout.run_file(second.id)
    document = unseal(job.store.read(name), key=name, schema="lsb.run/1")
    document["plan"] |= {"key": key, "sha256": sha256(data)}
    job.store.write(name, seal(document))
    verdict = verify(job.store, second.id)
    assert verdict.exit_code == 10
    assert any("does not follow from the data set, the parent" in finding.message for finding in verdict.findings)
