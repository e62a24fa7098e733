"""Where few evaluations are best spent, for settings that were chosen."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.method import Method
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.tuning import tune
from lsb.progress import NoProgress, Progress
from lsb.tuning.bench import Bench

NAME = "times"
FEW = 6  # evaluations; of more, even steps are as good
PATHS = 40
PICTURES = 12
_FINE = 64  # evaluations of the path that others are measured by


def with_times(method: Method, bench: Bench, progress: Progress = NoProgress()) -> Method:
    """The method with its evaluations where they come nearest to a fine-step solution; as it is where there are many
    evaluations, where the solver does not allow it, or where even steps are nearer."""
    if not isinstance(method, BridgeSettings) or method.preset != "default" or method.nfe > FEW:
        return method
    if SOLVERS[method.solver].finish is None or method.gamma > 0:
        return method
    fine = bench.carried(method.model_copy(update={"nfe": _FINE, "grid": "theta", "times": None}), PICTURES)

    def error(settings: BridgeSettings) -> float:
        return _distance(bench.carried(settings, PICTURES), fine)

    def counted(settings: BridgeSettings) -> float:
        progress.advance(NAME)
        return error(settings)

    progress.start(NAME, PATHS)
    found = tune(method, counted, PATHS)
    progress.finish(NAME)
    return found if error(found) < error(method) else method


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).double().square().mean().sqrt())
