"""deployments/compose.yaml, kubernetes/ and release.sh, as far as they can be checked without an engine and a cluster.

Against the schemas of Compose and Kubernetes, which two packages bring along. The same processes as in compose.yaml,
started directly: tests/e2e/test_stack.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration
from typer.main import get_command

from lsb import errors
from lsb.cli.main import app
from tests.compose import defaults, environment, filled_in
from tests.prefect_parts import REPOSITORY

FOLDER = REPOSITORY / "deployments"
KUBERNETES = FOLDER / "kubernetes"
VERSIONS = ("1.30", kubernetes_validate.latest_version().rpartition(".")[0])
BASES = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
MANIFESTS = sorted({*KUBERNETES.rglob("*.yaml")} - {base / "kustomization.yaml" for base in BASES})
TEMPLATE = KUBERNETES / "pool" / "job-template.json"
SECRETS = {"PREFECT_AUTH": "user:word", "DATABASE_PASSWORD": "word", "STORE_KEY": "key", "STORE_SECRET": "word"}
DIGEST = "sha256:" + "a" * 64


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod that a manifest or the pool's template makes."""
    found = [
        (one["metadata"]["name"], one["spec"]["template"])
        for file in MANIFESTS
        for one in documents(file)
        if one["kind"] in ("Job", "Deployment")
    ]
    return [*found, ("template", pool_job()["spec"]["template"])]


def pool_job(**values: Any) -> dict[str, Any]:
    """The job that Prefect's worker makes by the template, with its defaults."""
    template = json.loads(TEMPLATE.read_text())
    known = BaseJobConfiguration._get_base_config_defaults(template["variables"]["properties"])
    given = {"command": ["prefect", "flow-run", "execute"], "name": "night", "env": [], "labels": {}, "annotations": {}}
    filled: dict[str, Any] = apply_values(
        template["job_configuration"]["job_manifest"], {**known, **given, **values}, remove_notset=True
    )
    return filled


class TestCompose:
    def test_it_is_one(self) -> None:
        schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
        Draft202012Validator(schema).validate(filled_in(SECRETS))

    def test_nothing_starts_without_secrets_and_none_is_written_down(self) -> None:
        assert {name: default for name, default in defaults().items() if default is None} == dict.fromkeys(SECRETS)
        named = [line.split("=")[0] for line in (FOLDER / "compose.env").read_text().splitlines() if line[:1] != "#"]
        assert set(SECRETS) <= set(named) <= {*defaults()}
        for name in filled_in(SECRETS)["services"]:
            for variable, value in environment(name, SECRETS).items():
                assert value in SECRETS.values() or not re.search("PASSWORD|SECRET|AUTH|_KEY", variable), variable

    def test_everything_has_a_root_that_is_read_only_and_no_right_of_roots(self) -> None:
        for name, service in filled_in(SECRETS)["services"].items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert name == "store" or service["user"] in ("10001:10001", "postgres"), name

    def test_only_this_machine_reaches_in(self) -> None:
        ports = [port for service in filled_in(SECRETS)["services"].values() for port in service.get("ports", [])]
        assert ports == ["127.0.0.1:4200:4200"]

    def test_prefect_asks_for_a_password_and_its_clients_have_it(self) -> None:
        assert environment("server", SECRETS)["PREFECT_SERVER_API_AUTH_STRING"] == SECRETS["PREFECT_AUTH"]
        for client in ("worker", "setup"):
            assert environment(client, SECRETS)["PREFECT_API_AUTH_STRING"] == SECRETS["PREFECT_AUTH"]


