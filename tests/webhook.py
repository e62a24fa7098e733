"""A web hook on this machine that keeps what it is told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Told:
    """A web hook on this machine, and what it was told. Usable as a context manager."""

    def __init__(self) -> None:
        said: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.said = said
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/"

    def about(self, state: str) -> list[str]:
        """The texts about runs in a state."""
        return [one["body"] for one in self.said if one["subject"].endswith(f" {state}")]

    def __enter__(self) -> Told:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
