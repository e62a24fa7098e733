"""One solver per module, and the table of them all: what a job may name."""

from lsb.bridge.solvers.adams_moulton import ADAMS_MOULTON
from lsb.bridge.solvers.euler import EULER
from lsb.bridge.solvers.heun import HEUN
from lsb.bridge.solvers.solver import Solver

SOLVERS: dict[str, Solver] = {
    "euler": EULER,
    "heun": HEUN,
    "adams_moulton": ADAMS_MOULTON,
}
