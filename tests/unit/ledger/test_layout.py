from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from lsb.errors import UsageError
from lsb.ledger import layout
from lsb.store.store import validate_key

RUN = "cats-to-dogs-0123456789ab"


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        (f"out/store/runs/{RUN}", "out/store"),
        (f"/data/runs/{RUN}/", "/data"),
        (f"/runs/{RUN}", "/"),
        (f"runs/{RUN}", "."),
        (f"s3://bucket/prefix/runs/{RUN}", "s3://bucket/prefix"),
    ],
)
def test_a_run_uri_is_root_and_id(uri: str, root: str) -> None:
    assert layout.parse_run_uri(uri) == (root, RUN)


@pytest.mark.parametrize("uri", ["", RUN, f"out/{RUN}", "out/runs/", "out/runs/nohash", f"outruns/{RUN}"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        layout.parse_run_uri(uri)


def test_numbers_of_log_entries() -> None:
    assert layout.number_of(layout.numbered("jobs/a/log", 12)) == 12
    assert layout.number_of("jobs/a/log/12.json") is None
    assert layout.number_of("jobs/a/log/00000012.json.bak") is None


def test_a_lease_says_whose_it_is_by_its_key() -> None:
    assert layout.lease_of(layout.lease_file(RUN, "00003", 7)) == ("00003", 7, False)
    assert layout.lease_of(layout.lease_file(RUN, "00003", 7, back=True)) == ("00003", 7, True)
    assert layout.lease_of(f"{layout.leases_folder(RUN)}/00003.json") is None
    assert not layout.is_hint(layout.lease_file(RUN, "00003", 7))


ARGUMENTS = {
    "name": "flat",
    "domain": "flat",
    "job": "cats-to-dogs",
    "run_id": RUN,
    "shard": "00000",
    "attempt": "0123456789abcdef",
    "record_id": "0" * 32,
    "image_format": "jpeg",
    "learned": True,
    "of_parts": True,
    "part": 0,
    "number": 0,
    "back": True,
    "log": layout.snapshot_log(RUN),
    **dict.fromkeys(["version", "digest", "source", "prompt_id"], "a" * 64),
}
MAKERS = {
    name: maker
    for name, maker in vars(layout).items()
    if inspect.isfunction(maker) and inspect.signature(maker).return_annotation == "str" and name != "new_attempt"
}


def made(maker: Callable[..., str]) -> str:
    return maker(**{name: ARGUMENTS[name] for name in inspect.signature(maker).parameters})


@pytest.mark.parametrize("name", MAKERS)
def test_every_key_may_be_written(name: str) -> None:
    validate_key(made(MAKERS[name]))


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.endswith(("_folder", "_log", "runs_of_job"))])
def test_every_file_is_known_by_its_key_to_clean_up(name: str) -> None:
    key = made(MAKERS[name])
    seen = layout.is_advice(key), "/listings/" in key, layout.makes_a_store(key)
    assert sum(seen) == 1
