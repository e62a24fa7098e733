from __future__ import annotations

import pytest

from lsb.redaction import LIMIT, holds_secret, redact, shortened, visible


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
        ("s3://AKIA:a/b+c@bucket/x failed", "s3://<secret>@bucket/x failed"),
        ("s3://ann:p@ss@bucket/x failed", "s3://<secret>@bucket/x failed"),
        ("s3://bucket/a@2x.png failed", "s3://bucket/a@2x.png failed"),
        ("http://host:9000/a@2x.png failed", "http://host:9000/a@2x.png failed"),
        ("token: abcdef rejected", "token: <secret> rejected"),
        ("-----BEGIN PRIVATE KEY----- MC4C -----END PRIVATE KEY----- is no path", "<secret> is no path"),
        ("odd\x1b[2J\u202e name", r"odd\x1b[2J\u202e name"),
        ("key AKIAABCDEFGHIJKLMNOP is unknown", "key <secret> is unknown"),
    ],
)
def test_paths_and_secrets_are_left_out(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_what_is_not_printed_is_made_visible() -> None:
    assert visible("a\x00\t\r\n\x7f\x85\u2028\u2066\udcff\U000e0001z") == (
        r"a\x00\t\r\n\x7f\x85\u2028\u2066\udcff\U000e0001z"
    )
    assert visible("Käse 猫 🐈 [red]") == "Käse 猫 🐈 [red]"


def test_only_places_with_secrets_are_refused() -> None:
    for place in ("s3://a:b@c/d", "s3://b/k?X-Amz-Signature=1", "https://h/x?sig=1", "hf_" + "a" * 34):
        assert holds_secret(place)
    for place in ("s3://b/a@2x", "file:///a?b", "/data/a?b=c", "owner/name", "/data/hf_finetunedmodels2024", "a@b/c"):
        assert not holds_secret(place)


def test_long_texts_are_cut() -> None:
    assert len(redact("x" * 1000)) == LIMIT


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        (
            "cats/1.png",
            "[Errno 2] No such file or directory: '/data/in/cats/1.png'",
            "cats/1.png: [Errno 2] No such file or directory: <path>",
        ),
        ("cats/1.png", "no object cats/1.png in /data/in", "no object cats/1.png in <path>"),
        ("my /a.png", "no object my /a.png in /data", "my /a.png: no object my <path> in <path>"),
        ("a.png", "the device is lost", "the device is lost"),
        ("b\n.png", "open('/x/b\n.png')", "b\\n.png: open(<path>)"),
        ("b\u202e.png", str(OSError(2, "gone", "/x/b\u202e.png")), "b\\u202e.png: [Errno 2] gone: <path>"),
        ("k.png", "password=k.png", "k.png: password=<secret>"),
    ],
)
def test_the_picture_that_an_error_is_about_keeps_its_name(key: str, text: str, expected: str) -> None:
    assert redact(text, key) == expected


def test_what_does_not_show_is_written_out_and_what_is_long_is_cut_in_the_middle() -> None:
    assert visible("a\u202eb\x1b\n\udcff\u00e9 .png") == "a\\u202eb\\x1b\\n\\udcff\u00e9 .png"
    long = shortened("x" * 300 + ".png", 20)
    assert (len(long), long[9:11], long[-4:]) == (20, "x\u2026", ".png")
