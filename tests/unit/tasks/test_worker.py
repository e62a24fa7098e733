from __future__ import annotations

import pytest
import torch

from tasks.worker import device_of


def test_a_named_device_is_kept() -> None:
    assert device_of("cpu") == "cpu"
    assert device_of("cuda:3") == "cuda:3"


def test_processes_take_turns_at_the_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


def test_auto_without_an_accelerator_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == "cpu"
