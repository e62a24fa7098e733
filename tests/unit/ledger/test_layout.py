from __future__ import annotations

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


def test_every_key_may_be_written() -> None:
    digest = "a" * 64
    for key in [
        layout.dataset_records("flat", digest),
        layout.prompt_file("flat", digest, learned=True),
        layout.prompt_file("flat", digest, learned=False),
        layout.prompt_provenance("flat", digest),
        layout.run_file(RUN),
        layout.plan_file(RUN, digest),
        layout.output_file(RUN, "00000", "ab", "cd", "jpeg"),
        layout.rows_file(RUN, "00000", "ab", 0),
        layout.features_file(RUN, "00000", "ab", 0),
        layout.numbered(layout.snapshot_log(RUN), 0),
    ]:
        validate_key(key)
