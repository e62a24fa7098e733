"""Nothing in the tests reaches the network or the user's own folders."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from examples.object_server import ObjectServer
from lsb.cli.environment import prepare
from lsb.cli.working_folder import ignore_working_folder
from lsb.store.store import Store, open_store
from tests.rights import policies

# Set at import, because the libraries that read these do so when they are imported themselves.
_STATE = tempfile.TemporaryDirectory(prefix="lsb-tests-")
# Known before it runs, so that every child process has its address and credentials, and nobody has others.
_SERVER = ObjectServer(Path(_STATE.name, "objects"), policies())
for _name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
    del os.environ[_name]
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": f"{_STATE.name}/prefect",
        "HF_HOME": f"{_STATE.name}/huggingface",
        "MPLCONFIGDIR": f"{_STATE.name}/matplotlib",
        # The models of the tests are so small that threads only wait for each other.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **_SERVER.environment,
    }
)
os.environ.pop("PREFECT_API_URL", None)
os.environ.pop("PREFECT_PROFILE", None)
prepare()
ignore_working_folder()
# On a busy machine it is no fault of anything how long it takes; and what fails once fails each time.
settings.register_profile("lsb", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lsb")

MAKE_DATABASE = """
import asyncio
from lsb.cli.working_folder import ignore_working_folder
ignore_working_folder()
from prefect.server.database import provide_database_interface

async def make():
    database = provide_database_interface()
    await database.create_db()
    await (await database.engine()).dispose()

asyncio.run(make())
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a server or a finished run share a process: those of end to end, and those of each other file.

    Long ones start their own, and go one by one.
    """
    for item in items:
        if not any(item.iter_markers("long")) and not any(item.iter_markers("xdist_group")):
            file = item.nodeid.split("::")[0]
            item.add_marker(pytest.mark.xdist_group("e2e" if file.startswith("tests/e2e/") else file))


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """An S3 server for all tests; each works below a prefix of its own. Who kills it must start it again."""
    with _SERVER:
        yield _SERVER


@pytest.fixture
def s3_uri(object_server: ObjectServer) -> str:
    """A prefix in a bucket, with nothing below it."""
    return f"{object_server.uri}/{secrets.token_hex(8)}"


@pytest.fixture(params=["folder", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind in turn."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_uri"))
    return str(tmp_path / "store")


@pytest.fixture
def store(store_uri: str) -> Store:
    """An empty store of each kind in turn, opened."""
    return open_store(store_uri, create=True)


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database that a server of Prefect makes when it first starts, which takes longer than all else that it does.

    One for all processes of a run of the tests. Copied into the home of a server, as `prefect.db`, it is found there.
    """
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = folder / "prefect" / "prefect.db"
    with (folder / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            being_made = folder / "prefect-being-made"
            environment = {**os.environ, "PREFECT_HOME": str(being_made)}
            subprocess.run([sys.executable, "-c", MAKE_DATABASE], env=environment, check=True)
            being_made.rename(made.parent)
    return made


@pytest.fixture
def prefect_home(prefect_database: Path, tmp_path: Path) -> Path:
    """A folder for a server of Prefect that was there before, and kept nothing."""
    home = tmp_path / "prefect"
    home.mkdir()
    shutil.copy(prefect_database, home)
    return home


@pytest.fixture(scope="session")
def our_home(prefect_database: Path) -> Path:
    """PREFECT_HOME of these tests, likewise."""
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(exist_ok=True)
    if not (home / prefect_database.name).exists():
        shutil.copy(prefect_database, home)
    return home


@pytest.fixture
def exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were made just before they are listed count as settled."""
    monkeypatch.setattr("lsb.pictures.knowledge.GRAIN_SECONDS", 0.0)
