"""How this process talks to Prefect's server: past every proxy on this machine, and not waiting for one that has gone.

Prefect's server only looks on. After the first request that it does not answer nothing more is sent to it, and whoever
started the work is told so, once.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from prefect.client import base, orchestration
from prefect.events import utilities, worker
from prefect.events.clients import PrefectEventsClient
from prefect.events.schemas.events import Event
from prefect.settings import PREFECT_API_URL

from lsb.redaction import without_secrets

logger = logging.getLogger(__name__)

HURRIED_SECONDS = 3.0


class ServerLostError(httpx.TransportError):
    """The server does not answer. None of the errors after which Prefect waits and asks again."""


class _Connection:
    """What is known of the server; one for the process, as Prefect's clients are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lost = False
        self.hurried = False
        self.reason = ""
        self.warn: Callable[[str], None] = logger.warning


_CONNECTION = _Connection()
_INSISTING: ContextVar[bool] = ContextVar("insisting", default=False)


def connect(warn: Callable[[str], None] = logger.warning) -> None:
    """Talk to a server of which nothing is known yet.

    Args:
        warn: is told once if it is lost.
    """
    _CONNECTION.lost, _CONNECTION.hurried, _CONNECTION.warn = False, False, warn
    guard()


def guard() -> None:
    """From now on Prefect makes its clients as this module has them."""
    orchestration.PrefectHttpxSyncClient = _SyncClient  # type: ignore[misc]
    orchestration.PrefectHttpxAsyncClient = _AsyncClient  # type: ignore[misc]
    worker.PrefectEventsClient = _EventsClient  # type: ignore[misc, assignment]
    # Events of a client that is not known there are dropped.
    utilities.PrefectEventsClient = _EventsClient  # type: ignore[misc, assignment]


@contextmanager
def unconnected() -> Iterator[None]:
    """Inside, flows and tasks do their work without Prefect, as they do once its server is lost."""
    before, _CONNECTION.lost = _CONNECTION.lost, True
    try:
        yield
    finally:
        _CONNECTION.lost = before


@contextmanager
def insisting() -> Iterator[None]:
    """Inside, the server is asked whatever is known of it; ServerLostError each time that it does not answer. For what
    cannot be done without it."""
    token = _INSISTING.set(True)
    try:
        yield
    finally:
        _INSISTING.reset(token)


def lost() -> bool:
    """Whether the server has been given up."""
    return _CONNECTION.lost


def hurry() -> None:
    """Wait only shortly for each further answer: somebody wants this process to end."""
    _CONNECTION.hurried = True


def lose(error: BaseException) -> None:
    """Give the server up, because of an error."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    with _CONNECTION.lock:
        if _CONNECTION.lost:
            return
        _CONNECTION.lost, _CONNECTION.reason = True, reason
    _CONNECTION.warn(
        f"Prefect's server at {without_secrets(PREFECT_API_URL.value() or '?')} is lost "
        f"({without_secrets(reason)}); the work goes on, Prefect's pages show no more of it"
    )


def is_of_server(error: BaseException) -> bool:
    """Whether an error that Prefect raised comes of the talk with its server."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, httpx.HTTPError | OSError) for cause in causes)


def is_on_this_machine(url: str) -> bool:
    """Whether a server's address is one of the loopback."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Transport(httpx.BaseTransport):
    """Asks once more where a connection broke, then never again."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if _INSISTING.get():
            try:
                return self._inner.handle_request(_in_time(request))
            except httpx.TransportError as error:
                raise ServerLostError(f"{type(error).__name__}: {error}", request=request) from error
        for again in (True, False):
            if lost():
                break
            try:
                return self._inner.handle_request(_in_time(request))
            except httpx.TransportError as error:
                _failed(error, again)
        return _no_answer(request)

    def close(self) -> None:
        self._inner.close()


class _AsyncTransport(httpx.AsyncBaseTransport):
    """As `_Transport`."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for again in (True, False):
            if lost():
                break
            try:
                return await self._inner.handle_async_request(_in_time(request))
            except httpx.TransportError as error:
                _failed(error, again)
        return _no_answer(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _in_time(request: httpx.Request) -> httpx.Request:
    if _CONNECTION.hurried:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), HURRIED_SECONDS)
    return request


def _failed(error: httpx.TransportError, again: bool) -> None:
    # An idle connection that the server closed is no sign, so a broken one is tried anew; silence is not.
    if not again or isinstance(error, httpx.TimeoutException):
        lose(error)


def _no_answer(request: httpx.Request) -> httpx.Response:
    asked = request.url.path
    # Prefect would complain on standard error of log lines that are not taken, or of the token that it asks for first.
    if asked.endswith("/logs/"):
        return httpx.Response(201, request=request)
    if asked.endswith("/csrf-token"):
        return httpx.Response(404, request=request)
    if asked.endswith("/set_state"):  # nobody objects: a flow ends in this process as its work does
        accepted = {"status": "ACCEPT", "details": {"type": "accept_details"}}
        return httpx.Response(200, json={**accepted, "state": json.loads(request.content)["state"]}, request=request)
    raise ServerLostError(f"Prefect's server is lost: {_CONNECTION.reason}", request=request)


class _SyncClient(base.PrefectHttpxSyncClient):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **_without_proxy(options))
        self._transport = _Transport(self._transport)
        self._mounts = {pattern: inner and _Transport(inner) for pattern, inner in self._mounts.items()}


class _AsyncClient(base.PrefectHttpxAsyncClient):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **_without_proxy(options))
        self._transport = _AsyncTransport(self._transport)
        self._mounts = {pattern: inner and _AsyncTransport(inner) for pattern, inner in self._mounts.items()}


def _without_proxy(options: dict[str, Any]) -> dict[str, Any]:
    # Without this httpx builds a client for each proxy of the environment even if NO_PROXY covers all we ask, and
    # fails where it lacks a package for one, such as socks5.
    here = is_on_this_machine(str(options.get("base_url", "")))
    return {"trust_env": False, **options} if here else options


class _EventsClient(PrefectEventsClient):
    """Drops events once the server is lost, where Prefect's own would try each of them eleven times."""

    def __init__(self, api_url: str | None = None) -> None:
        super().__init__(api_url, reconnection_attempts=3)

    async def __aenter__(self) -> _EventsClient:
        self._in_context = True
        if not lost():
            try:
                await super().__aenter__()
            except Exception as error:  # noqa: BLE001 whatever it is, events are only looked at
                lose(error)
        return self

    async def __aexit__(self, *error: Any) -> None:
        if lost() and self._websocket is not None:  # it may hang, and no good-bye is waited for
            self._websocket.transport.abort()
        await super().__aexit__(*error)

    async def _emit(self, event: Event) -> None:
        if not lost():
            try:
                await super()._emit(event)
            except Exception as error:  # noqa: BLE001 as above
                lose(error)
