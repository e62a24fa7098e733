"""What somebody who has one of `deployments/policies` and nothing else can do, on a server that enforces them.

SeaweedFS does so for what is asked of it here: actions, resources with `*`, and the condition on `s3:prefix`. AWS's own
evaluation, and multipart uploads that are given up, are not tested.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.object_server import BUCKET, ObjectServer
from lsb.audit import verify
from lsb.errors import StoreError
from lsb.jobs.gc import clean_up
from lsb.ledger import layout
from lsb.ledger.leases import Leases
from lsb.ledger.publish import publish
from lsb.ledger.run import Run
from lsb.ledger.worker import at_work
from lsb.store.store import Store, open_store
from lsb.views.status import status
from tests.ledger import make_images, start, translate_all
from tests.rights import PREFIX, policies

ROLES = tuple(policies())
ACTIONS = ("ListBucket", "GetObject", "PutObject", "AbortMultipartUpload", "DeleteObject")
PAGE = b"<html></html>"


@contextmanager
def acting_as(role: str, server: ObjectServer) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.credentials(role).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("rights") / "images", 2)


@pytest.fixture(scope="module")
def planned(pictures: Path, object_server: ObjectServer) -> tuple[Store, Run, Store]:
    """A run that a publisher has planned."""
    with acting_as("publisher", object_server):
        store = open_store(f"s3://{BUCKET}/{PREFIX}", create=True)
        store.check()
        return (store, *start(store, pictures))


@pytest.fixture(scope="module")
def done(planned: tuple[Store, Run, Store], object_server: ObjectServer) -> tuple[Store, Run]:
    """The same, translated by a worker and published by the publisher."""
    store, run, sources = planned
    with acting_as("worker", object_server):
        store.check()
        translate_all(store, run, sources)
    with acting_as("publisher", object_server):
        publish(store, run, {}, PAGE)
    return store, run


def some(store: Store, run: Run, ending: str) -> str:
    return next(entry.key for entry in store.list(layout.run_folder(run.id)) if entry.key.endswith(ending))


@pytest.mark.parametrize("role", ROLES)
def test_everybody_reads_and_nobody_reaches_beyond_the_prefix(
    role: str, done: tuple[Store, Run], object_server: ObjectServer
) -> None:
    store, run = done
    beyond = open_store(f"s3://{BUCKET}")
    beyond.write("elsewhere", b"1")
    with acting_as(role, object_server):
        assert verify(store, run.id).exit_code == 0
        assert status(store, run).records
        forbidden: list[Callable[[], object]] = [
            lambda: open_store(f"s3://{BUCKET}"),
            lambda: beyond.read("elsewhere"),
            lambda: beyond.write("elsewhere", b"2"),
            lambda: beyond.delete("elsewhere"),
        ]
        for act in forbidden:
            with pytest.raises(StoreError, match="access denied"):
                act()


@pytest.mark.parametrize("role", ["reader", "worker", "publisher"])
def test_nobody_but_the_keeper_deletes_what_is_published(
    role: str, done: tuple[Store, Run], object_server: ObjectServer
) -> None:
    store, run = done
    with acting_as(role, object_server):
        for ending in (".png", "/log/00000000.json", "rows-00000.parquet", "manifest.parquet", "run.json"):
            with pytest.raises(StoreError):
                store.delete(some(store, run, ending))
    assert verify(store, run.id).exit_code == 0


def test_a_reader_writes_nothing(done: tuple[Store, Run], object_server: ObjectServer) -> None:
    store, run = done
    with acting_as("reader", object_server):
        for write in (store.check, lambda: publish(store, run, {"more": 1}, PAGE)):
            with pytest.raises(StoreError):
                write()
        for key in (".tmp/a", some(store, run, ".png"), f"runs/{run.id}/leases/a"):
            with pytest.raises(StoreError):
                store.write(key, b"")


def test_a_worker_plans_and_publishes_nothing(
    done: tuple[Store, Run], pictures: Path, object_server: ObjectServer
) -> None:
    store, run = done
    with acting_as("worker", object_server):
        for write in (lambda: publish(store, run, {"more": 1}, PAGE), lambda: start(store, pictures, shard_size=1)):
            with pytest.raises(StoreError):
                write()
        for key in (layout.run_file(run.id), some(store, run, "manifest.parquet"), "jobs/a/log/00000000.json"):
            with pytest.raises(StoreError):
                store.write(key, b"")
        with at_work() as worker:
            leases = Leases(store, run.id, worker)
            assert leases.take("00000", leases.look().get("00000"))
            leases.renew()
            leases.give_back("00000")
            assert leases.is_free(leases.look()["00000"])
        store.write(layout.doubt_file("a", "b", "c"), b"")
    assert verify(store, run.id).exit_code == 0


def test_a_publisher_takes_back_what_only_it_relies_on(done: tuple[Store, Run], object_server: ObjectServer) -> None:
    store, _ = done
    with acting_as("publisher", object_server):
        for key in (layout.doubt_file("a", "b", "c"), f"prompts/flat/recipe-{'0' * 64}.checkpoint"):
            store.write(key, b"")
            store.delete(key)


def test_a_keeper_cleans_up(done: tuple[Store, Run], object_server: ObjectServer) -> None:
    store, run = done
    left = layout.output_file(run.id, "00000", layout.new_attempt(), "0" * 32, "png")
    store.write(left, b"")
    for role, deletes, left_alone in (("publisher", False, {run.id}), ("keeper", True, set())):
        with acting_as(role, object_server):
            found = clean_up(store, older_than=-1, least=-1)  # as if an hour had passed
        assert (left in {one.key for one in found.deleted}) == deletes == (not store.exists(left))
        assert set(found.left_alone) == left_alone
    assert verify(store, run.id).exit_code == 0


def test_no_policy_says_more_than_what_is_tried_here() -> None:
    for name, document in policies().items():
        for statement in json.loads(document)["Statement"]:
            actions, places = (
                [found] if isinstance(found, str) else found for found in (statement["Action"], statement["Resource"])
            )
            assert set(actions) <= {f"s3:{action}" for action in ACTIONS}, name
            assert all(place.startswith(f"arn:aws:s3:::{BUCKET}/{PREFIX}/") for place in places) or (
                (actions, places) == (["s3:ListBucket"], [f"arn:aws:s3:::{BUCKET}"]) and "Condition" in statement
            ), name
