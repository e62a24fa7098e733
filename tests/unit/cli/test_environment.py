from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lsb.cli.environment import prepare
from lsb.errors import ResourceError


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "DO_NOT_TRACK": "0"}
    prepare(environment=environment)
    assert environment["DO_NOT_TRACK"] == "0"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "CRITICAL"


def test_state_lies_in_a_folder_of_our_own(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    prepare(environment=environment)
    state = tmp_path / ".local" / "state" / "lsb"
    assert environment["PREFECT_HOME"] == str(state / "prefect")
    assert stat.S_IMODE(state.stat().st_mode) == stat.S_IMODE((state / "prefect").stat().st_mode) == 0o700
    assert environment["PREFECT_PROFILES_PATH"] == str(tmp_path / ".prefect" / "profiles.toml")
    assert "HF_HOME" not in environment
    other = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "elsewhere")}
    prepare(environment=other)
    assert other["PREFECT_HOME"] == str(tmp_path / "elsewhere" / "lsb" / "prefect")


@pytest.mark.parametrize("where", ["environment", "profile", "PREFECT_PROFILE"])
def test_prefects_home_is_where_the_user_says(tmp_path: Path, where: str) -> None:
    (tmp_path / ".prefect").mkdir()
    mine = tmp_path / "mine"
    active = "other" if where == "PREFECT_PROFILE" else "work"
    (tmp_path / ".prefect" / "profiles.toml").write_text(
        f'active = "{active}"\n[profiles.other]\n[profiles.work]\nPREFECT_HOME = "{mine}"\n'
    )
    said = {"environment": {"PREFECT_HOME": str(mine)}, "profile": {}, "PREFECT_PROFILE": {"PREFECT_PROFILE": "work"}}
    environment = {"HOME": str(tmp_path), **said[where]}
    prepare(environment=environment)
    assert environment["PREFECT_HOME"] == str(mine)
    assert not (tmp_path / ".local").exists()


def test_prefects_home_is_made(tmp_path: Path) -> None:
    prepare(environment={"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "a" / "b")})
    assert (tmp_path / "a" / "b").is_dir()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, which everybody can write to."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("home", ["/nowhere", ""])
def test_without_a_writable_home_state_goes_to_the_temporary_folder(temporary: Path, home: str) -> None:
    environment = {"HOME": home}
    prepare(environment=environment)
    state = temporary / f"lsb-{os.geteuid()}"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name, folder in (("PREFECT_HOME", "prefect"), ("HF_HOME", "huggingface"), ("MPLCONFIGDIR", "matplotlib")):
        assert environment[name] == str(state / folder)


@pytest.mark.parametrize(
    ("trap", "words"),
    [("link", "is no folder"), ("file", "is no folder"), ("open", "other users"), ("owner", "another user")],
)
def test_a_folder_that_somebody_else_may_have_filled_is_refused(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, trap: str, words: str
) -> None:
    state = temporary / f"lsb-{os.geteuid()}"
    if trap == "link":
        (temporary / "theirs").mkdir(mode=0o700)
        state.symlink_to(temporary / "theirs")
    elif trap == "file":
        state.write_text("")
    else:
        state.mkdir(mode=0o700)
    if trap == "open":
        state.chmod(0o720)
    if trap == "owner":
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        state.rename(temporary / f"lsb-{os.geteuid()}")
    with pytest.raises(ResourceError, match=words):
        prepare(environment={"HOME": "/nowhere"})


def test_a_folder_that_others_could_only_read_is_closed(temporary: Path) -> None:
    state = temporary / f"lsb-{os.geteuid()}"
    state.mkdir(mode=0o755)
    prepare(environment={"HOME": "/nowhere"})
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_home_that_is_full_is_one_line(temporary: Path) -> None:
    (temporary / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot make the folder .*; set XDG_STATE_HOME"):
        prepare(environment={"HOME": "/nowhere", "XDG_STATE_HOME": str(temporary / "file" / "x")})
