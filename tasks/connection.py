"""How this process talks to Prefect's server: on this machine never through a proxy."""

from __future__ import annotations

import ipaddress
from typing import Any

import httpx
from prefect.client import base, orchestration

LOOPBACK = "localhost"


def connect() -> None:
    """From now on Prefect makes its clients as this module has them."""
    orchestration.PrefectHttpxSyncClient = _SyncClient  # type: ignore[misc]
    orchestration.PrefectHttpxAsyncClient = _AsyncClient  # type: ignore[misc]


def is_on_this_machine(url: str) -> bool:
    """Whether a server's address is one of the loopback."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == LOOPBACK


class _SyncClient(base.PrefectHttpxSyncClient):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **_without_proxy(options))


class _AsyncClient(base.PrefectHttpxAsyncClient):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **_without_proxy(options))


def _without_proxy(options: dict[str, Any]) -> dict[str, Any]:
    # Without this httpx builds a client for each proxy of the environment even if NO_PROXY covers all we ask, and
    # fails where it lacks a package for one, such as socks5.
    here = is_on_this_machine(str(options.get("base_url", "")))
    return {"trust_env": False, **options} if here else options
