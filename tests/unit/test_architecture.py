"""docs/architecture.md names the modules that there are, and its walks go through them."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lsb import Prompt
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import load_config
from lsb.jobs.job import run_spec
from lsb.jobs.lineage import prompts_of_job
from lsb.ledger.gates import Gates
from lsb.ledger.manifest import collect
from lsb.ledger.run import create_run
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.scores import Scorer
from lsb.models.stable_diffusion import StableDiffusion
from lsb.pictures.geometry import Geometry, frame_of
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.translation.builder import run_engine
from lsb.translation.engine import Engine
from lsb.translation.model import Model
from lsb.translation.shard import run_shard
from lsb.views.page_contents import gather_report
from lsb.views.page_html import render_report
from tests.ledger import equipment, make_images, picture, start

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
STEP = re.compile(r"^\d+\. `([\w/]+)`((?: `[\w/]+`)+): ", re.MULTILINE)
WALKS = ["The walk of one image", "The walk of bridge.tau"]

Walk = list[tuple[str, list[str]]]  # rooms, each with paths of its modules


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def walk(title: str) -> Walk:
    text = section(title)
    steps = [(room, re.findall(r"`([\w/]+)`", names)) for room, names in STEP.findall(text)]
    assert len(steps) == len(re.findall(r"^\d+\. ", text, re.MULTILINE))
    return [(room, [f"{room}/{name}.py" for name in names]) for room, names in steps]


def test_every_module_is_named_and_every_name_is_a_module() -> None:
    rooms: dict[str, set[str]] = {}
    for first, second in re.findall(r"^\| (.*?) \|(.*)\|$", section("Modules"), re.MULTILINE):
        if heading := re.match(r"\*\*`([\w/]+)/`\*\*", first):
            room = heading[1] if heading[1].startswith(("lsb", "tasks", "flows")) else f"lsb/{heading[1]}"
            rooms[room] = set(re.findall(r"`([\w/]+)`", second))
        elif first not in ("module", "---"):
            rooms[room] |= set(re.findall(r"`([\w/]+)`", first))
    for room, named in rooms.items():
        there = [
            path for path in (REPOSITORY / room).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
        ]
        names = {path.stem if path.is_file() else f"{path.name}/" for path in there} - {"__init__"}
        assert named == (names if room != "lsb" else {name for name in names if not name.endswith("/")}), room


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_enters_each_room_once(title: str) -> None:
    rooms = [room for room, _ in walk(title)]
    assert len(rooms) == len(set(rooms)) >= 7
    assert set(rooms) <= set(re.findall(r"^\| `([\w/]+)` \|", section("Rooms"), re.MULTILINE))
    missing = [path for _, paths in walk(title) for path in paths if not (REPOSITORY / path).is_file()]
    assert not missing


def modules_called(play: Callable[[], object]) -> list[str]:
    """The project's modules in the order in which they are called first."""
    called: dict[str, None] = {}

    def see(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.setdefault(frame.f_code.co_filename)

    before = sys.getprofile()
    threading.setprofile(see)
    sys.setprofile(see)
    try:
        play()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    paths = [Path(name) for name in called]
    return [str(path.relative_to(REPOSITORY)) for path in paths if path.is_relative_to(REPOSITORY)]


def test_the_walk_of_one_image_is_the_one_that_it_takes(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    """From the shard on, the rooms are called in the order of the page, and each of their modules."""
    engine = Engine(tiny_backbone, Prompt("a flat icon"), Prompt("a 3d icon"), BridgeSettings(), "0", 1)
    frame = partial(frame_of, geometry=Geometry(), canvas=tiny_backbone.canvas)
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 1))
    own = equipment(sources, Model(engine, Scorer(EfficientNetLite0(batch=1))), frame=frame)

    def play() -> None:
        run_shard(store, run, "00000", own)
        render_report(gather_report(store, run, collect(store, run, gates=Gates()), None, sources))

    order = modules_called(play)
    steps = [paths for room, paths in walk("The walk of one image") if room not in ("flows", "tasks", "lsb/jobs")]
    assert {path for paths in steps for path in paths} <= set(order)
    firsts = [min(map(order.index, paths)) for paths in steps]
    assert firsts == sorted(firsts)


def test_the_walk_of_tau_is_the_one_that_it_takes(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    (make_images(tmp_path / "images", 1) / "job.yaml").write_text(
        "{name: job, store: ../store, model: m, source: {domain: flat, path: .}, bridge: {tau: 0.6, nfe: 2},"
        "prompts: {source: {text: a flat icon}, target: {text: a 3d icon}}}"
    )
    store = LocalStore(tmp_path / "store")
    dataset = ingest(open_sources(str(tmp_path / "images")), "flat", store)
    engines: list[Engine] = []
    frame = frame_of((32, 32), Geometry(), tiny_backbone.canvas)

    def play() -> None:
        config = load_config(str(tmp_path / "images" / "job.yaml"))
        prompts = prompts_of_job(store, config, tiny_backbone.identity)
        run = create_run(store, run_spec(config, dataset, *prompts, tiny_backbone.identity))
        engines.append(run_engine(store, run, tiny_backbone, 1))
        engines[0].translate([frame.prepare(picture(1, frame.source))], ["0" * 64])

    assert {path for _, paths in walk("The walk of bridge.tau") for path in paths} <= set(modules_called(play))
    assert engines[0].settings.tau == 0.6
