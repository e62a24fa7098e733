"""Recompute everything that a run claims, from `run.json` to the last pixel."""

from lsb.audit.runs import verify
from lsb.audit.verdict import Finding, Verdict

__all__ = ["Finding", "Verdict", "verify"]
