from __future__ import annotations

from pathlib import Path

import pytest

from lsb.jobs import dry_run as module
from lsb.jobs.dry_run import dry_run
from lsb.jobs.estimate import Rate, last_rate
from lsb.ledger.layout import numbered, shard_log
from lsb.pictures.encoding import encode
from lsb.store.local import LocalStore
from lsb.views.status import status
from tests.ledger import make_images, picture, start, translate_all
from tests.unit.jobs.work.fleet import config_over


def test_a_new_run_may_go_as_fast_as_the_one_before_with_the_same_transform(tmp_path: Path) -> None:
    store, folder = LocalStore(tmp_path / "store"), make_images(tmp_path / "images", 4)
    first, sources = start(store, folder, shard_size=2)
    assert last_rate(store, first) is None
    translate_all(store, first, sources)
    (folder / "new.png").write_bytes(encode(picture(70), "png"))
    second, _ = start(store, folder, shard_size=2)
    rate = status(store, first).rate
    assert rate is not None
    assert last_rate(store, second) == Rate(first.id, rate)
    assert last_rate(store, start(store, folder, tau=1.0)[0]) is None
    store.write(numbered(shard_log(first.id, "00000"), 0), b"{}")  # a damaged run is no measure
    assert last_rate(store, second) is None


def test_a_dry_run_says_how_long_the_rest_may_take(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_images(tmp_path / "images", 3)
    config = config_over(LocalStore(tmp_path / "store"), folder, model=str(tiny_folder))
    found = dry_run(config)
    assert (found.pending, found.seconds, found.rate_of) == (3, None, None)
    monkeypatch.setattr(module, "last_rate", lambda store, run: Rate("invert-0123456789ab", 0.5))
    found = dry_run(config)
    assert (found.pending, found.seconds, found.rate_of) == (3, 6.0, "invert-0123456789ab")
