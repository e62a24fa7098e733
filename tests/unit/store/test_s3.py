from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from examples.object_server import ObjectServer
from lsb.errors import AlreadyExistsError, NotFoundError, StoreBusyError, StoreError, UsageError
from lsb.pictures.sources import open_sources
from lsb.store import s3
from lsb.store.s3 import S3Store
from lsb.store.store import Store, open_store
from tests.unit.store.contract import StoreContract
from tests.unit.store.flaky_s3 import LOST, FlakyS3

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(s3_uri: str) -> S3Store:
    return S3Store.open(s3_uri)


class TestContract(StoreContract):
    @pytest.fixture
    def store(self, s3_uri: str) -> Store:
        return open_store(s3_uri)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    server = FlakyS3()
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", server.endpoint)
    yield server
    server.close()


def impatient() -> S3Store:
    return S3Store("bucket", patience=0.2)


def test_a_bucket_and_a_prefix_are_stores(object_server: ObjectServer, s3_uri: str) -> None:
    store = open_store(f"{s3_uri}/deeper/")
    store.write("a", b"1")
    assert store.uri == f"{s3_uri}/deeper"
    prefix = s3_uri.rpartition("/")[2]
    assert open_store(s3_uri).list()[0].key == "deeper/a"
    assert open_store(object_server.uri).read(f"{prefix}/deeper/a") == b"1"


def test_a_listing_has_size_etag_and_the_stores_clock(store: S3Store) -> None:
    store.write("a", b"123")
    (entry,) = store.list()
    assert (entry.key, entry.size, entry.etag) == ("a", 3, "202cb962ac59075b964b07152d234b70")
    assert abs(entry.modified - time.time()) < 60


def test_a_listing_of_several_pages(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 2)
    keys = [f"a/{number}" for number in range(5)]
    for key in keys:
        store.write(key, b"")
    assert [entry.key for entry in store.list()] == keys
    assert [entry.key for entry in store.list("a")] == keys
    for number in range(5):
        store.write(f"b-{number}/x", b"")
    assert store.folders("b-") == [f"b-{number}" for number in range(5)]


@pytest.mark.parametrize(
    "name", ["my cats/Käthe (1).png", "a?versionId=1.png", "100%41.png", "a+b&c=d#e.png", "a:b.png"]
)
def test_names_of_sources_may_hold_anything(store: S3Store, name: str) -> None:
    store._ask("write", name, "put_object", Key=store._key(name), Body=b"picture")
    assert [entry.key for entry in store.list()] == [name]
    assert store.read(name) == b"picture"
    assert store.exists(name)


def test_markers_of_folders_are_no_objects(store: S3Store) -> None:
    store._ask("write", "a/", "put_object", Key=store._key("a/"), Body=b"")
    store.write("a/1", b"")
    assert [entry.key for entry in store.list()] == ["a/1"]


def test_what_is_no_bucket_is_refused_in_one_line(s3_uri: str) -> None:
    with pytest.raises(UsageError, match="names no bucket"):
        open_store("s3://")
    with pytest.raises(StoreError, match="no bucket no-such-bucket at http://127"):
        open_store("s3://no-such-bucket/a", create=True)
    with pytest.raises(StoreError, match="not allowed"):
        open_store(f"{s3_uri}/../other")
    with pytest.raises(StoreError, match="check bucket name"):
        open_store("s3://No Bucket/a")


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    for open_it in (open_store, open_sources):
        with pytest.raises(UsageError, match="must not hold credentials") as caught:
            open_it("s3://AKIAX:hunter2@bucket/prefix")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "access denied .SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "access denied .InvalidAccessKeyId"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials; set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
        ({"FSSPEC_S3_ENDPOINT_URL": "nowhere"}, "check bucket name, endpoint"),
    ],
)
def test_an_environment_that_does_not_fit(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], words: str
) -> None:
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=words) as caught:
        open_store(s3_uri)
    assert not caught.value.transient
    assert "\n" not in str(caught.value)


def test_where_nothing_answers_one_soon_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "FIRST_CONTACT_SECONDS", 0.2)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(StoreError, match=r"nothing answers at http://127\.0\.0\.1:9 ") as caught:
        open_store("s3://bucket")
    assert not caught.value.transient
    assert "hunter2" not in str(caught.value)


def test_no_secret_is_printed_logged_or_pickled(
    s3_uri: str, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = [object_server.environment["AWS_SECRET_ACCESS_KEY"], "session-token-of-mine"]
    caplog.set_level(logging.DEBUG, logger="lsb")
    caplog.set_level(logging.DEBUG, logger="s3fs")
    said = []
    store = S3Store.open(s3_uri)
    store.create("a", b"1")
    said += [
        repr(store),
        str(vars(store)),
        pickle.dumps(store).decode("latin-1"),
        repr(s3._client()),
        repr(s3._client_of),
    ]
    for break_it in (
        lambda: store.create("a", b"2"),
        lambda: store.read("b"),
        lambda: open_store("s3://no-bucket-here"),
    ):
        with pytest.raises(StoreError) as caught:
            break_it()
        said.append("".join(traceback.format_exception(caught.value)))
    monkeypatch.setenv("AWS_SESSION_TOKEN", secrets[1])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    with pytest.raises(StoreError) as caught:
        store.read("a")
    said += ["".join(traceback.format_exception(caught.value)), caplog.text]
    assert "put_object" in caplog.text
    for secret in secrets:
        assert not [text for text in said if secret in text]


def test_an_answer_that_is_lost_is_no_defeat(flaky: FlakyS3) -> None:
    store = S3Store("bucket")
    flaky.faults["PUT"] = [LOST, LOST, None]
    store.create("a", b"mine")
    assert flaky.objects["/bucket/a"][0] == b"mine"
    assert flaky.requests["PUT"] >= 2
    flaky.faults["PUT"] = [LOST]
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"mine")
    assert flaky.objects["/bucket/a"][0] == b"mine"


