"""Recompute everything that a run claims, from `run.json` to the last pixel."""

from lsb.audit.anchor import Anchor, anchor_of
from lsb.audit.verdict import Finding, Verdict
from lsb.audit.verify import verify

__all__ = ["Anchor", "Finding", "Verdict", "anchor_of", "verify"]
