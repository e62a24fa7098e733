"""A network between a client and a server of this machine: what passes it arrives later, and is not slowed otherwise.

    with Latency("127.0.0.1", port, 0.02) as far:
        ...  # far.port answers as `port` does, each round trip taking 20 ms more

It runs in a process of its own, so that it takes no time from whoever is measured.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import deque
from multiprocessing.connection import Connection

PIECE = 1 << 18


class Latency:
    """A port of this machine behind which a server is `seconds` away, there and back."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self._arguments = host, port, seconds / 2
        self.port = 0

    def __enter__(self) -> Latency:
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        self._process = context.Process(target=_run, args=(far, *self._arguments), daemon=True)
        self._process.start()
        self.port = near.recv()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()


def _run(connection: Connection, host: str, port: int, delay: float) -> None:
    asyncio.run(_serve(connection, host, port, delay))


async def _serve(connection: Connection, host: str, port: int, delay: float) -> None:
    async def join(near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection(host, port)
        await asyncio.gather(_pass_on(near_in, far_out, delay), _pass_on(far_in, near_out, delay))

    server = await asyncio.start_server(join, "127.0.0.1", limit=PIECE)
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
    """Each piece when its time has come; the last, empty, closes the other side."""
    pieces: deque[tuple[float, bytes]] = deque()
    more = asyncio.Event()

    async def deliver() -> None:
        while True:
            while not pieces:
                more.clear()
                await more.wait()
            due, data = pieces.popleft()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.close()
                return
            sink.write(data)

    delivery = asyncio.create_task(deliver())
    data = b"anything"
    while data:
        try:
            data = await source.read(PIECE)
        except ConnectionError:
            data = b""
        pieces.append((time.monotonic() + delay, data))
        more.set()
    await delivery
