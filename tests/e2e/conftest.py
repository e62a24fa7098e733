"""One tiny model, one Prefect server, one finished job and one store full of everything for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lsb.cli.local_server import prefect_server
from lsb.cli.main import run_command
from tests.e2e.adversary import Scene, make_template, planted_scene
from tests.e2e.jobs import Job, make_job
from tests.tiny import tiny_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    with prefect_server():
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    """A job that has not run."""
    return make_job(tmp_path, model)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, server: None) -> Job:
    """A job that has run. Read only: copy its store to change it."""
    done = make_job(tmp_path_factory.mktemp("finished"), model)
    assert run_command(["run", str(done.config)]) == 0
    return done


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """See `make_template`. Read only."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def scene(template: Scene, tmp_path: Path) -> Scene:
    """A copy of it."""
    return planted_scene(template, tmp_path / "scene")
