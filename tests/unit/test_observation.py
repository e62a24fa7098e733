from __future__ import annotations

from lsb.observation import Observer, observed_by, observer
from lsb.progress import NoProgress


def test_nobody_watches_unless_asked_to() -> None:
    assert isinstance(observer().progress, NoProgress)
    assert observer().stop() is False


def test_the_innermost_observer_is_the_one_and_leaves_at_the_end() -> None:
    outer, inner = Observer(stop=lambda: True), Observer()
    with observed_by(outer):
        with observed_by(inner):
            assert observer() is inner
        assert observer() is outer
    assert observer() is not outer
