"""Fixtures of the metrics' tests."""

from __future__ import annotations

import pytest

from lsb.metrics.features import EfficientNetLite0


@pytest.fixture(scope="session")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0(batch=4)
