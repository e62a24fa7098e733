"""The notebook in `examples/` runs from its first cell to its last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "examples" / "look.ipynb"


def notebook() -> dict[str, Any]:
    return dict(json.loads(NOTEBOOK.read_text()))


def script() -> str:
    cells = [cell for cell in notebook()["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def test_it_holds_cells_that_compile_and_nothing_that_came_out() -> None:
    found = notebook()
    assert found["nbformat"] == 4
    names = [cell["id"] for cell in found["cells"]]
    assert len(names) == len(set(names))
    for cell in found["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), cell["id"], "exec")
    assert "lsb.open_run(" in script()


@pytest.mark.long  # its parts: tests/unit/views/test_opened.py, tests/unit/translation/test_translator.py
@pytest.mark.usefixtures("server")
def test_it_runs(tmp_path: Path) -> None:
    end = "\nassert (done['counts'], len(pairs)) == ({'ok': 24, 'quarantined': 1}, 6), done"
    end += "\nassert run.records['output_change'].notna().sum() == 24"
    done = subprocess.run(
        [sys.executable, "-c", script() + end],
        cwd=NOTEBOOK.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
