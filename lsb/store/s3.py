"""A bucket of an S3 store, or a folder in it, as a store.

Every object is one PUT of bytes that are complete before it begins: what can be seen is whole, and the condition of
`create` is decided by the store. Never in parts: several conditional multipart uploads can all succeed. Listings are
always asked for, never remembered, because others write too.

Credentials and endpoint come from the environment alone (`AWS_*`, `FSSPEC_S3_ENDPOINT_URL`, and whatever else boto
looks at, such as a cluster's identity). A store holds none of them, so that it can be printed and pickled.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError
from fsspec.asyn import get_loop, iothread, sync
from s3fs import S3FileSystem

from lsb.errors import AlreadyExistsError, NotFoundError, StoreBusyError, StoreError, UsageError
from lsb.redaction import visible
from lsb.store.answers import UnbelievedError, doubt_of, doubt_of_error, is_changed
from lsb.store.probe import prove_conditional_create
from lsb.store.store import Data, Entries, Entry, Names, size_of, validate_key, validate_path
from lsb.store.temporary import TEMPORARY
from lsb.store.usage import count

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0  # a killed server of ours was back after 12 to 23 s
FIRST_CONTACT_SECONDS = 5.0  # where nothing has answered yet, the address is more likely wrong than busy
PAGE = 1000  # entries of a listing that one request brings
PIECE = 64 << 20  # bytes of a large object that one request brings
LARGEST_OBJECT = 5 << 30  # of a single PUT
_NONCE = "lsb-nonce"
_ENDPOINTS = ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_NO_ANSWER = (
    HTTPClientError,
    BotoConnectionError,
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
    ConnectionError,
)
_CHANCE = secrets.SystemRandom()  # not `random`, whose state belongs to others
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_IDENTITY_CODES = frozenset(
    {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
)
_BUSY_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"})


class S3Store:
    """Store in an S3 bucket, below `prefix` if there is one.

    Transient faults (5xx, a conflict, no answer, or a page that no store wrote) are waited out for `patience` seconds,
    then StoreBusyError. May be shared by threads, pickled, and used in spawned and forked children.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, patience: float = PATIENCE_SECONDS, largest: int | None = None
    ) -> None:
        self.bucket = bucket
        self.largest = largest  # bytes; no object that is larger is read whole
        self.prefix = prefix
        self.patience = patience
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    @classmethod
    def open(cls, uri: str, *, largest: int | None = None) -> S3Store:
        """The store at `s3://bucket` or `s3://bucket/prefix`; one request tells whether it can be listed.

        Raises:
            UsageError: not such a URI, or one with credentials in it.
            StoreError: no such bucket, access denied, no credentials, or nothing answers.
        """
        parts = urlsplit(uri)
        if "@" in parts.netloc:
            raise UsageError("an s3:// URI must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        bucket, prefix = parts.netloc, uri.split("://", 1)[1].partition("/")[2].strip("/")
        if not bucket:
            raise UsageError(f"store {uri!r} names no bucket; give s3://bucket or s3://bucket/prefix")
        store = cls(bucket, validate_path(prefix) if prefix else "", largest=largest)
        known = _client().known
        if store.uri not in known:
            store._ask("list", "", "list_objects_v2", Prefix=store._key(""), MaxKeys=1)
            known.add(store.uri)
        return store

    def read(self, key: str) -> bytes:
        whole = self._key(validate_path(key))
        answer = self._ask("read", key, "get_object", Key=whole)
        if _client().etags_are_md5 and is_changed(answer):
            first, answer = answer, self._ask("read", key, "get_object", Key=whole)
            if is_changed(answer):
                if (first["ETag"], first["Body"]) != (answer["ETag"], answer["Body"]):
                    raise StoreBusyError(f"{key} in {self.uri} comes with other bytes each time; try later", key=key)
                _client().etags_are_md5 = False
        body: bytes = answer["Body"]
        return body

    def beginning(self, entry: Entry, length: int) -> bytes:
        """The first `length` bytes of an object, or all; StoreError if it was replaced since it was listed."""
        return self._piece(entry, 0, min(length, entry.size)) if entry.size else b""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        whole, wanted = self._key(validate_path(key)), f"bytes={start}-{start + length - 1}"
        data: bytes = self._ask("read", key, "get_object", Key=whole, Range=wanted)["Body"] if length else b""
        return data

    def read_pieces(self, key: str) -> Iterator[bytes]:
        try:
            size = self.entry(key).size
        except NotFoundError:  # the answer to HEAD proves nothing; that to a reading does
            size = 0
        if size <= PIECE:
            yield self.read(key)
            return
        for start in range(0, size, PIECE):
            yield self.read_range(key, start, min(PIECE, size - start))

    def write(self, key: str, data: bytes) -> None:
        self._put("write", key, data)

    def create(self, key: str, data: Data) -> None:
        nonce = secrets.token_hex(16)
        try:
            self._put("create", key, data, IfNoneMatch="*", Metadata={_NONCE: nonce})
        except AlreadyExistsError:
            # A request whose answer was lost is sent again, by us or by the HTTP client, and refused for its own
            # success. The nonce tells.
            if not self._carries(key, nonce):
                raise

    def exists(self, key: str) -> bool:
        try:
            self.entry(key)
        except NotFoundError:
            # The answer to HEAD has nothing in it that proves it; a listing has.
            whole = self._key(key)
            page = self._ask("look for", key, "list_objects_v2", Prefix=whole, MaxKeys=1)
            return any(item["Key"] == whole for item in page.get("Contents", []))
        return True

    def entry(self, key: str) -> Entry:
        """What a listing would say of one object; NotFoundError if there is none."""
        found = self._ask("read", key, "head_object", Key=self._key(validate_path(key)))
        return Entry(key, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def pieces(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of a large object a piece at a time; StoreError if it is replaced meanwhile."""
        for start in range(0, entry.size, PIECE):
            yield self._piece(entry, start, min(start + PIECE, entry.size))

    def delete(self, key: str) -> None:
        self._ask("delete", key, "delete_object", Key=self._key(validate_key(key)))

    def check(self) -> None:
        prove_conditional_create(self)

    def list(self, prefix: str = "") -> Entries:
        folder = prefix.rstrip("/")
        top = self._key(validate_path(folder) + "/" if folder else "")
        entries: dict[str, Entry] = {}
        for page in self._pages(prefix, Prefix=top):
            for item in page.get("Contents", []):
                key = item["Key"][len(self._key("")) :]
                hidden = not folder and key.startswith(f"{TEMPORARY}/")
                if key and not key.endswith("/") and not hidden:
                    when = item["LastModified"].timestamp()
                    entries[key] = Entry(key, item["Size"], item["ETag"].strip('"'), when)
        return sorted(entries.values())

    def folders(self, beginning: str) -> Names:
        top = self._key(beginning)
        found: set[str] = set()
        for page in self._pages(beginning, Prefix=top, Delimiter="/"):
            found |= {item["Prefix"][len(self._key("")) : -1] for item in page.get("CommonPrefixes", [])}
        return sorted(found)

    def _pages(self, prefix: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        page: dict[str, Any] = {"IsTruncated": True}
        while page["IsTruncated"]:
            token = page.get("NextContinuationToken")
            more = {"ContinuationToken": token} if token else {}
            page = self._ask("list", prefix, "list_objects_v2", MaxKeys=PAGE, **parameters, **more)
            yield page

    def _piece(self, entry: Entry, start: int, end: int) -> bytes:
        part = {"Range": f"bytes={start}-{end - 1}", "IfMatch": f'"{entry.etag}"'}
        found: bytes = self._ask("read", entry.key, "get_object", Key=self._key(validate_path(entry.key)), **part)[
            "Body"
        ]
        return found

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, verb: str, key: str, data: Data, **condition: Any) -> None:
        whole = validate_key(self._key(validate_key(key)))
        if (size := size_of(data)) > LARGEST_OBJECT:
            raise StoreError(f"cannot {verb} {key}: {size} bytes, an object has at most 5 GiB", key=key)
        self._ask(verb, key, "put_object", Key=whole, Body=data, **condition)

    def _carries(self, key: str, nonce: str) -> bool:
        try:
            found = self._ask("read", key, "head_object", Key=self._key(key))
        except NotFoundError:
            return False
        return bool(found.get("Metadata", {}).get(_NONCE) == nonce)

    def _ask(self, verb: str, key: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request, repeated while the store is busy."""
        begun = time.monotonic()
        pause = 0.05
        while True:
            client = _client()
            logger.debug("%s %s", operation, visible(key))
            count()
            try:
                with _sendable(parameters) as sent:
                    answer = client.call(operation, self.largest, Bucket=self.bucket, **sent)
            except (OSError, BotoCoreError, ClientError, aiohttp.ClientError, UnbelievedError, ValueError) as error:
                failure = self._failure(verb, key, error)
                patience = self.patience if client.answered else min(self.patience, FIRST_CONTACT_SECONDS)
                if not failure.transient:
                    raise failure from error
                if time.monotonic() - begun + pause > patience:
                    if client.answered:
                        raise failure from error
                    answers = f"no object store answers ({_doubt_in(error)})" if _doubt_in(error) else "nothing answers"
                    advice = "check FSSPEC_S3_ENDPOINT_URL and the server"
                    raise StoreError(f"{answers} at {_endpoint()} for {self.uri}; {advice}") from error
                logger.info("%s; asking again", visible(str(failure)))
            else:
                count(0, read=len(answer.get("Body", b"")), written=size_of(parameters.get("Body", b"")))
                return answer
            time.sleep(pause * _CHANCE.uniform(0.5, 1.0))  # so that many clients do not ask in step
            pause = min(2 * pause, 2.0)

    def _failure(self, verb: str, key: str, error: Exception) -> StoreError:
        """What an exception means, in one line without anything that might be secret."""
        place = f"{key} in {self.uri}" if key else self.uri
        answer = None if _doubt_in(error) else _answer_in(error)
        if answer is None:
            return self._unanswered(verb, place, key, error)
        code = str(answer.get("Error", {}).get("Code", ""))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return StoreError(f"no bucket {self.bucket} at {_endpoint()}; make it first, lsb makes no buckets")
        if status == 404:
            return NotFoundError(f"no object {place}", key=key)
        if status == 412 and verb == "read":
            return StoreError(f"{key} in {self.uri} was replaced while it was read; try again", key=key)
        if status == 412:
            return AlreadyExistsError(f"{key} exists in {self.uri}; read it", key=key)
        if status >= 500 or status in (409, 429) or code in _BUSY_CODES:
            return StoreBusyError(f"cannot {verb} {place} now: the store answers {status} {code}; try later", key=key)
        if code in _IDENTITY_CODES:
            return StoreError(f"cannot {verb} {place}: access denied ({code}); check the AWS_* credentials")
        if status in (401, 403):
            advice = "check what the credentials may do"
            return StoreError(f"cannot {verb} {place}: access denied ({code or status}); {advice}", key=key)
        advice = "check bucket, AWS_REGION and endpoint"
        return StoreError(f"cannot {verb} {place}: the store answers {status} {code}; {advice}", key=key)

    def _unanswered(self, verb: str, place: str, key: str, error: Exception) -> StoreError:
        kind = type(error).__name__
        if isinstance(error, _NO_CREDENTIALS):
            return StoreError(f"cannot {verb} {place}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if doubt := _doubt_in(error):
            reason = f"what answers is no object store ({doubt})"
            advice = "look for a proxy or a login page in between, or try later"
            return StoreBusyError(f"cannot {verb} {place} now: {reason}; {advice}", key=key)
        if isinstance(error, _NO_ANSWER) and not isinstance(error, SSLError):
            return StoreBusyError(f"cannot {verb} {place} now: no answer ({kind}); try later", key=key)
        advice = "check bucket name, endpoint and AWS_* variables"
        return StoreError(f"cannot {verb} {place}: {kind}; {advice}")


class _Client:
    """The connections of one process, shared by its threads."""

    def __init__(self) -> None:
        self.answered = False
        self.etags_are_md5 = True  # until one turns out not to be
        self.known: set[str] = set()  # URIs that have been opened
        endpoint = os.environ.get("FSSPEC_S3_ENDPOINT_URL")
        # s3fs keeps no listing, asks nothing before it reads, and leaves repetitions to us, who know which are safe.
        # It is told to be asynchronous so that it does not try to close in a forked child what the parent uses.
        self._files = S3FileSystem(
            asynchronous=True,
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={
                "retries": {"total_max_attempts": 1},
                "connect_timeout": 5,
                "read_timeout": 60,
                "max_pool_connections": 32,
            },
            **({"endpoint_url": endpoint} if endpoint else {}),
        )
        self._files.retries = 1
        self._connection: Any = None
        self._loop = get_loop()
        weakref.finalize(self, _close, os.getpid(), self._loop, self._files)

    def call(self, operation: str, largest: int | None = None, /, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = sync(self._loop, self._call, operation, largest, parameters)
        return answer

    async def _call(self, operation: str, largest: int | None, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            connection = await self._files.set_session()
            if connection is not self._connection:
                # With it, each PUT would wait for the store's "100 Continue": a round trip of its own.
                connection.meta.events.unregister("before-call.s3", add_expect_header)
                self._connection = connection
            answer: dict[str, Any] = await self._files._call_s3(operation, **parameters)
        except (OSError, ClientError) as error:
            failure = _answer_in(error)
            if failure is not None:
                if doubt := doubt_of_error(operation, failure):
                    raise UnbelievedError(doubt) from error
                self.answered = True
            raise
        if "Body" in answer:
            async with answer["Body"] as body:
                if largest is not None and answer.get("ContentLength", 0) > largest:
                    text = f"{parameters['Key']} has more than {largest >> 20} MiB and is not read"
                    raise StoreError(text, key=parameters["Key"])
                answer["Body"] = await body.read()
        if doubt := doubt_of(operation, parameters, answer):
            raise UnbelievedError(doubt)
        self.answered = True
        return answer


def _answer_in(error: BaseException) -> dict[str, Any] | None:
    found: dict[str, Any] | None = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return found


def _doubt_in(error: BaseException) -> str | None:
    if isinstance(error, ResponseParserError):  # whose text holds the whole page
        return "something that cannot be parsed"
    return str(error) if isinstance(error, UnbelievedError) else None


@contextmanager
def _sendable(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Parameters of a request. A file among them is open a second time, since whoever sends it closes it."""
    body = parameters.get("Body", b"")
    if isinstance(body, bytes):
        yield parameters
        return
    with open(os.dup(body.fileno()), "rb") as again:
        again.seek(0)
        yield {**parameters, "Body": again}


def _close(pid: int, loop: Any, files: S3FileSystem) -> None:
    creator = getattr(files, "_s3creator", None)
    if creator is None or pid != os.getpid():
        return
    closing = asyncio.run_coroutine_threadsafe(creator.__aexit__(None, None, None), loop)
    if threading.current_thread() is not iothread[0]:  # the collector may have called us there
        closing.result(timeout=5)


def _client() -> _Client:
    settings = sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "FSSPEC_S3_")))
    return _client_of(os.getpid(), tuple(settings))


@lru_cache(maxsize=4)
def _client_of(pid: int, settings: tuple[tuple[str, str], ...]) -> _Client:
    return _Client()


def _endpoint() -> str:
    """Where the store is, without a user name or password that a URL may hold."""
    url = next((value for name in _ENDPOINTS if (value := os.environ.get(name))), "")
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc.rpartition('@')[2]}" if url else "AWS"
