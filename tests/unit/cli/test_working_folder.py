"""Whatever lies in the working folder, none of it runs and none of it decides where Prefect's data go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TRAP = "import os; os.write(os.open({ran!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), (__name__ + '\\n').encode())\n"
TRAPPED = sorted(sys.stdlib_module_names | {"sitecustomize", "usercustomize", "uvicorn", "sqlalchemy", "PIL"})

PROGRAM = """
from functools import partial
from types import SimpleNamespace
from lsb.cli.environment import prepare
prepare()
from lsb.cli.working_folder import ignore_working_folder
ignore_working_folder()
from prefect import flow
from prefect.settings import get_current_settings
from lsb.cli.local_server import prefect_server
from lsb.translation.model import Made, Task
from lsb.translation.model_process import ModelProcess
from tests.unit.flows.echo import echoing

@flow(log_prints=True)
def three() -> int:
    print("something for the log")
    return 3

if __name__ == "__main__":
    with prefect_server():
        assert three() == 3
        assert get_current_settings().tasks.default_retries == 0
if __name__ == "__main__":
    for method in ("forkserver", "spawn"):
        with ModelProcess(partial(echoing), batch=1, limit=600, method=method) as model:
            assert model.make([Task(1, "a", SimpleNamespace(tiles=None), 1)]) == [Made(1)]
    print(get_current_settings().home)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder full of traps; RAN names those that snapped."""
    trapped = tmp_path / "work"
    trapped.mkdir()
    trap = TRAP.format(ran=str(tmp_path / "RAN"))
    for name in TRAPPED:
        (trapped / f"{name}.py").write_text(trap)
    for name in ("flows", "tasks", "lsb", "prefect"):
        (trapped / name).mkdir()
        (trapped / name / "__init__.py").write_text(trap + "print('http://127.0.0.1:1/api')\n")
    hostile = trapped / "hostile.yml"
    call = "{'()': subprocess.getoutput, cmd: 'echo logging >> %s'}" % (tmp_path / "RAN")
    hostile.write_text(f"version: 1\nformatters: {{trap: {call}}}\n")
    return trapped


def settings(folder: Path) -> dict[str, str]:
    """Every way to change Prefect's settings from a working folder."""
    away, logging = folder / "away", folder / "hostile.yml"
    return {
        ".env": f"PREFECT_TASKS_DEFAULT_RETRIES=7\nPREFECT_HOME={away}\nPREFECT_LOGGING_SETTINGS_PATH={logging}\nPREFECT_API_URL=http://127.0.0.1:1/api\n"
        f"PREFECT_PROFILES_PATH={folder / 'profiles.toml'}\n",
        "prefect.toml": f'home = "{away}"\n[logging]\nconfig_path = "{logging}"\n[api]\nurl = "http://127.0.0.1:1/api"\n',
        "pyproject.toml": f'[tool.prefect]\nhome = "{away}"\n[tool.prefect.logging]\nconfig_path = "{logging}"\n',
        "profiles.toml": f'active = "a"\n[profiles.a]\nPREFECT_LOGGING_SETTINGS_PATH = "{logging}"\n',
    }


def test_nothing_of_it_is_imported_or_read(folder: Path, prefect_home: Path, tmp_path: Path) -> None:
    for name, text in settings(folder).items():
        (folder / name).write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    script = tmp_path / "bin" / "lsb"  # as the installed command is started: without -P
    script.parent.mkdir()
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, script],
        env={**kept, "PREFECT_HOME": str(prefect_home), "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines()[-1] == str(prefect_home)
    assert not (tmp_path / "RAN").exists(), (tmp_path / "RAN").read_text()
    assert not (folder / "away").exists()


@pytest.mark.parametrize("name", ["prefect.toml", "pyproject.toml"])
def test_a_file_that_cannot_be_read_there_is_no_error(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_text("[ no toml")
    program = (
        "from lsb.cli.working_folder import ignore_working_folder as i; i(); "
        "from prefect.settings import get_current_settings as g; g()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
