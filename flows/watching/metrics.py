"""Figures of this process for Prometheus, where LSB_METRICS asks for them.

`LSB_METRICS=9464` listens on 127.0.0.1, `LSB_METRICS=0.0.0.0:9464` where whoever reaches the machine can read them;
port 0 is any that is free, which the log names. They are read at /metrics.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from lsb.errors import ResourceError, UsageError
from lsb.figures import FIGURES
from lsb.store.usage import of_this_process

logger = logging.getLogger(__name__)

WANTED = "LSB_METRICS"
LOOPBACK = "127.0.0.1"
_serving: dict[str, int] = {}  # by what was asked for, the port


def serve_as_asked(environment: Mapping[str, str] = os.environ) -> int | None:
    """Serve figures from now on until the process ends; the port, None if nobody asks. Called again it does nothing.

    Raises:
        UsageError: LSB_METRICS is no port and no address with one.
        ResourceError: the port is taken, or prometheus-client is missing.
    """
    asked = environment.get(WANTED, "")
    if not asked or asked in _serving:
        return _serving.get(asked)
    address, _, number = asked.rpartition(":")
    if not (number.isascii() and number.isdecimal() and int(number) < 1 << 16):
        raise UsageError(f"{WANTED} is {asked!r}; give a port, such as 9464, or an address with one, 0.0.0.0:9464")
    address = address.strip("[]") or LOOPBACK
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise ResourceError(f"{WANTED} needs the package prometheus-client; pip install 'lsb[metrics]'") from error
    registry = CollectorRegistry()
    registry.register(_OfThisProcess())
    try:
        server, _ = start_http_server(int(number), address, registry)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ResourceError(f"cannot serve metrics at {address}:{number}: {reason}; set {WANTED} to another") from error
    _serving[asked] = server.server_port
    logger.info("metrics at http://%s:%d/metrics", address, server.server_port)
    return server.server_port


class _OfThisProcess:
    """What Prometheus' client asks at each scrape."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        usage = of_this_process()
        for name, meaning, label, counts in (
            ("lsb_records", "Rows that this process has committed.", "status", FIGURES.records),
            ("lsb_failures", "Of these, those without an output.", "code", FIGURES.failures),
        ):
            family = CounterMetricFamily(name, meaning, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], count)
            yield family
        for name, meaning, total in (
            ("lsb_device_seconds", "Seconds in which the model was at work on batches.", FIGURES.device_seconds),
            ("lsb_batches", "Batches that the model has answered.", FIGURES.batches),
            ("lsb_read_bytes", "Bytes read from stores and sources.", usage.bytes_read),
            ("lsb_written_bytes", "Bytes written to stores.", usage.bytes_written),
            ("lsb_requests", "Requests to stores and sources.", usage.requests),
        ):
            yield CounterMetricFamily(name, meaning, value=total)
        yield GaugeMetricFamily(
            "lsb_waiting_pictures", "Pictures that are read and wait for the model.", FIGURES.waiting
        )
