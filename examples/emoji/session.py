"""A resumable training: modules, optimiser, averages, counters and log in one folder."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

WARM_UP, FALL = 300, 0.4  # steps; share of a training in which its learning rate falls


class Ema:
    """Exponential moving average of a module's parameters, warmed up so that early steps do not linger."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        latest = [value.float() for value in module.state_dict().values()]
        torch._foreach_lerp_(list(self.shadow.values()), latest, 1 - decay)


class Session:
    """One resumable training: modules, optimiser, averages, counters and the log. Stops when told to, or in time."""

    def __init__(self, name: str, work: Path, modules: dict[str, torch.nn.Module], lr: float, decay: float):
        self.name, self.work, self.modules = name, work, modules
        parameters = [p for module in modules.values() for p in module.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.averages = {key: Ema(module, decay) for key, module in modules.items()}
        self.step, self.samples, self.seconds = 0, 0, 0.0
        self.first_step, self.first_seconds = 0, 0.0  # where this training began: not at 0 if from an exported model
        self.since, self.stopped = time.monotonic(), False
        self.file = work / f"{name}.pt"
        if self.file.exists():
            self.load()

    def obey_signals(self) -> None:
        """On Ctrl-C or SIGTERM finish the step, save, leave."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, *_: object) -> None:
        self.stopped = True

    def running(self, until: float, total: float) -> bool:
        """Count the seconds, and say whether to go on: until then by time.monotonic, `total` seconds in all runs."""
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        return not self.stopped and now < until and self.seconds - self.first_seconds < total

    def rate_share(self, total: float) -> float:
        """Share of the learning rate: rises over WARM_UP steps, falls to 2 % in the last FALL of `total` seconds."""
        rise = min(1.0, (self.step - self.first_step + 1) / WARM_UP)
        left = total - (self.seconds - self.first_seconds)
        return rise * min(1.0, max(0.02, left / (FALL * total)))

    def load(self) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        for key, module in self.modules.items():
            module.load_state_dict(state["modules"][key])
            # In the module's own order, on which the average relies: an exported file is sorted by name.
            self.averages[key].shadow = {
                k: state["averages"][key][k].to(v.device) for k, v in module.state_dict().items()
            }
            self.averages[key].steps = state["step"]
        if "optimiser" in state:  # a training that was begun from an exported model has none yet
            self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.samples, self.seconds = state["step"], state["samples"], state["seconds"]
        self.first_step, self.first_seconds = state["first_step"], state["first_seconds"]

    def save(self) -> None:
        """Write to a temporary file first, so that an interruption leaves the last good state."""
        state = {
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "averages": {k: e.shadow for k, e in self.averages.items()},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
            "first_step": self.first_step,
            "first_seconds": self.first_seconds,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.file)

    def log(self, **values: float) -> None:
        line = {"run": self.name, "step": self.step, "minutes": round(self.seconds / 60, 2), **values}
        with (self.work / "log.jsonl").open("a") as handle:
            handle.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))


def begin(model: Path, work: Path) -> None:
    """Fill an empty `work` from an exported model: weights as averages, tokenizer, latent scale and log.

    The optimiser's state is not exported, so the moments start anew and the learning rate is warmed up again.
    """
    if (work / "log.jsonl").exists():
        tqdm.write(f"{work} holds a training already and goes on with it; {model} is not read")
        return
    shutil.copy(model / "training.jsonl", work / "log.jsonl")
    shutil.copytree(model / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    last = {line["run"]: line for line in map(json.loads, (work / "log.jsonl").read_text().splitlines())}
    weights = {
        "vae": model / "vae" / "diffusion_pytorch_model.safetensors",
        "unet": model / "unet" / "diffusion_pytorch_model.safetensors",
        "text": model / "text_encoder" / "model.safetensors",
    }
    for run, keys in {"vae": ("vae",), "unet": ("unet", "text")}.items():
        modules = {key: {k: v.float() for k, v in load_file(weights[key]).items()} for key in keys}
        step, samples, seconds = last[run]["step"], last[run].get("samples", 0), 60 * last[run]["minutes"]
        done = {"step": step, "samples": samples, "seconds": seconds, "first_step": step, "first_seconds": seconds}
        torch.save({"modules": modules, "averages": modules, **done}, work / f"{run}.pt")
    scale = json.loads((model / "vae" / "config.json").read_text())["scaling_factor"]
    save_file({"scale": torch.tensor(scale)}, work / "scale.safetensors")
