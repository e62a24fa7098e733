from __future__ import annotations

import multiprocessing

import pytest
import torch

from tasks.worker import device_of_this_process


def test_a_named_device_is_kept() -> None:
    assert device_of_this_process("cpu") == "cpu"
    assert device_of_this_process("cuda:3") == "cuda:3"


@pytest.mark.parametrize(
    ("name", "device"), [("MainProcess", "cuda:0"), ("SpawnProcess-1", "cuda:0"), ("SpawnProcess-4", "cuda:1")]
)
def test_processes_of_a_pool_take_turns_at_the_accelerators(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", name)
    assert device_of_this_process("auto") == device


def test_auto_without_an_accelerator_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_this_process("auto") == "cpu"
