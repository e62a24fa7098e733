"""Which device a name stands for on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lsb.errors import UsageError
from lsb.models.device import usable_device
from lsb.models.load import load_backbone


def with_accelerators(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int) -> None:
    """Pretend that this machine has `count` of a kind."""
    found = torch.device(kind) if kind else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0"])
def test_without_an_accelerator_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_accelerators(monkeypatch, None, 0)
    assert [usable_device(name, number) for number in range(2)] == ["cpu", "cpu"]


def test_processes_take_turns_at_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    with_accelerators(monkeypatch, "cuda", 2)
    for name in ("auto", "cuda"):
        assert [usable_device(name, number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [usable_device("cuda:1", number) for number in range(3)] == ["cuda:1"] * 3
    assert usable_device("cpu") == "cpu"


def test_auto_takes_no_accelerator_but_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    with_accelerators(monkeypatch, "mps", 1)
    assert usable_device("auto") == "cpu"
    assert usable_device("mps") == "mps:0"


@pytest.mark.parametrize(
    "name", ["cuda", "cuda:0", "cuda:7", "mps", "xpu", "gpu", "", " cpu", "CPU", "cpu:1", "cpu:x", "cuda:-1", "meta"]
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_accelerators(monkeypatch, None, 0)
    with pytest.raises(UsageError) as refused:
        usable_device(name)
    assert repr(name) in str(refused.value)
    assert str(refused.value).endswith("; this machine has auto, cpu")
    assert "\n" not in str(refused.value)


def test_a_device_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_accelerators(monkeypatch, "cuda", 1)
    with pytest.raises(UsageError, match=r"'cuda:7'.*this machine has auto, cpu, cuda, cuda:0$"):
        usable_device("cuda:7")


def test_a_backbone_is_not_loaded_onto_a_device_that_is_not_here(tiny_folder: Path) -> None:
    for folder in (tiny_folder, Path("there/is/no/such/folder")):  # before any file is looked for
        with pytest.raises(UsageError, match="device is 'gpu'"):
            load_backbone(str(folder), device="gpu")
