from __future__ import annotations

import socket
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.watching import metrics
from flows.watching.metrics import WANTED, serve_as_asked
from lsb.errors import ResourceError, UsageError
from lsb.figures import FIGURES
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, start

ALL = {
    *("lsb_records", "lsb_failures", "lsb_device_seconds", "lsb_batches"),
    *("lsb_read_bytes", "lsb_written_bytes", "lsb_requests", "lsb_waiting_pictures"),
}


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Each sample by its name and the value of its label, if it has one."""
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert {family.name for family in families} == ALL
    samples = (sample for family in families for sample in family.samples)
    return {(sample.name, next(iter(sample.labels.values()), "")): sample.value for sample in samples}


def test_figures_of_a_shard_are_served_on_this_machine(tmp_path: Path) -> None:
    asked = {WANTED: "0"}
    port = serve_as_asked(asked)
    assert port is not None
    assert serve_as_asked(asked) == port  # once for a process
    before = scrape(port)
    images = make_images(tmp_path / "images", 5)
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, images, shard_size=10)
    (images / "odd" / "0001.png").unlink()
    run_shard(store, run, "00000", equipment(sources, Inverter(batch=2, seconds=0.01)))
    after = scrape(port)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["lsb_records_total", "ok"] == 4
    assert grown["lsb_records_total", "failed"] == grown["lsb_failures_total", "source_missing"] == 1
    assert grown["lsb_batches_total", ""] == 2
    assert grown["lsb_device_seconds_total", ""] >= 0.02
    assert min(grown[f"lsb_{name}_total", ""] for name in ("read_bytes", "written_bytes", "requests")) > 10
    assert (after["lsb_waiting_pictures", ""], FIGURES.waiting) == (0, 0)


@pytest.mark.parametrize("asked", ["abc", "70000", "127.0.0.1", "0.0.0.0:", "-1"])
def test_what_is_no_port_is_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="LSB_METRICS"):
        serve_as_asked({WANTED: asked})


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError) as refused:
            serve_as_asked({WANTED: str(port)})
    assert str(refused.value) == (
        f"cannot serve metrics at 127.0.0.1:{port}: Address already in use; set LSB_METRICS to another"
    )


def test_nobody_asks() -> None:
    served = dict(metrics._serving)
    assert serve_as_asked({}) is None
    assert metrics._serving == served
