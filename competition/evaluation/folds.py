"""The scores over the folds of a cross-validation, and the out-of-fold predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from competition.common.console import say
from competition.common.errors import UserError
from competition.common.files import read_arrays, read_json, write_arrays, write_json
from competition.distortion.profiles import selected_versions
from competition.evaluation.metrics import read_metrics
from competition.metric import Metric
from competition.paths import FOLDS_MARKER, OUT_OF_FOLD, name_predictions
from competition.training.runs import read_config

FOLDS_SHAPE = {"run": str, "splits": str, "runs": [str]}


def summarise_folds(
    run: Path, folds: Sequence[Path], indices: Sequence[np.ndarray], metric: Metric
) -> None:
    """Say how the selection score varies over folds; write oof.npz and, last, folds.json.

    run: the one whose settings they have. folds: their scored runs. indices: the validation images
    of each, in the training file.
    """
    known = [read_metrics(fold, "selection_score", "select_by") for fold in folds]
    facts = read_config(run, "splits", "class_names")
    versions = selected_versions(known[0]["select_by"])
    folder = folds[0].parent
    write_out_of_fold(folder / OUT_OF_FOLD, folds, indices, versions, facts["class_names"])
    values = [metric.flip(each["selection_score"]) for each in known]
    told = {"run": run.name, "splits": facts["splits"], "runs": [fold.name for fold in folds]}
    write_json(folder / FOLDS_MARKER, told | {"selection_scores": values})
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    say(
        f"{run.name} on {len(folds)} folds: {metric.title} {metric.format(mean)}, standard "
        f"deviation {metric.format(deviation)}; out-of-fold probabilities in "
        f"{folder / OUT_OF_FOLD}; --ensemble folds packages all as one"
    )


def write_out_of_fold(
    file: Path,
    runs: Sequence[Path],
    indices: Sequence[np.ndarray],
    versions: Sequence[str],
    class_names: Sequence[str],
) -> None:
    """Write the out-of-fold predictions: of each image by the network that was not trained on it.

    indices: those images of each run, in the training file. The file holds indices (n,), sorted,
    labels (n,), versions (v,), probabilities (v, n, K) float32 with one view, and class_names (K,).
    """
    stored = [read_arrays(run / name_predictions("validation")) for run in runs]
    whole = np.concatenate(indices)
    order = np.argsort(whole)
    joined = [np.concatenate([arrays[version][0] for arrays in stored]) for version in versions]
    write_arrays(
        file,
        indices=whole[order],
        labels=np.concatenate([arrays["labels"] for arrays in stored])[order],
        versions=np.array(versions),
        probabilities=np.stack(joined)[:, order],
        class_names=np.array(class_names),
    )


def read_folds(folder: Path, splits: str) -> tuple[list[Path], Mapping[str, Any]]:
    """Return the runs of the folds in `folder`, and the arrays of their oof.npz.

    splits: the fingerprint of the splits whose run was cross-validated. Raises UserError where no
    folds of these are complete.
    """
    marker = folder / FOLDS_MARKER
    facts = read_json(marker, FOLDS_SHAPE) if marker.is_file() else {"splits": ""}
    if facts.get("splits") != splits:
        raise UserError(
            f"{folder} holds no complete folds of these data; add --folds K to train them."
        )
    out_of_fold = read_arrays(folder / OUT_OF_FOLD, cure="add --folds K, which makes it anew.")
    return [folder / name for name in facts["runs"]], out_of_fold
