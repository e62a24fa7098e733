"""A planned run and what takes part in translating it: the real loop, with an inverter in place of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lsb.config.job import JobConfig
from lsb.jobs.rerun import what_is_left
from lsb.jobs.work.loop import ShardsOutcome, translate_shares
from lsb.observation import observer
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.shard import ShardOutcome, run_shard
from tests.ledger import Inverter, equipment, make_images, start


class Fleet:
    """Shards of two pictures."""

    def __init__(self, place: Path, images: int) -> None:
        self.folder = make_images(place / "images", images)
        self.store = LocalStore(place / "store")
        self.run, _ = start(self.store, self.folder, shard_size=2)
        self.log = place / "side.log"
        self.log.touch()

    def config(self, **settings: Any) -> JobConfig:
        return config_over(self.store, self.folder, **settings)

    def made(self) -> Counter[str]:
        """How often each picture was translated."""
        return Counter(self.log.read_text().split())

    def do(self, shard: str, records: Mapping[str, int] | None, translator: Any = None) -> ShardOutcome:
        """Translate a shard, as the loop wants it."""
        watching = observer()
        here = equipment(open_sources(str(self.folder)), translator or Inverter(2, self.log))
        told = {"stop": watching.stop, "committed": watching.committed, "progress": watching.progress}
        return run_shard(self.store, self.run, shard, here, chosen=records, **told)

    def work(
        self,
        do: Callable[[str, Mapping[str, int] | None], ShardOutcome] | None = None,
        stop: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> ShardsOutcome:
        """One worker, from its beginning to its end."""
        todo = what_is_left(self.store, self.run)
        return translate_shares(self.config(**settings), self.run, todo, do or self.do, stop=stop)


def config_over(store: Store, folder: Path, **settings: Any) -> JobConfig:
    """A job's settings, of which the run of the tests has the pictures."""
    text = {"text": "a word"}
    return JobConfig.model_validate(
        {
            "name": "invert",
            "store": store.uri,
            "model": "/nowhere",
            "source": {"domain": "noise", "path": str(folder)},
            "prompts": {"source": text, "target": {"domain": "other", **text}},
            **settings,
        }
    )
