"""What no object store has answered is not believed: single answers of a real one, falsified on their way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from examples.object_server import ObjectServer
from lsb.errors import AlreadyExistsError, NotFoundError, StoreBusyError, StoreError
from lsb.ledger.log.commit_log import checked_data
from lsb.records import sha256
from lsb.store import s3
from lsb.store.s3 import S3Store
from tests.unit.store.lying_proxy import (
    BROKEN_PAGE,
    Answer,
    Lie,
    LyingProxy,
    flipped,
    page,
    web_server,
    with_body,
)

ERROR_IN_XML = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>try again</Message></Error>"


@pytest.fixture(scope="module")
def shared(object_server: ObjectServer) -> Iterator[LyingProxy]:
    made = LyingProxy(object_server.endpoint)
    yield made
    made.close()


@pytest.fixture
def proxy(shared: LyingProxy, monkeypatch: pytest.MonkeyPatch) -> LyingProxy:
    """As good as new; of the client, which takes long to make, the connections are kept and all that it has learned
    forgotten."""
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", shared.endpoint)
    shared.lies, shared.deaf, shared.told, shared.requests = {}, False, 0, 0
    client = s3._client()
    client.answered, client.etags_are_md5 = False, True
    client.known.clear()
    return shared


@pytest.fixture
def store(proxy: LyingProxy, s3_uri: str) -> S3Store:
    made = S3Store.open(s3_uri)
    made.write("there/a", b"first")
    made.write("there/b", b"second")
    return made


PAGES: dict[str, Lie] = {
    "page": page(),
    "broken page": page(body=BROKEN_PAGE),
    "empty": page(body=b""),
    "tagged page": web_server,
    "redirected": page(302, Location="http://127.0.0.1:9/login"),
    "not found": page(404),
    "forbidden": page(403, body=BROKEN_PAGE),
    "asks for a login": page(401),
    "error in a success": with_body(200, ERROR_IN_XML),
}
ACTS: dict[str, tuple[str, Callable[[S3Store], Any], Any]] = {
    "list": ("LIST", lambda store: [entry.key for entry in store.list("there")], ["there/a", "there/b"]),
    "folders": ("LIST", lambda store: store.folders("th"), ["there"]),
    "read": ("GET", lambda store: store.read("there/a"), b"first"),
    "read_pieces": ("HEAD", lambda store: b"".join(store.read_pieces("there/a")), b"first"),
    "exists": ("HEAD", lambda store: store.exists("there/a"), True),
    "does not exist": ("LIST", lambda store: store.exists("there/c"), False),
    "entry": ("HEAD", lambda store: store.entry("there/a").size, 5),
    "write": ("PUT", lambda store: store.write("there/d", b"new"), None),
    "create": ("PUT", lambda store: store.create("there/e", b"new"), None),
    "delete": ("DELETE", lambda store: store.delete("there/b"), None),
}


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("lie", PAGES)
@pytest.mark.parametrize("act", ACTS)
def test_a_page_is_no_answer(store: S3Store, proxy: LyingProxy, act: str, lie: str, deaf: bool) -> None:
    kind, do, expected = ACTS[act]
    if lie == "error in a success" and (deaf or kind in ("GET", "HEAD", "DELETE")):
        lie = "page"  # of these the store's own headers tell
    proxy.deaf = deaf
    proxy.lies[kind] = [PAGES[lie], PAGES[lie]]
    assert do(store) == expected
    assert proxy.told == 2
    written = {"write": {"there/d": b"new"}, "create": {"there/e": b"new"}, "delete": {"there/b": None}}.get(act, {})
    for key, data in written.items():
        assert store.exists(key) == (data is not None)
        assert data is None or store.read(key) == data


def test_a_404_to_a_head_is_no_proof_that_an_object_is_missing(store: S3Store, proxy: LyingProxy) -> None:
    proxy.lies["HEAD"] = [lambda answer: Answer(404, {"Content-Type": "text/plain"}, b"")]
    with checked_data(store, "there/a", sha256(b"first")) as data:
        assert data == b"first"
    assert proxy.told == 1


@pytest.mark.parametrize("act", ACTS)
def test_pages_without_end_are_a_busy_store(store: S3Store, proxy: LyingProxy, act: str) -> None:
    kind, do, _ = ACTS[act]
    proxy.lies[kind] = [page()] * 1000
    with pytest.raises(
        StoreBusyError, match=r"what answers is no object store \(a 200 .*proxy or a login page"
    ) as caught:
        do(S3Store(store.bucket, store.prefix, patience=0.3))
    assert (caught.value.transient, "\n" in str(caught.value)) == (True, False)


def test_a_page_at_first_contact_is_named(proxy: LyingProxy, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "FIRST_CONTACT_SECONDS", 0.2)
    for lie in (page(), page(body=BROKEN_PAGE), page(403), page(404)):
        proxy.lies["LIST"] = [lie] * 1000
        with pytest.raises(StoreError, match=r"no object store answers .*at http://127") as caught:
            S3Store.open(f"{s3_uri}/{time.monotonic_ns()}")
        assert (caught.value.transient, "\n" in str(caught.value)) == (False, False)


def changed(pattern: bytes, by: bytes = b"") -> Lie:
    """A piece of the body is another, or missing."""
    return lambda answer: replace(answer, body=re.sub(pattern, by, answer.body))


@pytest.mark.parametrize(
    "lie",
    [
        changed(b"<IsTruncated>.*</IsTruncated>"),
        changed(b"<IsTruncated>false", b"<IsTruncated>true"),
        changed(b"<Size>.*?</Size>"),
        changed(b"<Name>.*?</Name>"),
        changed(b"</Contents><.*"),
        changed(b"there/", b"other/"),
    ],
    ids=["unsaid whether it goes on", "does not say how", "no sizes", "of nothing", "cut off", "of something else"],
)
def test_a_listing_that_cannot_be_is_asked_for_again(store: S3Store, proxy: LyingProxy, lie: Lie) -> None:
    proxy.lies["LIST"] = [lie, lie]
    assert [entry.key for entry in store.list("there")] == ["there/a", "there/b"]
    assert proxy.told == 2


def test_a_page_of_a_listing_that_comes_again_and_again(
    store: S3Store, proxy: LyingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache in between that does not look at what was asked."""
    monkeypatch.setattr(s3, "PAGE", 1)
    store.write("there/c", b"third")
    kept: list[Any] = []

    def keep(answer: Any) -> Any:
        kept.append(answer)
        return answer

    proxy.lies["LIST"] = [keep, lambda answer: kept[0], None, lambda answer: kept[0]]
    assert [entry.key for entry in store.list("there")] == ["there/a", "there/b", "there/c"]
    proxy.lies["LIST"] = [keep, *[lambda answer: kept[0]] * 1000]
    with pytest.raises(StoreBusyError, match="does not say how it goes on"):
        S3Store(store.bucket, store.prefix, patience=0.3).list("there")


