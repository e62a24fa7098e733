from __future__ import annotations

from pathlib import Path

from flows.environment import prepare


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "DO_NOT_TRACK": "0"}
    prepare(environment=environment)
    assert environment["DO_NOT_TRACK"] == "0"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "CRITICAL"


def test_a_writable_home_is_used_as_it_is(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    prepare(environment=environment)
    assert "PREFECT_HOME" not in environment


def test_prefects_home_is_made(tmp_path: Path) -> None:
    prepare(environment={"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "a" / "b")})
    assert (tmp_path / "a" / "b").is_dir()


def test_without_a_writable_home_state_goes_to_the_temporary_folder() -> None:
    for home in ("/nowhere", ""):
        environment = {"HOME": home}
        prepare(environment=environment)
        assert environment["PREFECT_HOME"].endswith("/prefect")
