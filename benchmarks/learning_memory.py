"""What one step of learning a prompt holds in memory on SD 1.5's layout at 512 x 512, counted without the hardware.

    PYTHONPATH=. python benchmarks/learning_memory.py --json       seconds: no number of a tensor is calculated
    PYTHONPATH=. python benchmarks/learning_memory.py --measured   beside it what a real step takes here, in minutes

Tensors are counted by their storages while they live, weights too: those of torch's fake tensors, which have shapes
and lifetimes but no memory. What is not a tensor is not counted: the process itself, and what a kernel needs while it
runs. `--measured` has one step done for real, in a process of its own, and looks at the most that it ever held beyond
what it held before the model was made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from whole_model import SIDE, whole_backbone

from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.prompts.seen import latents_of

GIB = 2**30
LIMITS = (8, 4)  # GiB
ROWS = (1, 2, 4, 8)
DTYPES = ("float32", "bfloat16")
SIGMA = 1.0
MEASURED = 1  # rows at most that are calculated for real


class Living(TorchDispatchMode):
    """Counts the bytes of all storages that operations have made and that are still held."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: dict[int, Any] = {}
        for tensor in weights:
            self._count(tensor)

    def __torch_dispatch__(self, act: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = act(*arguments, **(named or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def parts(backbone: StableDiffusion) -> list[torch.Tensor]:
    networks = (backbone._unet, backbone._vae, backbone._text._encoder)
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]


def as_asked(backbone: StableDiffusion, twice: bool) -> StableDiffusion:
    if not twice:
        backbone._unet.disable_gradient_checkpointing()
    return backbone


def new_word() -> Prompt:
    return Prompt("a picture in the style of {token}", "<new>", torch.zeros(1, 768))


def step(backbone: StableDiffusion, prompt: Prompt, rows: int) -> None:
    """Forward and back, as `lsb.prompts.course` has it, of so many rows at a time."""
    x, eps = torch.zeros(2, rows, *backbone.latent_shape(SIDE, SIDE))
    assert prompt.vectors is not None
    vectors = prompt.vectors.clone().requires_grad_()
    condition = backbone.embed(prompt, vectors)
    eps_hat = backbone.predict(x + SIGMA * eps, [SIGMA] * rows, condition)
    loss = ((1 + SIGMA**2) * (eps_hat - eps) ** 2).flatten(1).mean(1).mean()
    torch.autograd.grad(loss, vectors)


@contextmanager
def made_up(dtype: str, twice: bool) -> Iterator[tuple[StableDiffusion, Prompt]]:
    """The model and a new word; whether blocks are calculated twice is the model's own rule, but here."""
    prompt = new_word()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield as_asked(whole_backbone(dtype), twice), prompt


def counted(dtype: str, rows: int, twice: bool) -> dict[str, Any]:
    """GiB of tensors at their most, weights among them."""
    with made_up(dtype, twice) as (backbone, prompt):
        living = Living(parts(backbone))
        weights = living.now
        with living:
            step(backbone, prompt, rows)
        most, living.most = living.most, living.now
        with living:
            latents_of(backbone, [torch.zeros(3, SIDE, SIDE)] * rows, rows)
    return {
        "dtype": dtype,
        "rows": rows,
        "blocks_calculated_twice": twice,
        "weights_gib": round(weights / GIB, 3),
        "step_gib": round(most / GIB, 3),
        "encoding_gib": round(living.most / GIB, 3),
    }


def forwards(twice: bool) -> float:
    """What a step costs, in forwards of the network."""
    with made_up("float32", twice) as (backbone, prompt):
        with FlopCounterMode(display=False) as there, torch.no_grad():
            backbone.predict(torch.zeros(1, *backbone.latent_shape(SIDE, SIDE)), SIGMA, backbone.embed(prompt))
        with FlopCounterMode(display=False) as and_back:
            step(backbone, prompt, 1)
    return round(and_back.get_total_flops() / there.get_total_flops(), 2)


def held() -> dict[str, int]:
    """Bytes of this process that lie in memory: now, and at most since `forget`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: 1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")}


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measured(dtype: str, rows: int, twice: bool) -> dict[str, float]:
    """GiB that this process held at most beyond what it held before, in a step."""
    prompt, before = new_word(), held()["VmRSS"]
    backbone = as_asked(whole_backbone(dtype), twice)
    forget()
    began = time.monotonic()
    step(backbone, prompt, rows)
    seconds = round(time.monotonic() - began, 1)
    return {"measured_step_gib": round((held()["VmHWM"] - before) / GIB, 3), "measured_seconds": seconds}


def in_a_process(row: dict[str, Any]) -> dict[str, float]:
    """`measured`, where nothing else has been calculated before, and what is free is given back."""
    twice = ["--twice"] if row["blocks_calculated_twice"] else []
    command = [sys.executable, __file__, "--one", row["dtype"], str(row["rows"]), *twice]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout)
    return found


def fitting(rows: Sequence[dict[str, Any]], dtype: str, limit: float, what: str) -> int:
    """How many rows fit, by halves of the default batch; 0 if not even one does."""
    of_dtype = [row for row in rows if row["dtype"] == dtype and row["blocks_calculated_twice"]]
    return max((row["rows"] for row in of_dtype if row[what] <= limit), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measured", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("DTYPE", "ROWS"), help=argparse.SUPPRESS)
    parser.add_argument("--twice", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], int(options.one[1]), options.twice)))
        return
    rows = [counted(dtype, count, twice) for dtype in DTYPES for count in ROWS for twice in (False, True)]
    if options.measured:
        for row in rows:
            if row["rows"] <= MEASURED:
                row |= in_a_process(row)
                print(row, file=sys.stderr)
    fits = {
        f"{limit} GiB, {dtype}": {
            "step": fitting(rows, dtype, limit, "step_gib"),
            "encoding": fitting(rows, dtype, limit, "encoding_gib"),
        }
        for limit in LIMITS
        for dtype in DTYPES
    }
    costs = {"blocks once": forwards(False), "blocks twice": forwards(True)}
    found = {
        "layout": "SD 1.5",
        "side": SIDE,
        "torch": torch.__version__,
        "rows": rows,
        "rows_that_fit": fits,
        "forwards_of_a_step": costs,
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(fits, costs)


if __name__ == "__main__":
    main()