def test_bytes_that_were_changed_on_their_way_are_read_again(store: S3Store, proxy: LyingProxy) -> None:
    proxy.lies["GET"] = [flipped]
    assert store.read("there/a") == b"first"
    proxy.lies["GET"] = [flipped, lambda answer: with_body(200, b"frist")(flipped(answer))]
    with pytest.raises(StoreBusyError, match="comes with other bytes each time"):
        store.read("there/a")


def test_a_store_whose_etags_are_no_digests_is_believed(store: S3Store, proxy: LyingProxy) -> None:
    def retagged(answer: Any) -> Any:
        kept = {name: value for name, value in answer.headers.items() if name.lower() != "etag"}
        return replace(answer, headers={**kept, "ETag": f'"{"0" * 32}"'})

    proxy.lies["GET"] = [retagged] * 3
    before = proxy.requests
    assert [store.read("there/a"), store.read("there/a")] == [b"first"] * 2
    assert proxy.requests - before == 3  # twice to find out, then once each


def test_a_part_of_an_object_is_the_part_that_was_asked_for(
    store: S3Store, proxy: LyingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PIECE", 2)
    entry = store.entry("there/a")

    def whole(answer: Any) -> Any:
        kept = {name: value for name, value in answer.headers.items() if name.lower() != "content-range"}
        return replace(answer, status=200, headers=kept, body=b"first")

    proxy.lies["GET"] = [page(), None, whole, None, with_body(206, b"xx")]
    assert b"".join(store.pieces(entry)) == b"first"
    assert proxy.told == 3


def test_refusals_and_absences_of_the_store_itself_are_believed_at_once(store: S3Store, proxy: LyingProxy) -> None:
    before = proxy.requests
    with pytest.raises(NotFoundError):
        store.read("there/c")
    with pytest.raises(AlreadyExistsError):
        store.create("there/a", b"x")
    assert not store.exists("there/c")
    assert store.exists("there/a")
    assert proxy.requests - before == 6  # GET; PUT and HEAD for the nonce; HEAD and LIST; HEAD
