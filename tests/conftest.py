"""Nothing in the tests reaches the network or the user's own folders."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.object_server import ObjectServer
from lsb.cli.environment import prepare
from lsb.cli.working_folder import ignore_working_folder
from lsb.store.store import Store, open_store

# Set at import, because the libraries that read these do so when they are imported themselves.
_STATE = tempfile.TemporaryDirectory(prefix="lsb-tests-")
# Known before it runs, so that every child process has its address and credentials, and nobody has others.
_SERVER = ObjectServer(Path(_STATE.name, "objects"))
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


@pytest.fixture
def exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were made just before they are listed count as settled."""
    monkeypatch.setattr("lsb.pictures.knowledge.GRAIN_SECONDS", 0.0)
