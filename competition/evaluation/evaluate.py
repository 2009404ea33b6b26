"""The scores of a run: its network on validation and test, in all versions, kept in metrics.json."""

import zlib
from pathlib import Path
from typing import Any

from competition.common.files import digest, read_json, write_json
from competition.config import Config, unflatten
from competition.data.arrays import PreparedData
from competition.data.dataset import CLASS_NAMES
from competition.evaluation.metrics import relative_errors
from competition.evaluation.predict import evaluate, selection_score
from competition.training.runs import load_run


def run_evaluation(config: Config, prepared: PreparedData, run: Path) -> dict[str, Any]:
    """Score a run on validation and test, write metrics.json and return it; each look at the test is counted."""
    path, facts = run / "metrics.json", _scoring_facts(config, prepared, run)
    looks = read_json(path)["test_looks"] if path.is_file() else 0
    network = load_run(run)
    validation = evaluate(network, prepared.validation, config.evaluation, run, config.seed)
    test = evaluate(network, prepared.test, config.evaluation, run, config.seed)
    select_by = unflatten(read_json(run / "config.json")["settings"]).training.select_by
    result = {
        "validation": validation,
        "test": test,
        "test_looks": looks + 1,
        "parameters": network.count_params(),
    }
    result |= {"selection_score": selection_score(validation, select_by), "select_by": select_by}
    result |= {"zip_megabytes": _compressed_megabytes(run), **facts}
    if prepared.class_names == CLASS_NAMES:
        families = test["microscope"]["families"].items()
        corrupted = {name: family["balanced_accuracy"] for name, family in families}
        result["relative"] = relative_errors(test["clean"]["plain"]["balanced_accuracy"], corrupted)
    write_json(path, result)
    return result


def is_scored(config: Config, prepared: PreparedData, run: Path) -> bool:
    """Tell whether metrics.json holds the scores of what the run trained last, on these pictures and views."""
    path = run / "metrics.json"
    return path.is_file() and bool(
        _scoring_facts(config, prepared, run).items() <= read_json(path).items()
    )


def _scoring_facts(config: Config, prepared: PreparedData, run: Path) -> dict[str, Any]:
    trained = digest(run / "network.weights.h5")
    return {
        "views": config.evaluation.tta_views,
        "distortion": prepared.distortion_hash,
        "trained": trained,
    }


def _compressed_megabytes(run: Path) -> float:
    """Return what the weights take in a zip."""
    return len(zlib.compress((run / "network.weights.h5").read_bytes())) / 2**20
