"""What the bridge's settings allow, and what they say otherwise."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from lsb.bridge.method import Method
from lsb.bridge.methods import METHODS, name_of, untuned
from lsb.bridge.methods.ddib import Ddib
from lsb.bridge.methods.flowedit import FlowEdit
from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError


@pytest.mark.parametrize(
    ("given", "field", "allowed"),
    [
        ({"tau": 0.0}, "tau", "above 0"),
        ({"tau": -1.0}, "tau", "above 0"),
        ({"tau": float("nan")}, "tau", "above 0"),
        ({"tau": float("inf")}, "tau", "finite"),
        ({"t0": 0.0}, "t0", r"within \(0, 1\)"),
        ({"t0": 1.0}, "t0", r"within \(0, 1\)"),
        ({"t0": float("nan")}, "t0", r"within \(0, 1\)"),
        ({"partial": 1.5}, "partial", r"within \(0, 1\)"),
        ({"times": (0.2, float("nan"))}, "times", "a finite number$"),
        ({"t_end": 1.0}, "t_end", r"within \(t0, 1\)"),
        ({"t0": 0.5, "t_end": 0.4}, "t_end", r"\(0.5, 1\)"),
        ({"nfe": 1}, "nfe", "at least 2"),
        ({"nfe": 8, "solver": "heun"}, "nfe", "odd"),
        ({"guidance": 0.0}, "guidance", "above 0"),
        ({"gamma": 1.5}, "gamma", r"within \[0, 1\]"),
        ({"gamma": 0.5, "solver": "adams_moulton"}, "solver", "euler"),
        ({"partial": 0.1}, "partial", r"\(t0, t_end\]"),
        ({"partial": 0.99}, "partial", r"\(t0, t_end\]"),
        ({"grid": "tuned"}, "times", "8 values"),
        ({"grid": "tuned", "nfe": 3, "times": (0.2, 0.1, 0.98)}, "times", "rising"),
        ({"grid": "tuned", "nfe": 3, "times": (0.3, 0.5, 0.98)}, "times", "from 0.2 to 0.98"),
        ({"grid": "tuned", "nfe": 3, "times": (0.2, 0.5, 0.97)}, "times", "from 0.2 to 0.98"),
        (
            {"grid": "tuned", "nfe": 3, "times": (0.2, 0.5, 0.99), "solver": "adams_moulton"},
            "times",
            "from 0.2 to 0.98",
        ),
        ({"times": (0.2, 0.98)}, "times", "left out"),
        ({"preset": "published", "noise": "mix"}, "noise", "preset published"),
        ({"preset": "published", "solver": "heun"}, "solver", "preset published"),
        ({"preset": "published", "start": "centred"}, "start", "preset published"),
        ({"preset": "published", "partial": 0.5}, "partial", "preset published"),
        ({"preset": "published", "nfe": 2}, "nfe", "at least 3"),
    ],
)
def test_value_outside_what_is_allowed(given: dict[str, object], field: str, allowed: str) -> None:
    with pytest.raises(BridgeError, match=allowed) as caught:
        BridgeSettings(**given)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).field == field  # noqa: S301


def test_the_value_is_named() -> None:
    with pytest.raises(BridgeError, match=r"-3\.5"):
        BridgeSettings(tau=-3.5)


def test_what_a_preset_does_not_use_may_stand_where_it_would_end() -> None:
    assert BridgeSettings(preset="published", t_end=1.0).t_end == 1.0


def test_unknown_fields_and_names_are_refused() -> None:
    with pytest.raises(ValidationError):
        BridgeSettings(tua=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        BridgeSettings(solver="rk45")  # type: ignore[arg-type]


def test_frozen_and_round_trips_through_json() -> None:
    settings = BridgeSettings(solver="adams_moulton", grid="tuned", nfe=4, times=(0.2, 0.5, 0.8, 0.95))
    assert BridgeSettings.model_validate_json(settings.model_dump_json()) == settings
    assert BridgeSettings.model_validate(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError):
        settings.tau = 1.0  # type: ignore[misc]


def test_steps_leave_one_evaluation_for_the_end() -> None:
    assert BridgeSettings(nfe=8).steps == 7
    assert BridgeSettings(nfe=9, solver="heun").steps == 4
    assert BridgeSettings(nfe=2, solver="adams_moulton").steps == 1


@pytest.mark.parametrize(("side", "tau"), [(64, 2.3), (16, 0.575), (128, 4.6), (8, 0.2875)])
def test_tau_is_the_papers_at_the_size_of_the_latents(side: int, tau: float) -> None:
    assert BridgeSettings.tau_for(side) == tau
    assert BridgeSettings(tau=tau).untuned


@pytest.mark.parametrize(
    "settings",
    [
        BridgeSettings(tau=0.1),
        BridgeSettings(tau=0.01),
        BridgeSettings(t0=0.1),
        BridgeSettings(guidance=10),
        Sdedit(sigma=0.5),
        Sdedit(guidance=2),
        FlowEdit(target_guidance=5.5),
        Ddib(sigma=3.0),
    ],
    ids=repr,
)
def test_one_dial_that_is_set_is_a_choice(settings: Method) -> None:
    assert not settings.untuned
    assert untuned(settings) is None


@pytest.mark.parametrize("settings", [kind() for kind in METHODS.values()], ids=name_of)
def test_defaults_are_nobodys_choice(settings: Method) -> None:
    assert settings.model_copy(update={"nfe": 4}).untuned
    said = untuned(settings)
    assert said is not None
    assert all(name in said for name in ("guidance", settings.strength))
