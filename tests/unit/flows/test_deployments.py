"""The files for containers, as far as they can be checked without one. Prefect's: tests/e2e/test_deployments.py."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from lsb import errors

REPOSITORY = Path(__file__).parents[3]
FOLDER = REPOSITORY / "deployments"


def cluster_job() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / "kubernetes" / "job.yaml").read_text())
    return read


def dockerfile() -> Iterator[tuple[str, list[str]]]:
    """Its instructions with their words, continued lines joined."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, *words = line.split()
            yield instruction, words


def exit_codes(kind: type[errors.LsbError] = errors.LsbError) -> set[int]:
    return {kind.exit_code}.union(*(exit_codes(below) for below in kind.__subclasses__()))


class TestTheClusterJob:
    def test_it_reads_credentials_from_a_secret_only(self) -> None:
        (container,) = cluster_job()["spec"]["template"]["spec"]["containers"]
        assert "env" not in container
        assert container["envFrom"] == [{"secretRef": {"name": "lsb-store"}}]

    def test_it_gives_up_where_trying_again_cannot_help(self) -> None:
        ignore, rule = cluster_job()["spec"]["podFailurePolicy"]["rules"]
        assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert rule["action"] == "FailJob"
        hopeless = (errors.UsageError, errors.BudgetExceededError, errors.TamperedError)
        assert set(rule["onExitCodes"]["values"]) == {kind.exit_code for kind in hopeless} <= exit_codes()
        assert errors.UnfinishedError.exit_code not in rule["onExitCodes"]["values"]

    def test_what_it_mounts_is_there_and_what_it_watches_is_its_container(self) -> None:
        pod = cluster_job()["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (*_, rule) = cluster_job()["spec"]["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert pod["restartPolicy"] == "Never"  # a podFailurePolicy demands it


class TestTheDockerfile:
    def test_every_file_that_it_copies_is_there_and_reaches_the_build(self) -> None:
        let_in = [line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
        copied = [source for instruction, words in dockerfile() if instruction == "COPY" for source in words[:-1]]
        assert {"pyproject.toml", "lsb", "tasks", "flows"} <= set(copied)
        for source in copied:
            assert (REPOSITORY / source).exists(), source
            assert any(fnmatch(source, pattern) for pattern in let_in), source

    def test_what_it_installs_and_starts_is_declared(self) -> None:
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        words = [word for instruction, line in dockerfile() if instruction == "RUN" for word in line]
        assert "'.[run,s3,kubernetes]'" in words
        assert {"run", "s3", "kubernetes"} <= project["optional-dependencies"].keys()
        assert next(line for instruction, line in dockerfile() if instruction == "ENTRYPOINT") == ['["lsb"]']
        assert "lsb" in project["scripts"]

    def test_who_it_runs_as_is_a_number_that_is_not_roots(self) -> None:
        """A cluster that asks for `runAsNonRoot` can tell no name."""
        (user,) = (line for instruction, line in dockerfile() if instruction == "USER")
        assert user == ["10001:10001"]
