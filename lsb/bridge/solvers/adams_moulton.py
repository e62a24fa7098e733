"""Adams–Bashforth–Moulton with exact coefficients: order 3, one evaluation a step.

In the variable y of `lsb.bridge.flow` the slope is a sum of known weights times the network's answers. The answers are
taken for polynomials in s through the last nodes; the weights are not approximated but integrated, by a quadrature in
theta that is exact to rounding and never crosses t = 1/2, where the weights of `switch` jump.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from lsb.bridge.clock import THETA
from lsb.bridge.solvers.solver import History, Past, Solver

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.flow import Answers, Flow

_PLACES, _SHARES = (values.tolist() for values in np.polynomial.legendre.leggauss(12))
_JUMP = THETA.position(0.5)


def adams_moulton(x: Tensor, s: float, s_next: float, flow: Flow, history: History) -> tuple[Tensor, History]:
    """Predict, evaluate, correct: the answers at the predicted x also correct the step that led there, for nothing.

    The corrector takes the answers for the parabola through the last three (after the first step, the line through
    two), over steps of any lengths; the corrected y keeps the answers of the predicted one. Then the line through the
    last two predicts the next y (at the first step, the one answer). `s_next` may be s itself: then x is corrected.
    """
    answers = flow.answers(x, s)
    y = x / flow.rho(s)
    if history:
        before = history[-1]
        y = _carry(before.y, before.s, s, flow, [*((past.s, past.answers) for past in history), (s, answers)])
    here = Past(s, y, answers)
    known = (*history[-1:], here)
    y_next = _carry(y, s, s_next, flow, [(past.s, past.answers) for past in known])
    return flow.rho(s_next) * y_next, known


def finish(x: Tensor, s: float, s_end: float, flow: Flow, history: History) -> tuple[Tensor, Answers]:
    """The last evaluation, at s: it corrects x, carries it on to s_end, and gives the answers there.

    Returns:
        x at s_end, and its answers: the ones found if s is s_end, else on the line through the last two nodes.
    """
    x, history = adams_moulton(x, s, s_end, flow, history)
    return x, answers_at(s_end, history)


def answers_at(s: float, history: History) -> Answers:
    """The answers on the line through the last two nodes, which at the last node are those found there."""
    factors = _lagrange(s, [past.s for past in history])
    return _combine(factors, [past.answers for past in history])


def _carry(y: Tensor, s: float, s_next: float, flow: Flow, known: Sequence[tuple[float, Answers]]) -> Tensor:
    """y + the integral from s to s_next of weights times the polynomial through the known answers."""
    nodes = [node for node, _ in known]
    sums = [[0.0] * len(known[0][1]) for _ in known]
    first, last = THETA.position(flow.clock.time(s)), THETA.position(flow.clock.time(s_next))
    cuts = [first, _JUMP, last] if first < _JUMP < last else [first, last]
    for early, late in pairwise(cuts):
        half = 0.5 * (late - early)
        for place, share in zip(_PLACES, _SHARES, strict=True):
            theta = early + half * (1.0 + place)
            weights = flow.weights(theta, late=early >= _JUMP)
            for row, factor in zip(sums, _lagrange(flow.clock.position(THETA.time(theta)), nodes), strict=True):
                for index, weight in enumerate(weights):
                    row[index] += half * share * factor * weight
    for row, (_, answers) in zip(sums, known, strict=True):
        for value, answer in zip(row, answers, strict=True):
            y = y + value * answer
    return y


def _lagrange(s: float, nodes: Sequence[float]) -> list[float]:
    """What each node's value counts at s, in the polynomial through all of them."""
    return [math.prod((s - other) / (node - other) for other in nodes if other != node) for node in nodes]


def _combine(factors: Sequence[float], rows: Sequence[Answers]) -> Answers:
    """The sum of factors times rows, answer by answer."""
    columns = list(zip(*rows, strict=True))
    return tuple(
        sum((factor * value for factor, value in zip(factors[1:], column[1:], strict=True)), factors[0] * column[0])
        for column in columns
    )


ADAMS_MOULTON = Solver(order=3, evaluations=1, step=adams_moulton, finish=finish)
