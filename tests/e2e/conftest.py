"""One tiny model, one Prefect server, one finished job and one store full of everything for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from lsb.cli import local_server
from lsb.cli.main import run_command
from tests.e2e.adversary import Scene, make_template, planted_scene
from tests.e2e.jobs import Job, make_job
from tests.tiny import tiny_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def running(our_home: Path) -> Iterator[dict[Any, Any]]:
    """A Prefect server, and the settings that name it. Nobody has them who does not ask for `server`."""
    secret = "lsb:known-to-the-tests"
    process, address = local_server._start(our_home, secret)
    yield {
        PREFECT_API_URL: address,
        PREFECT_API_AUTH_STRING: secret,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    local_server._drain()
    local_server._stop(process)


@pytest.fixture
def server(running: dict[Any, Any]) -> Iterator[None]:
    """What runs in this process uses the one server."""
    with temporary_settings(running):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    """A job that has not run."""
    return make_job(tmp_path, model)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, model: Path, running: dict[Any, Any]) -> Job:
    made = make_job(tmp_path_factory.mktemp("finished"), model)
    with temporary_settings(running):
        assert run_command(["run", str(made.config)]) == 0
    return made


@pytest.fixture
def finished(done: Job, server: None) -> Job:
    """A job that has run. Read only: copy its store to change it."""
    return done


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """See `make_template`. Read only."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def scene(template: Scene, tmp_path: Path) -> Scene:
    """A copy of it."""
    return planted_scene(template, tmp_path / "scene")
