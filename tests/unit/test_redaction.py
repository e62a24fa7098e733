from __future__ import annotations

import pytest

from lsb.redaction import LIMIT, redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image file is truncated", "image file is truncated"),
        ("two\n  lines", "two lines"),
        ("[Errno 13] Permission denied: '/home/ann/cats/a b.png'", "[Errno 13] Permission denied: <path>"),
        ("cannot open /mnt/data/x.png, skipped", "cannot open <path>, skipped"),
        ("cannot open file:///mnt/data/x.png", "cannot open <path>"),
        (r"cannot open C:\data\x.png", "cannot open <path>"),
        ("a/relative/name.png is broken", "a/relative/name.png is broken"),
        ("3/4 of the bytes", "3/4 of the bytes"),
        ("https://ann:pw@host/x", "https://<secret>@host/x"),
        ("GET https://host/x?X-Amz-Signature=abc&b=1 failed", "GET https://host/x?<secret> failed"),
        ("aws_secret_access_key=abcdef rejected", "aws_secret_access_key=<secret> rejected"),
        ("key AKIAABCDEFGHIJKLMNOP is unknown", "key <secret> is unknown"),
    ],
)
def test_paths_and_secrets_are_left_out(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_long_texts_are_cut() -> None:
    assert len(redact("x" * 1000)) == LIMIT
