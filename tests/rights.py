"""The policies of `deployments/policies`, for a place in the bucket of the tests' object server."""

from __future__ import annotations

from pathlib import Path

from examples.object_server import BUCKET

FOLDER = Path(__file__).resolve().parent.parent / "deployments" / "policies"
PREFIX = "rights"


def policies() -> dict[str, str]:
    """Their documents by name."""
    return {
        file.stem: file.read_text().replace("BUCKET", BUCKET).replace("PREFIX", PREFIX)
        for file in sorted(FOLDER.glob("*.json"))
    }
