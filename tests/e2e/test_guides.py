"""docs/guides, each followed to the letter: its `bash` blocks, one after another in one shell, and what they lead to.

What a reader sets to values of their own stands in `sh` blocks, and is set here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.object_server import ObjectServer
from lsb.audit import verify
from lsb.config.job import load_config
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import open_run
from lsb.store.store import open_store
from lsb.views.status import status
from tests.e2e.jobs import make_pictures
from tests.prefect_parts import REPOSITORY, PrefectServer
from tests.tiny import tiny_model
from tests.webhook import Told

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("guides")]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SET_BY_THE_READER = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EMOJI = REPOSITORY / "examples" / "emoji"
LOOKED_AT = 32  # pictures of each look
COMMAND = f'#!/bin/sh\nexec {sys.executable} -P -m lsb.cli.main "$@"\n'


class Reader:
    """Somebody in a folder of their own, who has lsb and Prefect and nothing of this checkout but `deployments`."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("lsb", "python3"):
            program = folder / "bin" / name
            program.write_text(COMMAND if name == "lsb" else f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            program.chmod(0o755)
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.variables = {
            **mine,
            "PATH": os.pathsep.join((str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "NO_PROXY": "127.0.0.1",
            "CHECKOUT": str(REPOSITORY),
            **variables,
        }

    def follows(self, guide: str) -> str:
        """All that its commands print; each must end well, and what they have left running is ended."""
        page = (REPOSITORY / "docs" / "guides" / f"{guide}.md").read_text()
        asked = set(re.findall(r"(\w+)=", "".join(SET_BY_THE_READER.findall(page))))
        assert asked <= self.variables.keys(), asked - self.variables.keys()
        script = "set -euo pipefail\n" + "\n".join(BLOCK.findall(page))
        said = self.folder / "said-by-all.txt"
        with said.open("wb") as log:
            shell = subprocess.Popen(
                ["/bin/bash", "-c", script],
                env=self.variables,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            code = shell.wait()
        for process in psutil.process_iter():
            if process.pid != os.getpid() and self._is_left(process, shell.pid):
                process.kill()
        assert code == 0, said.read_text()[-6000:]
        return said.read_text()

    def _is_left(self, process: psutil.Process, session: int) -> bool:
        try:
            home = process.environ().get("PREFECT_HOME")
            return home == self.variables["PREFECT_HOME"] or os.getsid(process.pid) == session
        except (psutil.Error, OSError):
            return False


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """Pictures of two looks, and a model."""
    shutil.copytree(model, tmp_path / "model")
    make_pictures(tmp_path / "flat", 0.0)
    make_pictures(tmp_path / "3d", 0.5)
    return tmp_path


@pytest.fixture
def looks(tmp_path: Path) -> Path:
    """The embedded model, and emoji of two looks that it was trained on, of different symbols."""
    (tmp_path / "model").symlink_to(EMOJI / "model")
    columns, train = ["symbol", "style", "image"], [("split", "=", "train")]
    rows = pq.read_table(EMOJI / "emoji.parquet", columns=columns, filters=train).sort_by("symbol").to_pylist()
    for number, look in enumerate(("flat", "3d")):
        (tmp_path / look).mkdir()
        of_look = [row for row in rows if row["style"] == look]
        each = len(of_look) // LOOKED_AT  # of all kinds of symbols
        for row in of_look[number * each // 2 :: each][:LOOKED_AT]:
            (tmp_path / look / f"{row['symbol']}.webp").write_bytes(row["image"])
    return tmp_path


@pytest.fixture
def told() -> Iterator[Told]:
    with Told() as made:
        yield made


def test_a_job_on_s3(folder: Path, object_server: ObjectServer, s3_uri: str) -> None:
    reader = Reader(folder, BUCKET=object_server.bucket, PREFIX=s3_uri.removeprefix(f"{object_server.uri}/"))
    said = reader.follows("s3")
    assert "verdict    intact" in said
    store = open_store(s3_uri)
    assert verify(store, str(current_run(store, "flat-to-3d"))).exit_code == 0
    assert list((folder / "translated").rglob("*.png"))
    assert (folder / "page.html").exists()
    assert s3_uri.removeprefix("s3://") in (folder / "worker.json").read_text()


def test_trying_again_what_failed(folder: Path) -> None:
    (folder / "flat" / "garbage.png").unlink()  # the last by name, which the guide takes away, shall be a picture
    said = Reader(folder).follows("rerunning")
    assert "ended with 4" in said
    assert "source_missing" in said
    store = open_store(str(folder / "store"))
    run = open_run(store, str(current_run(store, "flat-to-3d")))
    assert status(store, run).records["failed"] == 0
    snapshot = latest_snapshot(store, run)
    assert snapshot is not None
    assert snapshot.number == 1


def test_answering_an_auditor(folder: Path) -> None:
    said = Reader(folder).follows("auditing")
    assert said.count("verdict    intact") == 3
    assert "ended with 10" in said
    assert "13" not in re.findall(r"ended with (\d+)", said)
    store = open_store(str(folder / "store"))
    run = open_run(store, str(current_run(store, "flat-to-3d")))
    assert status(store, run).records["erased"] == 1
    assert run.id in (folder / "page.html").read_text()


def test_changing_the_model(folder: Path) -> None:
    tiny_model(folder / "model-2", seed=1)
    said = Reader(folder).follows("changing-the-model")
    assert said.count("verdict    intact") == 2
    store = open_store(str(folder / "store"))
    made = {
        name: [line.split()[1] for line in (folder / name).read_text().splitlines() if line.startswith("run ")]
        for name in ("said.txt", "tried.txt", "made.txt")
    }
    ((before,), (tried,), (after,)) = (made[name] for name in ("said.txt", "tried.txt", "made.txt"))
    assert current_run(store, "flat-to-3d") == after.rsplit("/", 1)[1]
    old, few, new = (open_run(store, uri.rsplit("/", 1)[1]) for uri in (before, tried, after))
    assert old.model["digest"] != few.model["digest"] == new.model["digest"]
    assert few.prompts == new.prompts
    assert status(store, few).records["ok"] == 5


def test_from_two_folders_to_pictures_and_a_page(looks: Path) -> None:
    """The model knows the folders' names, and what is searched is so many settings, however fast this machine is."""
    said = Reader(looks, BOUND="--tries 2").follows("your-own-pictures")
    assert said.count("they matter from") == 2
    assert "Few settings were tried, 2 by now" in said
    assert "untuned" not in said
    sheet = (looks / "job.tune" / "sheet.html").read_text()
    assert sheet.count("<b>Recommended</b>") == 1
    job, tuned = (load_config(looks / name) for name in ("job.yaml", "job.tuned.yaml"))
    assert tuned.bridge.tau < job.bridge.tau
    store = open_store(str(looks / "store"))
    run = open_run(store, str(current_run(store, "flat-to-3d")))
    assert status(store, run).records["ok"] == LOOKED_AT
    page = re.search(r"^report +(\S+)$", (looks / "said.txt").read_text(), re.MULTILINE)
    assert page is not None
    assert "What the model was told" in Path(page[1]).read_text()
    made, given = ({path.stem for path in (looks / name).iterdir()} for name in ("translated", "flat"))
    assert made >= given


def test_a_data_set_kept_up_to_date(folder: Path, told: Told) -> None:
    for name, hue in (("flat-train", 0.2), ("3d-train", 0.5)):
        make_pictures(folder / name, hue)
        Image.new("RGB", (32, 32), "teal").save(folder / name / f"{name}.png")
    reserved = PrefectServer(folder / "port")  # never started: it keeps a port that nobody else gets
    port = reserved.url.rsplit(":", 1)[1].split("/")[0]
    said = Reader(folder, PREFECT_SERVER_API_PORT=port, HOOK=told.url).follows("nightly")
    reserved.__exit__()
    assert said.count("Completed") >= 5
    store = open_store(str(folder / "store"))
    run = open_run(store, str(current_run(store, "icons")))
    assert run.parent is not None
    assert run.plan["carried"] > 0
    assert verify(store, run.id).exit_code == 0
