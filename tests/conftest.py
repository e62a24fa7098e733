"""Nothing in the tests reaches the network or the user's own folders."""

from __future__ import annotations

import os
import tempfile

from flows.environment import prepare

# Set at import, because the libraries that read these do so when they are imported themselves.
_STATE = tempfile.TemporaryDirectory(prefix="lsb-tests-")
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": f"{_STATE.name}/prefect",
        "HF_HOME": f"{_STATE.name}/huggingface",
        "MPLCONFIGDIR": f"{_STATE.name}/matplotlib",
        # The models of the tests are so small that threads only wait for each other.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
)
os.environ.pop("PREFECT_API_URL", None)
os.environ.pop("PREFECT_PROFILE", None)
prepare()
