"""An S3 server of a few lines, in this process, that fails in the ways that a test asks for."""

from __future__ import annotations

import hashlib
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.unit.store.answering import Answering, body_of, send

LOST = 0  # as a status: do what was asked, then hang up without an answer


class FlakyS3(Answering):
    """Objects of one bucket. `faults[method]` are statuses of the next answers; None in between is a good one."""

    def __init__(self, *, honours_conditions: bool = True) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.faults: dict[str, list[int | None]] = {}
        self.code = "Fault"
        self.requests: Counter[str] = Counter()
        self.honours_conditions = honours_conditions
        self.serve()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        method, key, data = handler.command, urlsplit(handler.path).path, body_of(handler)
        self.requests[method] += 1
        if handler.headers.get("Expect"):  # an answer that the body waits for
            self.requests["100-continue"] += 1
        faults = self.faults.get(method, [])
        fault = faults.pop(0) if faults else None
        if fault not in (None, LOST):
            assert fault is not None
            return self._send(handler, fault)
        status = self._do(method, key, data, handler.headers)
        if fault == LOST:
            handler.close_connection = True
            return None
        return self._send(handler, status, key if status == 200 else None)

    def _do(self, method: str, key: str, data: bytes, headers: Any) -> int:
        if method == "PUT":
            if key in self.objects and headers.get("If-None-Match") == "*" and self.honours_conditions:
                return 412
            self.objects[key] = data, {n: v for n, v in headers.items() if n.lower().startswith("x-amz-meta-")}
        elif method == "DELETE":
            self.objects.pop(key, None)
            return 204
        elif key not in self.objects:
            return 404
        return 200

    def _send(self, handler: BaseHTTPRequestHandler, status: int, key: str | None = None) -> None:
        body, headers = self.objects[key] if key else (b"", {})
        if key:
            etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
            headers = {**headers, "ETag": f'"{etag}"', "Last-Modified": formatdate(usegmt=True)}
            body = body if handler.command in ("GET", "HEAD") else b""
        if status >= 300 and handler.command != "HEAD":
            body = f"<Error><Code>{self.code}</Code><Message>m</Message></Error>".encode()
        send(handler, status, headers, body)