class TestKubernetes:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: str(file.relative_to(KUBERNETES)))
    def test_a_manifest_is_one(self, file: Path, version: str) -> None:
        for document in documents(file):
            kubernetes_validate.validate(document, version, strict=True)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_job_of_the_pool_is_one(self, version: str) -> None:
        """But for two numbers in the pod, which Prefect's worker demands there and a cluster drops."""
        job = pool_job()
        pod = job["spec"]["template"]["spec"]
        kubernetes_validate.validate(job, version, strict=False)
        assert (pod.pop("completions"), pod.pop("parallelism")) == (1, 1)
        kubernetes_validate.validate(job, version, strict=True)

    @pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)
    def test_a_base_names_files_that_are_there_and_leaves_none_out(self, base: Path) -> None:
        (read,) = documents(base / "kustomization.yaml")
        generated = [name for one in read.get("configMapGenerator", []) for name in one["files"]]
        inside = {name for name in (*read["resources"], *generated) if not name.startswith("../")}
        assert inside == {path.name for path in base.iterdir()} - {"kustomization.yaml"}
        for name in read["resources"]:
            assert (base / name).exists(), name

    @pytest.mark.parametrize(("name", "pod"), pods(), ids=lambda part: part if isinstance(part, str) else "")
    def test_a_pod_has_no_more_rights_than_it_needs(self, name: str, pod: dict[str, Any]) -> None:
        assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lsb"  # the network policy's
        spec = pod["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"/home/lsb", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert spec["terminationGracePeriodSeconds"] >= (30 if name == "lsb-pool" else 120)
        assert name == "lsb-pool" or spec["automountServiceAccountToken"] is False
        for variable in container.get("env", []):
            assert "valueFrom" in variable or not re.search("PASSWORD|AUTH_STRING$|SECRET$", variable["name"])

    def test_a_worker_is_called_as_the_command_is(self) -> None:
        """By its options, and it ends as one that another try can help, or not."""
        (job,) = documents(KUBERNETES / "work" / "work.yaml")
        (container,) = job["spec"]["template"]["spec"]["containers"]
        command, run, *options = container["args"]
        assert (command, run) == ("work", "$(RUN)")
        named = {option for parameter in get_command(app).commands[command].params for option in parameter.opts}
        assert {word for word in options if word.startswith("--")} <= named
        (*_, rule) = job["spec"]["podFailurePolicy"]["rules"]
        hopeless = (errors.UsageError, errors.BudgetExceededError, errors.TamperedError)
        assert set(rule["onExitCodes"]["values"]) == {kind.exit_code for kind in hopeless}

    def test_what_works_on_devices_asks_for_them_and_may_go_where_they_are(self) -> None:
        devices = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        for name, pod in pods():
            if name in ("lsb-work", "template"):
                (container,) = pod["spec"]["containers"]
                assert {container["resources"][kind]["nvidia.com/gpu"] for kind in ("requests", "limits")} == {1}
                assert pod["spec"]["tolerations"] == [devices]
        assert pool_job(devices=0)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
            "memory": "16Gi",
            "nvidia.com/gpu": 0,
        }


class TestARelease:
    """With a docker that answers and builds nothing."""

    def release(self, folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
        fake = folder / "docker"
        said = folder / "said"
        fake.write_text(f'#!/bin/sh\necho "$@" >> {said}\ncase "$*" in *inspect*) echo "{answer}";; esac\n')
        fake.chmod(0o755)
        return subprocess.run(
            [FOLDER / "release.sh", "example.test/lsb", "1.0"],
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TORCH_INDEX_CPU": "https://example.test/cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_it_names_what_a_registry_answered(self, tmp_path: Path) -> None:
        done = self.release(tmp_path, DIGEST)
        assert done.returncode == 0, done.stderr
        images = dict(line.split("=", 1) for line in done.stdout.splitlines())
        assert images == {
            "BASE_IMAGE": f"python:3.11-slim@{DIGEST}",
            "LSB_IMAGE": f"example.test/lsb:1.0-cpu@{DIGEST}",
            "LSB_CUDA_IMAGE": f"example.test/lsb:1.0-cuda@{DIGEST}",
            "POSTGRES_IMAGE": f"{defaults()['POSTGRES_IMAGE']}@{DIGEST}",
            "STORE_IMAGE": f"{defaults()['STORE_IMAGE']}@{DIGEST}",
        }
        builds = [line for line in (tmp_path / "said").read_text().splitlines() if " build " in f" {line} "]
        assert ["TORCH_INDEX=https://example.test/cpu" in line for line in builds] == [True, False]
        assert all(f"BASE=python:3.11-slim@{DIGEST}" in line for line in builds)

    def test_it_invents_none(self, tmp_path: Path) -> None:
        done = self.release(tmp_path, "")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no digest of python:3.11-slim" in done.stderr
        assert "@sha256" not in "".join(file.read_text() for file in FOLDER.rglob("*") if file.is_file())
