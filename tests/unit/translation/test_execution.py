from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lsb
from lsb.ledger.schemas import MANIFEST
from lsb.records import digest_of
from lsb.translation import execution
from lsb.translation.execution import checkout_commit, describe, packages_digest, threads_each


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_facts_are_columns_of_the_manifest() -> None:
    facts = describe("cpu", "float32", 8, 3)
    assert facts.keys() <= set(MANIFEST.arrow.names)
    assert facts["device"].startswith("cpu: ")
    assert (facts["dtype"], facts["batch"], facts["threads"]) == ("float32", 8, 3)
    assert facts["instruction_set"]
    assert facts["packages_sha256"] == packages_digest()


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (
            ["processor\t: 0", "cpu family\t: 6", "model\t\t: 143", "model name\t: Intel(R) Xeon(R) Processor"],
            "Intel(R) Xeon(R) Processor (cpu family 6, model 143)",
        ),
        (
            ["processor\t: 0", "CPU implementer\t: 0x41", "CPU part\t: 0xd40"],
            "unknown model (CPU implementer 0x41, CPU part 0xd40)",
        ),
        ([], "unknown model"),
    ],
)
def test_processors_of_one_name_are_told_apart(
    lines: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one instruction set, too, they add in different orders."""
    file = tmp_path / "cpuinfo"
    file.write_text("\n".join([*lines, "", "processor\t: 1", "model name\t: another", ""]) if lines else "")
    monkeypatch.setattr(execution, "PROCESSORS", file)
    assert describe("cpu", "float32", 8, 3)["device"] == f"cpu: {name}"
    file.unlink()
    assert describe("cpu", "float32", 8, 3)["device"] == "cpu: unknown model"


def test_threads_are_shared_by_the_processes_with_a_model_and_none_goes_without() -> None:
    all_of_them = torch.get_num_threads()
    assert [threads_each(count) for count in (1, all_of_them, 10**6)] == [all_of_them, 1, 1]


def test_an_accelerator_adds_without_the_processors_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "made up")
    assert describe("cuda:0", "float32", 8, 3)["threads"] is None


def test_the_packages_digest_is_that_of_what_is_installed_in_whatever_order() -> None:
    listed = (
        "import json; from importlib.metadata import distributions as d;"
        "print(json.dumps(sorted({f'{x.name.lower()}=={x.version}' for x in d() if x.name})))"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(lsb.__file__).parents[1])}
    answer = subprocess.run([sys.executable, "-c", listed], check=True, capture_output=True, env=environment)
    assert packages_digest() == digest_of(json.loads(answer.stdout))


def test_a_checkout_names_its_commit_and_whether_files_differ(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    assert checkout_commit(root) is None
    checkout_commit.cache_clear()
    git(root, "init", "--quiet")
    (root / "a.py").write_text("a = 1\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "a")
    assert checkout_commit(root) == git(root, "rev-parse", "HEAD")
    checkout_commit.cache_clear()
    (root / "a.py").write_text("a = 2\n")
    assert checkout_commit(root) == git(root, "rev-parse", "HEAD") + "-dirty"


def test_a_row_names_the_commit_of_the_checkout_that_this_package_lies_in() -> None:
    root = Path(__file__).resolve().parents[3]
    assert (root / "lsb" / "__init__.py").is_file()
    commit = describe("cpu", "float32", 8, 3)["code_commit"]
    assert (commit or "").removesuffix("-dirty") == (git(root, "rev-parse", "HEAD") if (root / ".git").exists() else "")
