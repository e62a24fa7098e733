"""A proxy in front of an object server that passes everything on, but for the answers that a test wants falsified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.unit.store.answering import Answering, body_of, send

PAGE = b"<html><head><title>Sign in</title></head><body><p>Please sign in.</p></body></html>"
BROKEN_PAGE = b"<!doctype html><title>Sign in<p>Please <br> sign in &nbsp;"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


Lie = Callable[[Answer], Answer]


@dataclass
class LyingProxy(Answering):
    """`lies[kind]` falsify the next answers to requests of that kind: `PUT`, `GET`, `HEAD`, `DELETE` or `LIST`.

    What is asked is done all the same unless `deaf` is set: then a request that is answered by a lie reaches nobody.
    """

    upstream: str
    deaf: bool = False
    lies: dict[str, list[Lie | None]] = field(default_factory=dict)
    told: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self.serve()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        data = body_of(handler)
        kind = "LIST" if "list-type=2" in handler.path else handler.command
        planned = self.lies.get(kind, [])
        lie = planned.pop(0) if planned else None
        self.requests += 1
        answer = Answer(0, {}, b"") if lie and self.deaf else self._pass_on(handler, data)
        if lie:
            self.told += 1
            answer = lie(answer)
        send(handler, answer.status, answer.headers, answer.body)

    def _pass_on(self, handler: BaseHTTPRequestHandler, data: bytes) -> Answer:
        connection = HTTPConnection(urlsplit(self.upstream).netloc, timeout=30)
        try:
            connection.request(handler.command, handler.path, body=data, headers=dict(handler.headers.items()))
            found = connection.getresponse()
            body = found.read()
        finally:
            connection.close()
        dropped = ("connection", "transfer-encoding", "content-length")
        headers = {name: value for name, value in found.getheaders() if name.lower() not in dropped}
        if handler.command == "HEAD":
            headers["Content-Length"] = found.getheader("Content-Length") or "0"
        return Answer(found.status, headers, body)


def page(status: int = 200, body: bytes = PAGE, **headers: str) -> Lie:
    """A web page in place of the answer."""
    return lambda answer: Answer(status, {"Content-Type": "text/html; charset=utf-8", **headers}, body)


def web_server(answer: Answer) -> Answer:
    """The page of a server that dates and tags its pages, as many do."""
    headers = {"Content-Type": "text/html", "ETag": '"5f3c-61"', "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
    return Answer(200, headers, PAGE)


def flipped(answer: Answer) -> Answer:
    """One byte of the body is another; the checksum in the headers is gone, as with stores that keep none."""
    kept = {name: value for name, value in answer.headers.items() if not name.lower().startswith("x-amz-checksum")}
    middle = len(answer.body) // 2
    body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]
    return replace(answer, headers=kept, body=body)


def with_body(status: int, body: bytes) -> Lie:
    """The status and the body are others, the headers those of the store."""
    return lambda answer: replace(answer, status=status, body=body)
