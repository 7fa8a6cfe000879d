"""Promises about the notebooks: each runs in a fresh kernel, and is committed with the outputs of one run."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
assert NOTEBOOKS


MARKS = {
    "02_rollouts": pytest.mark.slow,  # the others use the same parts
    "05_bring_your_model": pytest.mark.lm,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=MARKS.get(path.stem, ())) for path in NOTEBOOKS],
)
def test_it_runs_in_a_fresh_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    # Training takes minutes next to other tests: one step is enough to run every cell.
    client.execute(env={**os.environ, "TMPDIR": str(tmp_path), "STEPS": "1", "EVAL_TASKS": "8"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_with_the_outputs_of_one_run(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    drawn = [output for output in outputs if "Axes>" in output.get("data", {}).get("text/plain", "")]
    assert all("image/png" in output.data for output in drawn), "a figure is missing"
    text = path.read_text(encoding="utf-8")
    assert str(FOLDER.parent) not in text, "an output names a path of the machine it was made on"
