"""Whether memory did not suffice, and giving back what nobody holds."""

from __future__ import annotations

import gc
import sys

from lsb.errors import OutOfMemoryError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not suffice, the host's or an accelerator's."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def free_memory() -> None:
    """Give back what nobody holds on to any more, an accelerator's memory too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
