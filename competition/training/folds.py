"""Cross-validation: the settings of one run on each fold of training and validation."""

from pathlib import Path

import numpy as np

from competition.common.console import say
from competition.common.files import write_json
from competition.config import unflatten, with_settings
from competition.data.arrays import CleanedData
from competition.data.prepare import prepare
from competition.data.splits import make_splits
from competition.metric import get_metric
from competition.networks.weights import Weights
from competition.paths import PREPARED
from competition.training.runs import read_config, read_history, train_run


def train_folds(
    run: Path, cleaned: CleanedData, weights: Weights, folds: int, folder: Path, force: bool
) -> None:
    """Train the settings of `run` on each of `folds` folds, and say how the selection score varies.

    The test split is the same in all. folder: takes a run per fold, and folds.json.
    """
    settings = read_config(run, "settings")["settings"]
    scores = []
    for fold in range(folds):
        config = with_settings(unflatten(settings), {"split.folds": folds, "split.fold": fold})
        splits = make_splits(cleaned, config)
        data = prepare(cleaned, splits, config, folder / PREPARED)
        trained = train_run(config, data, weights, folder, force=force)
        metric = get_metric(config.metric)
        values = read_history(trained)[metric.column]
        scores.append(values.max() if metric.greater_is_better else values.min())
    facts = {"settings": settings, "selection_scores": scores}
    write_json(folder / "folds.json", facts)
    say(
        f"{run.name} on {folds} folds: selection score {np.mean(scores):.4f}, "
        f"standard deviation {np.std(scores, ddof=1):.4f}"
    )