def test_a_file_is_sent_from_its_beginning_each_time(flaky: FlakyS3) -> None:
    store, data = S3Store("bucket"), bytes(range(256)) * 4000
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        flaky.faults["PUT"] = [503, 500]
        store.create("a", file)
        flaky.faults["PUT"] = [LOST, LOST]
        store.create("b", file)
    assert flaky.requests["PUT"] >= 5
    assert [found for found, _ in flaky.objects.values()] == [data, data]


@pytest.mark.parametrize(
    ("status", "code"), [(409, "ConditionalRequestConflict"), (500, "InternalError"), (503, "SlowDown")]
)
def test_a_busy_store_is_asked_again_for_a_while(flaky: FlakyS3, status: int, code: str) -> None:
    flaky.code = code
    flaky.faults["PUT"] = [status, status]
    store = S3Store("bucket")
    store.create("a", b"1")
    assert flaky.requests["PUT"] == 3
    flaky.faults["GET"] = [status]
    assert store.read("a") == b"1"
    flaky.faults["PUT"] = [status] * 100
    with pytest.raises(StoreBusyError, match=f"the store answers {status} {code}") as caught:
        impatient().write("b", b"1")
    assert caught.value.transient
    assert 0 < len(flaky.faults["PUT"]) < 100


def test_a_store_that_stops_answering_is_busy(flaky: FlakyS3) -> None:
    store = impatient()
    store.write("a", b"1")
    flaky.faults["GET"] = [LOST] * 100
    with pytest.raises(StoreBusyError, match="no answer") as caught:
        store.read("a")
    assert caught.value.key == "a"


def test_a_refusal_is_final(flaky: FlakyS3) -> None:
    flaky.code = "AccessDenied"
    flaky.faults["PUT"] = [403]
    with pytest.raises(StoreError, match=r"cannot write a in s3://bucket: access denied \(AccessDenied\)") as caught:
        S3Store("bucket").write("a", b"1")
    assert caught.value.of_object
    assert flaky.requests["PUT"] == 1


@pytest.mark.parametrize(
    ("status", "code"), [(403, "InvalidAccessKeyId"), (400, "ExpiredToken"), (404, "NoSuchBucket")]
)
def test_what_ails_the_whole_store_is_no_objects_fault(flaky: FlakyS3, status: int, code: str) -> None:
    flaky.code = code
    flaky.faults["GET"] = [status]
    with pytest.raises(StoreError) as caught:
        S3Store("bucket").read("a")
    assert not caught.value.of_object
    assert not caught.value.transient


def test_a_store_that_ignores_the_condition_is_refused(flaky: FlakyS3) -> None:
    S3Store("bucket").check()
    flaky.honours_conditions = False
    with pytest.raises(StoreError, match="s3://bucket does not honour conditional creation"):
        S3Store("bucket").check()
    assert flaky.objects == {}


def test_reading_and_writing_take_one_request_each(flaky: FlakyS3) -> None:
    store = S3Store("bucket")
    store.write("a", b"x" * 1000)
    store.create("b", b"1")
    store.read("a")
    assert flaky.requests == {"PUT": 2, "GET": 1}


def test_an_object_of_more_than_one_put_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "LARGEST_OBJECT", 2)
    with pytest.raises(StoreError, match="3 bytes, an object has at most 5 GiB"):
        store.write("a", b"123")


def _write(store: S3Store, key: str) -> None:
    store.write(key, store.read("parent"))


def test_a_store_works_in_a_spawned_child_and_in_the_parent_afterwards(store: S3Store) -> None:
    store.write("parent", b"1")
    child = SPAWN.Process(target=_write, args=(store, "child"))
    child.start()
    store.write("meanwhile", b"1")
    child.join()
    assert child.exitcode == 0
    assert [entry.key for entry in store.list()] == ["child", "meanwhile", "parent"]


CLEAN_END = """
import multiprocessing, sys
from lsb.store.store import open_store

def read():
    assert store.read("a") == b"1"
    store.write("b", b"2")

store = open_store(sys.argv[1])
store.write("a", b"1")
child = multiprocessing.get_context("fork").Process(target=read)
child.start()
child.join()
read()
sys.exit(child.exitcode)
"""


def test_a_process_and_its_forked_child_end_without_a_word(s3_uri: str, tmp_path: Path) -> None:
    # In a process of its own: threads that other tests have left here would not survive the fork.
    command = [sys.executable, "-W", "error", "-c", CLEAN_END, s3_uri]
    root = str(Path(s3.__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_restart_of_the_server_is_waited_for(store: S3Store, object_server: ObjectServer) -> None:
    store.write("before", b"1")
    patient = S3Store(store.bucket, store.prefix, patience=600)  # a busy machine starts it slowly
    object_server.kill()
    done = threading.Thread(target=patient.create, args=("meanwhile", b"2"))
    done.start()
    object_server.start()
    done.join()
    assert (store.read("before"), store.read("meanwhile")) == (b"1", b"2")


def test_a_missing_object_is_not_found(store: S3Store) -> None:
    with pytest.raises(NotFoundError, match="no object a in s3://"):
        store.read("a")
