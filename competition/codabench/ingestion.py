"""Codabench's ingestion program: loads a submission's `model.py` and keeps its labels of images.

    python3 ingestion.py [--input /app/input_data] [--submission /app/ingested_program]
                         [--output /app/output]

Reads images.npy (n, h, w, 3) uint8 of the input. Writes predictions.npz: `labels` (n,), and
`seconds` of loading, of predicting, and of predicting once more (0 without --probabilities).
Where the input has a settings.json, it names the metric that needs probabilities: then
`predict_proba` is asked instead of `predict`, and the file has `probabilities` (n, K), too.
The submission's folder is the working folder, since many name their weights without a folder.
For checks at home: --elsewhere keeps the working folder as it is. --probabilities N predicts the
first N images once more, and adds their `probabilities` where the model offers them.
Stands alone: standard library and numpy.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def load_model(folder: Path) -> Any:
    """Return a `Model` of `folder`/model.py, which may import files beside it."""
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    if spec is None or spec.loader is None or not (folder / "model.py").is_file():
        sys.exit("the zip holds no model.py at its top")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "Model"):
        sys.exit("model.py defines no class Model")
    return module.Model()


def checked_labels(answer: Any, count: int) -> np.ndarray:
    """Return the answer of `predict` as labels (count,) int64; exits where it is anything else."""
    labels = np.asarray(answer)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        sys.exit(
            f"predict answered {labels.dtype} of shape {labels.shape}; "
            f"expected {count} integer labels"
        )
    return labels.astype(np.int64)


def checked_probabilities(answer: Any, count: int) -> np.ndarray:
    """Return the answer of `predict_proba` as (count, classes) float32.

    Exits where it is anything else.
    """
    probabilities = np.asarray(answer)
    is_table = probabilities.ndim == 2 and len(probabilities) == count
    if not is_table or not np.issubdtype(probabilities.dtype, np.floating):
        sys.exit(
            f"predict_proba answered {probabilities.dtype} of shape {probabilities.shape}; "
            f"expected {count} rows with a probability for each class"
        )
    return probabilities.astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    """Run one submission."""
    parser = argparse.ArgumentParser(description="Codabench ingestion program")
    parser.add_argument("--input", type=Path, default=Path("/app/input_data"))
    parser.add_argument("--submission", type=Path, default=Path("/app/ingested_program"))
    parser.add_argument("--output", type=Path, default=Path("/app/output"))
    parser.add_argument("--probabilities", type=int, default=0, metavar="N")
    parser.add_argument("--elsewhere", action="store_true")
    options = parser.parse_args(arguments)
    submission = options.submission.resolve()
    output = options.output.resolve()
    images = np.load(options.input / "images.npy", allow_pickle=False)
    settings = options.input.resolve() / "settings.json"
    metric = json.loads(settings.read_text("utf-8"))["metric"] if settings.is_file() else ""
    if not options.elsewhere:
        os.chdir(submission)
    started = time.perf_counter()
    model = load_model(submission)
    loaded = time.perf_counter()
    predictions = {}
    if metric:
        if not hasattr(model, "predict_proba"):
            sys.exit(
                f"{metric} decides here and needs probabilities; "
                "Model has no predict_proba(X), which returns (n, classes)"
            )
        predictions["probabilities"] = checked_probabilities(
            model.predict_proba(images), len(images)
        )
        predictions["labels"] = predictions["probabilities"].argmax(axis=1)
    else:
        predictions["labels"] = checked_labels(model.predict(images), len(images))
    predicted = time.perf_counter()
    if options.probabilities and not metric and hasattr(model, "predict_proba"):
        probabilities = model.predict_proba(images[: options.probabilities])
        predictions["probabilities"] = np.asarray(probabilities, np.float32)
    again = time.perf_counter() - predicted
    predictions["seconds"] = np.array([loaded - started, predicted - loaded, again])
    output.mkdir(parents=True, exist_ok=True)
    # numpy types **kwds as bool
    np.savez(output / "predictions.npz", **predictions)  # type: ignore[arg-type]
    print(
        f"{len(images)} images: model loaded in {loaded - started:.1f} s, "
        f"predicted in {predicted - loaded:.1f} s"
    )


if __name__ == "__main__":
    main()
