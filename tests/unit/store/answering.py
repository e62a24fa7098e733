"""An HTTP server in this process, that answers as a test wants."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering:
    """Serves on a free port of this machine from `serve` to `close`; `answer` gives each request its answer."""

    def serve(self) -> None:
        answering = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                answering.answer(self)

            def log_message(self, *arguments: Any) -> None:
                """Tests are silent."""

        for method in ("PUT", "GET", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.do)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError


def body_of(handler: BaseHTTPRequestHandler) -> bytes:
    """What was sent with a request."""
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    """Send an answer; its length is added unless it is given or there can be no body."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if "content-length" not in {name.lower() for name in headers} and status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
