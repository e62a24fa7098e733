"""What was chosen, in a job's file: read as it was meant, or not written at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsb.bridge.methods import METHODS
from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import load_config
from lsb.errors import ConfigError, UsageError
from lsb.tuning.job_file import refuse_unwritable, with_method, write_tuned

JOB = """\
name: tiny  # mine
store: store
model: owner/name
source: {domain: flat, path: flat}
prompts: {source: {text: a}, target: {text: b}}
"""
CHOSEN = BridgeSettings(tau=0.123, t0=0.05, nfe=3, solver="adams_moulton", grid="tuned", times=(0.05, 0.31, 0.9701))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


def test_a_new_file_has_all_that_was_chosen(job: Path) -> None:
    out = job.with_name("new.yaml")
    assert write_tuned(job, load_config(job), CHOSEN, job.parent, out) == out
    assert load_config(out) == load_config(job).model_copy(update={"bridge": CHOSEN})
    assert out.read_text().startswith(JOB)
    assert "guidance: 11" in out.read_text()  # chosen, though it is the default
    assert write_tuned(job, load_config(job), CHOSEN, job.parent, out) == out  # nobody has changed it meanwhile
    out.write_text(f"{out.read_text()}# mine\n")
    with pytest.raises(UsageError, match=r"new.yaml exists"):
        write_tuned(job, load_config(job), CHOSEN, job.parent, out)


def test_the_jobs_own_file_keeps_its_mode_and_its_place(job: Path) -> None:
    job.chmod(0o640)
    link = job.with_name("link.yaml")
    link.symlink_to(job.name)
    for chosen in (CHOSEN, CHOSEN.model_copy(update={"tau": 0.5})):
        write_tuned(link, load_config(link), chosen, link.parent)
        assert load_config(job).bridge == chosen
    assert link.is_symlink()
    assert job.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in job.parent.iterdir()) == ["job.yaml", "link.yaml"]


def test_another_method_takes_the_place_of_the_jobs(job: Path) -> None:
    job.write_text(JOB + "bridge: {tau: 0.3}\n")
    write_tuned(job, load_config(job), Sdedit(sigma=0.4), job.parent)
    assert load_config(job).method_settings == Sdedit(sigma=0.4)
    write_tuned(job, load_config(job), CHOSEN, job.parent)
    assert load_config(job).method_settings == CHOSEN
    assert job.read_text().startswith(JOB)


@pytest.mark.parametrize(("text", "elsewhere"), [(f"{JOB}...\n", False), (JOB, True)], ids=["ended", "elsewhere"])
def test_what_would_be_read_otherwise_is_not_written(job: Path, text: str, elsewhere: bool) -> None:
    """A file whose document has ended; and relative paths that mean other places from another folder."""
    job.write_text(text)
    (job.parent / "other").mkdir()
    out = job.parent / "other" / "new.yaml" if elsewhere else None
    with pytest.raises(ConfigError, match=r"write `bridge: \{.*tau: 0.123.*\}` into") as refused:
        write_tuned(job, load_config(job), CHOSEN, job.parent, out)
    assert ("beside" in str(refused.value)) == elsewhere
    assert job.read_text() == text
    assert sorted(path.name for path in job.parent.rglob("*")) == ["job.yaml", "other"]


@pytest.mark.parametrize("name", METHODS)
def test_whether_settings_of_a_method_could_be_written_leaves_nothing(job: Path, name: str) -> None:
    for out in (None, job.with_name("new.yaml")):
        refuse_unwritable(job, load_config(job), METHODS[name](), out)
    assert [path.name for path in job.parent.iterdir()] == ["job.yaml"]
    assert job.read_text() == JOB


def test_what_is_not_for_the_method_is_refused(job: Path) -> None:
    job.write_text(JOB.replace("{source", "{negative: blurry, source") + "method: {name: ddib, inversion: negative}\n")
    with pytest.raises(ConfigError, match="negative is not used"):
        with_method(load_config(job), CHOSEN)
