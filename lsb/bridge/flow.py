"""The ODE as a solver sees it: what to ask, and all that is known without asking.

    s             the clock's variable
    rho           sqrt(1 + sigma²)
    y             x_t / rho, what a variance-preserving network is shown
    v_i           rho eps_i - sigma y, what a v-prediction network answers; v_hat likewise, of eps_hat

In y the ODE has no term linear in the state, only the network's answers times functions of t that are known:

    dy/dtheta = sin(2 theta) w sigma (v_0 - v_1) / rho² + tau cos(2 theta) v_hat / rho²          (t = sin²(theta))

A solver that takes the answers for polynomials may integrate the rest exactly, the jump of `switch` at t = 1/2
included.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from lsb.bridge.clock import THETA, Clock
from lsb.bridge.velocity import LsbPredictors, PredictorFn, sigma

if TYPE_CHECKING:
    from torch import Tensor

Answers: TypeAlias = "tuple[Tensor, ...]"


class Flow:
    """dx/ds from three predictors, and the same in y as `weights` times `answers`.

    With gamma, the drift of the stochastic family: dx = [v - gamma² tau eps_hat / (2 sqrt(t (1-t)))] dt + gamma tau dW
    has the same marginals for every gamma, given exact predictors: 0 is the ODE, 1 the bridge.
    """

    def __init__(
        self, predictors: PredictorFn, clock: Clock, tau: float, guidance: float = 1.0, gamma: float = 0.0
    ) -> None:
        self.clock = clock
        self._predictors, self._tau, self._guidance, self._gamma = predictors, tau, guidance, gamma

    def slope(self, x: Tensor, s: float) -> Tensor:
        """dx/ds, of x's shape."""
        t = self.clock.time(s)
        found = self._predictors(x, t)
        noise_rate = self._tau * self.clock.noise_rate(s)
        if self._gamma > 0.0:
            noise_rate -= 0.5 * self._gamma**2 * self._tau * self.clock.rate(s) / math.sqrt(t * (1.0 - t))
        drift = (self._guidance * self.clock.rate(s)) * (found.x_1_hat - found.x_0_hat)
        return drift + noise_rate * found.eps_hat

    def rho(self, s: float) -> float:
        """x / y at s."""
        return math.hypot(1.0, sigma(self.clock.time(s), self._tau))

    def answers(self, x: Tensor, s: float) -> Answers:
        """What is asked at (x, s), each of x's shape: x_1_hat - x_0_hat and v_hat."""
        t = self.clock.time(s)
        found = self._predictors(x, t)
        return found.x_1_hat - found.x_0_hat, _v(found.eps_hat, x, sigma(t, self._tau))

    def weights(self, theta: float, *, late: bool) -> tuple[float, ...]:
        """dy/dtheta per answer. `late` says on which side of its jump at t = 1/2 a weight is meant."""
        rho = self._rho(theta)
        return self._guidance * THETA.rate(theta) / rho, self._tau * THETA.noise_rate(theta) / rho**2

    def clean(self, x: Tensor, s: float, answers: Answers) -> Tensor:
        """x_1_hat from the answers at (x, s)."""
        t = self.clock.time(s)
        return x - sigma(t, self._tau) * self._eps(answers[1], x, t) + (1.0 - t) * answers[0]

    def _rho(self, theta: float) -> float:
        return math.hypot(1.0, sigma(THETA.time(theta), self._tau))

    def _eps(self, v: Tensor, x: Tensor, t: float) -> Tensor:
        """eps from v: (v + sigma y) / rho."""
        level = sigma(t, self._tau)
        rho = math.hypot(1.0, level)
        return v / rho + (level / rho**2) * x


class LsbFlow(Flow):
    """The same for LSB's predictors, where v_0 and v_1 are the answers."""

    def __init__(
        self, predictors: LsbPredictors, clock: Clock, tau: float, guidance: float = 1.0, gamma: float = 0.0
    ) -> None:
        super().__init__(predictors, clock, tau, guidance, gamma)
        self._lsb = predictors

    def answers(self, x: Tensor, s: float) -> Answers:
        """v_0 and v_1: two forwards."""
        t = self.clock.time(s)
        level = sigma(t, self._tau)
        eps_0, eps_1 = self._lsb.both(x, t)
        return _v(eps_0, x, level), _v(eps_1, x, level)

    def weights(self, theta: float, *, late: bool) -> tuple[float, ...]:
        rho = self._rho(theta)
        t = THETA.time(theta)
        drift = self._guidance * THETA.rate(theta) * sigma(t, self._tau) / rho**2
        noise_rate = self._tau * THETA.noise_rate(theta) / rho**2
        share_0, share_1 = self._lsb.shares(t, late=late)
        return drift + share_0 * noise_rate, -drift + share_1 * noise_rate

    def clean(self, x: Tensor, s: float, answers: Answers) -> Tensor:
        """x_1_hat = x - sigma eps_1."""
        t = self.clock.time(s)
        return x - sigma(t, self._tau) * self._eps(answers[1], x, t)

    def clean_part(self, x: Tensor, s: float, answers: Answers) -> Tensor:
        """x - sigma eps_hat, what a partial translation returns."""
        t = self.clock.time(s)
        share_0, share_1 = self._lsb.shares(t, late=t > 0.5)
        v_hat = share_0 * answers[0] + share_1 * answers[1]
        return x - sigma(t, self._tau) * self._eps(v_hat, x, t)


def _v(eps: Tensor, x: Tensor, level: float) -> Tensor:
    """v = rho eps - sigma y."""
    rho = math.hypot(1.0, level)
    return rho * eps - (level / rho) * x
