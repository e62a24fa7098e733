"""Which of torch's devices this machine has."""

from __future__ import annotations

from lsb.errors import UsageError


def usable_device(name: str, number: int = 0) -> str:
    """torch's name of a device that is here. Starts no context on an accelerator.

    Args:
        name: `auto` (CUDA where there is one, else the CPU), `cpu`, or an accelerator such as `cuda` or `cuda:1`.
        number: of several processes, from 0: they take turns at the devices that `auto` or `cuda` leaves open.

    Raises:
        UsageError: there is no such device, or not here.
    """
    if name == "cpu":  # no need of torch, which takes a second
        return name
    import torch

    kind, count = _accelerator()
    if name == "auto":
        name = "cuda" if kind == "cuda" else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _refused(name, kind, count) from None
    index = device.index or 0
    if device.type == "cpu" and index == 0:
        return "cpu"
    if device.type != kind or index >= count:
        raise _refused(name, kind, count)
    return str(device) if device.index is not None else f"{kind}:{number % count}"


def _accelerator() -> tuple[str | None, int]:
    """The kind of accelerator that is here, and how many there are of it."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return (found.type, torch.accelerator.device_count()) if found else (None, 0)


def _refused(name: str, kind: str | None, count: int) -> UsageError:
    here = ["auto", "cpu", *([kind] if kind else []), *(f"{kind}:{index}" for index in range(count))]
    reason = ", for which this torch is not built" if name.startswith("cuda") and not _built_for_cuda() else ""
    return UsageError(f"device is {name!r}{reason}; this machine has {', '.join(here)}")


def _built_for_cuda() -> bool:
    import torch

    return torch.backends.cuda.is_built()
