"""The variable in which the ODE is integrated.

A clock s(t) turns dx/dt = w (x_1_hat - x_0_hat) + sigma'(t) eps_hat into

    dx/ds = rate(s) w (x_1_hat - x_0_hat) + tau noise_rate(s) eps_hat,   rate = dt/ds,   tau noise_rate = dsigma/ds

    time    s = t
    theta   t = sin²(s): rate 2 sin s cos s, noise_rate cos 2s; regular on all of [0, pi/2], both ends included
    logit   s = log(t / (1-t)): rate t (1-t), noise_rate (1-2t) sqrt(t (1-t)) / 2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """One choice of s. All four functions take and return plain numbers.

    Attributes:
        position: t -> s, rising.
        time: s -> t, its inverse.
        rate: s -> dt/ds.
        noise_rate: s -> d sqrt(t (1-t)) / ds.
    """

    name: str
    position: Callable[[float], float]
    time: Callable[[float], float]
    rate: Callable[[float], float]
    noise_rate: Callable[[float], float]


def _identity(value: float) -> float:
    return value


def _one(_: float) -> float:
    return 1.0


def _time_noise_rate(t: float) -> float:
    return (1.0 - 2.0 * t) / (2.0 * math.sqrt(t * (1.0 - t)))


def _theta(t: float) -> float:
    return math.asin(math.sqrt(t))


def _theta_time(theta: float) -> float:
    return math.sin(theta) ** 2


def _theta_rate(theta: float) -> float:
    return math.sin(2.0 * theta)


def _theta_noise_rate(theta: float) -> float:
    return math.cos(2.0 * theta)


def _logit(t: float) -> float:
    return math.log(t) - math.log1p(-t)


def _expit(s: float) -> float:
    return 1.0 / (1.0 + math.exp(-s))


def _logit_rate(s: float) -> float:
    t = _expit(s)
    return t * (1.0 - t)


def _logit_noise_rate(s: float) -> float:
    t = _expit(s)
    return 0.5 * (1.0 - 2.0 * t) * math.sqrt(t * (1.0 - t))


TIME = Clock("time", _identity, _identity, _one, _time_noise_rate)
THETA = Clock("theta", _theta, _theta_time, _theta_rate, _theta_noise_rate)
LOGIT = Clock("logit", _logit, _expit, _logit_rate, _logit_noise_rate)
