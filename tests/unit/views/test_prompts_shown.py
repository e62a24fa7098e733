"""What a page says of prompts: pictures of theirs, and words; what is damaged is left out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from lsb.ledger.log.seal import seal
from lsb.store.local import LocalStore
from lsb.views.prompts_shown import prompts_shown

LOOK = {"look": "flat", "pictures": 16, "sigmas": [0.1, 1.0], "rise": [0.5, 0.25], "clear": True, "matters_from": 0.1}


def test_what_was_learned_and_heard_is_said(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "WEBP")
    learned = {
        "text": "<flat>",
        "best_step": 20,
        "history": [{"step": 0}, {"step": 40}],
        "sigmas": [0.29, 8.0],
        "imagined": [base64.b64encode(buffer.getvalue()).decode(), "nothing", base64.b64encode(b"RIFF").decode()],
    }
    store, ids = LocalStore(tmp_path), {"source": "a" * 64, "target": "b" * 64}
    store.write(f"prompts/flat/{ids['source']}.json", seal({"schema": "lsb.prompt/1", **learned}))
    run: Any = SimpleNamespace(
        prompts={"source": f"prompts/flat/{ids['source']}.safetensors", "target": "prompts/3d/x.prompt.json"},
        transform={"prompts": ids},
    )
    (shown,) = prompts_shown(store, run, {"listening": [LOOK]})
    assert (shown.look, shown.text, len(shown.pictures)) == ("flat", "<flat>", 1)
    assert shown.learned == "best at step 20 of 40, at noise from 0.29 to 8"
    assert shown.heard == (
        "the other look's words raise the error on 16 pictures, by sigma: +50.0 % at 0.1, +25.0 % at 1; "
        "they matter from 0.1 on"
    )
