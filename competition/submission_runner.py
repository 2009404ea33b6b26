"""Runs a submission as a server does, in a process of its own: python -P submission_runner.py FOLDER X.npy OUT.npz.

OUT.npz gets `labels`, `probabilities` where the model offers them, and `seconds` for loading and for predicting.
"""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class _Refuse:
    """Makes the harness itself not importable, so that a submission cannot lean on it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "competition":
            raise ModuleNotFoundError(f"No module named '{name}': a submission must stand alone.")


def main(folder: str, pictures: str, out: str) -> None:
    """Load `model.py` from `folder`, predict the pictures and write the answers."""
    sys.meta_path.insert(0, _Refuse())
    started = time.perf_counter()
    spec = importlib.util.spec_from_file_location("model", Path(folder) / "model.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"no model.py in {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Model()
    loaded = time.perf_counter()
    images = np.load(pictures, allow_pickle=False)
    answers = {"labels": np.asarray(model.predict(images))}
    finished = time.perf_counter()
    if hasattr(model, "predict_proba"):
        answers["probabilities"] = np.asarray(model.predict_proba(images[:256]))
    answers["seconds"] = np.array([loaded - started, finished - loaded])
    np.savez(out, **answers)  # type: ignore[arg-type]  # numpy types **kwds as bool


if __name__ == "__main__":
    main(*sys.argv[1:])
