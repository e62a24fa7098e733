"""Whether what came back over HTTP is the answer of an object store, or a page of something that stands in between.

A proxy, a login page or a load balancer may answer any request, with 200 as well, once in a while. Its page must not
count as an empty listing, a written object or a missing one. What an answer of S3 always holds is looked for; an answer
without it is none, and the request is made again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

_ITEM = ("Key", "Size", "ETag", "LastModified")
_HOLDS = {
    "list_objects_v2": ("Name", "IsTruncated"),
    "get_object": ("ETag", "LastModified", "ContentLength"),
    "head_object": ("ETag", "LastModified", "ContentLength"),
    "put_object": ("ETag",),
    "delete_object": (),
}
_MD5 = re.compile(r"[0-9a-f]{32}")


class UnbelievedError(Exception):
    """An answer that is none; the text says why."""


def doubt_of(operation: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> str | None:
    """Why an answer with a status of success is not believed; None if it is.

    Args:
        operation: of the S3 client, one of those that a store uses.
        asked: the request's parameters.
        answer: as botocore parsed it, a body read to its end.
    """
    missing = [name for name in _HOLDS[operation] if answer.get(name) in (None, "")]
    if missing:
        return f"a {_status(answer)} without {missing[0]}"
    if _is_page(answer):
        return f"a {_status(answer)} with a web page"
    if operation == "list_objects_v2":
        return _doubt_of_listing(asked, answer)
    if operation == "get_object":
        return _doubt_of_body(asked, answer)
    headers = _headers(answer)
    if operation == "delete_object" and _status(answer) != 204 and headers.get("content-length") != "0":
        return f"a {_status(answer)} with a body"
    return None


def doubt_of_error(operation: str, answer: Mapping[str, Any]) -> str | None:
    """Why an answer with a status of failure says nothing about what was asked; None if it does."""
    if _status(answer) > 500:  # passing in any case; a 500 may be what botocore makes of a page
        return None
    code = str(answer.get("Error", {}).get("Code", ""))
    # Only the answer to HEAD has no body, where the error would be named.
    named = operation == "head_object" or not (code.isdigit() or not code)
    if named and not _is_page(answer):
        return None
    return f"a {_status(answer)} without the code of an error"


def is_md5(etag: str) -> bool:
    """Whether an ETag without its quotes looks like the MD5 of the object's bytes."""
    return _MD5.fullmatch(etag) is not None


def is_changed(answer: Mapping[str, Any]) -> bool:
    """Whether the bytes of a whole object do not have the MD5 that its ETag seems to be.

    They may well be right: with some kinds of encryption, or of stores, an ETag of this form is no MD5.
    """
    etag, body = answer["ETag"].strip('"'), answer["Body"]
    return is_md5(etag) and hashlib.md5(body, usedforsecurity=False).hexdigest() != etag


def _doubt_of_listing(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> str | None:
    items, folders = answer.get("Contents", []), answer.get("CommonPrefixes", [])
    if any(name not in item for item in items for name in _ITEM):
        return "a listing of objects without size, time or ETag"
    prefix = asked.get("Prefix", "")
    names = [*(item["Key"] for item in items), *(item.get("Prefix", "") for item in folders)]
    if not all(name.startswith(prefix) for name in names):
        return "a listing of something else"
    token = answer.get("NextContinuationToken")
    if answer["IsTruncated"] and (not token or token == asked.get("ContinuationToken")):
        return "a listing that does not say how it goes on"
    return None


def _doubt_of_body(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> str | None:
    length = len(answer["Body"])
    if length != answer["ContentLength"]:
        return f"{length} of {answer['ContentLength']} bytes"
    if wanted := asked.get("Range"):
        found = str(answer.get("ContentRange", "")).partition("/")[0].replace(" ", "=")
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if found != wanted or length != int(last) - int(first) + 1:
            return "another part of the object"
    if asked.get("IfMatch", answer["ETag"]).strip('"') != answer["ETag"].strip('"'):
        return "another object"
    return None


def _is_page(answer: Mapping[str, Any]) -> bool:
    headers = _headers(answer)
    named = any(name.startswith(("x-amz-", "x-goog-")) for name in headers)
    return not named and str(headers.get("content-type", "")).startswith("text/html")


def _headers(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return found


def _status(answer: Mapping[str, Any]) -> int:
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
