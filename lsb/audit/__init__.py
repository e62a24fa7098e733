"""Recompute everything that a run claims, from `run.json` to the last pixel."""

from lsb.audit.anchor import Anchor, anchor_of
from lsb.audit.runs import verify
from lsb.audit.verdict import Finding, Verdict

__all__ = ["Anchor", "Finding", "Verdict", "anchor_of", "verify"]
