"""A job over a folder that changes, and its first run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsb.ledger.run import Run
from tests.integration.pipeline import Pipeline


@pytest.fixture
def job(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


@pytest.fixture
def first(job: Pipeline) -> Run:
    run = job.plan()
    job.finish(run)
    return run
