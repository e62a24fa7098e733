from __future__ import annotations

from typing import Any

import pytest

from lsb.ledger.carrying import unchanged
from lsb.ledger.schemas import MANIFEST, PLAN, RECORDS

A, B = "a" * 64, "b" * 64


def record(digest: str | None = A, etag: str = "1") -> dict[str, Any]:
    return {"record_id": "r", "key": "k", "bytes": 1, "etag": etag, "sha256": digest, "status": "ok"}


def row(status: str = "ok", digest: str = A) -> dict[str, Any]:
    known: dict[str, Any] = dict.fromkeys(("transform_id", "model_digest", "source_prompt", "target_prompt"), "0")
    known |= {"seed": "0", "method": "lsb", "nfe": 2, "tau": 1.0, "t0": 0.2, "guidance": 1.0, "retryable": False}
    return known | {"record_id": "r", "source_key": "k", "tries": 1, "status": status, "source_sha256": digest}


def carries(today: dict[str, Any], before: dict[str, Any] | None, same_decoding: bool | None) -> bool:
    listed = {**record(), "sha256": None}
    listed.pop("status")
    records, plan = RECORDS.table([today]), PLAN.table([{**listed, "action": "translate"}])
    rows = MANIFEST.table([before] if before else [])
    return bool(unchanged(rows, plan, records, same_decoding)[0].as_py())


@pytest.mark.parametrize("same_decoding", [None, True, False])
def test_a_row_is_carried_for_the_same_bytes_alone(same_decoding: bool | None) -> None:
    assert carries(record(), row(), same_decoding)
    assert carries(record(), row("erased"), same_decoding)
    assert carries(record(None), row(), same_decoding)  # a listing: same size and etag
    assert not carries(record(B), row(), same_decoding)
    assert not carries(record(None, "2"), row(), same_decoding)
    assert not carries(record(), row("failed"), same_decoding)
    assert not carries(record(), None, same_decoding)


@pytest.mark.parametrize(
    ("digest", "same_decoding", "carried"),
    [
        (A, True, False),  # ingest takes the picture today
        (A, False, False),
        (None, True, True),  # nobody has looked, and whoever looked would see the same
        (None, False, False),
        (A, None, True),  # what runs of versions before were planned by
        (None, None, True),
    ],
)
def test_a_quarantined_row_is_carried_where_todays_decoding_still_refuses_the_picture(
    digest: str | None, same_decoding: bool | None, carried: bool
) -> None:
    assert carries(record(digest), row("quarantined"), same_decoding) == carried
