"""One method per module, and the table of them all: what a job may name. LSB's settings are `lsb.bridge.settings`."""

from lsb.bridge.method import Method
from lsb.bridge.methods.cyclediffusion import CycleDiffusion
from lsb.bridge.methods.ddib import Ddib
from lsb.bridge.methods.flowedit import FlowEdit
from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.settings import BridgeSettings

METHODS: dict[str, type[Method]] = {
    "lsb": BridgeSettings,
    "sdedit": Sdedit,
    "ddib": Ddib,
    "cyclediffusion": CycleDiffusion,
    "flowedit": FlowEdit,
}


def name_of(method: Method) -> str:
    """What a job calls the method."""
    return next(name for name, kind in METHODS.items() if isinstance(method, kind))


def untuned(method: Method) -> str | None:
    """What is to be said of a method whose dials nobody has chosen; None of another one."""
    if not method.untuned:
        return None
    dials = [name for name in method.dials if name in type(method).model_fields]
    words = f"{', '.join(dials[:-1])} and {dials[-1]} stand at their" if len(dials) > 1 else f"{dials[0]} stands at its"
    return f"{words} default, and nobody has chosen for these pictures; `lsb tune` does"
