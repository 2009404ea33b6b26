"""The quickstart notebook runs from its first to its last cell."""

from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.factories import draw_blobs

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "workdir": "work",
    "backbone": ["tiny_cnn"],
    "weights": "none",
    "trials": 2,
    "set": {
        "model.head_units": 16,
        "training.batch_size": 8,
        "training.frozen_epochs": 0,
        "training.fine_tuning_epochs": 6,
        "training.head_learning_rate": 0.01,
        "search.trial_epochs": 2,
        "evaluation.tta_views": 1,
        "search.finalists": 0,
    },
}


def texts(outputs: list[Any], kind: str) -> str:
    """Return what a cell shows as one kind, such as text/html."""
    return "".join(output["data"][kind] for output in outputs if "data" in output)


def test_the_quickstart_notebook_runs_on_tiny_data(
    tmp_path: Path, blobs_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "test.npz", images=draw_blobs(9, 3, seed=8)[0])
    path = ROOT / "notebooks" / "quickstart.ipynb"
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    ]
    given = {"DATA": str(blobs_path), "TEST": "test.npz", "SAMPLE": None, "OPTIONS": OPTIONS}
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises where a cell does
    shown = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    _, _, _, leaderboard, report, predictions = shown
    assert "tiny_cnn_001" in texts(leaderboard, "text/html")
    assert texts(report, "text/html").startswith("<iframe srcdoc=")
    assert "<th>label</th>" in texts(predictions, "text/html")
