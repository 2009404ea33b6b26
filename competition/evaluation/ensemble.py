"""Several trained runs as one: their probabilities averaged, scored as a run of its own."""

from pathlib import Path
from typing import Any

import numpy as np

from competition.common.errors import UserError
from competition.common.files import digest, read_arrays, read_json, write_arrays, write_json
from competition.evaluation.predict import score_predictions, selection_score
from competition.training.runs import describe_environment, name_run

PREFIX = "ensemble"
SHARED = (
    "splits",
    "distortion",
    "class_names",
)  # what the members' config.json must have in common


def make_ensemble(runs: Path, names: tuple[str, ...], splits: str, seed: int) -> Path:
    """Return the folder of the run that averages the scored runs `names`, written where it is not there already.

    It holds what a scored run does but for weights; `members` of its config.json names them. splits: their
    fingerprint. Raises UserError for unknown runs, fewer than two, and runs of other data, views or picture shapes.
    """
    members = [_require_run(runs, name, splits) for name in names]
    if len(set(names)) < 2:
        raise UserError(
            f"--ensemble got {', '.join(names)}, and expects two runs or more, as mobilenetv3large_001."
        )
    facts = _common_facts(members)
    fingerprint = digest(
        sorted(names), *(run / "predictions_test.npz" for run in sorted(members)), seed
    )
    for folder in sorted(runs.glob(f"{PREFIX}_[0-9]*")):
        if (folder / "metrics.json").is_file() and read_json(folder / "config.json")[
            "fingerprint"
        ] == fingerprint:
            return folder
    run = name_run(runs, PREFIX)
    run.mkdir()
    network = {"builder": " + ".join(names)}
    write_json(
        run / "config.json",
        {"fingerprint": fingerprint, "network": network, "members": names, **facts},
    )
    write_json(run / "environment.json", describe_environment())
    write_json(run / "metrics.json", _score(run, members, seed))
    return run


def members_of(run: Path) -> list[Path]:
    """Return the runs whose networks a run consists of: itself, or the members of an ensemble."""
    names = read_json(run / "config.json").get("members")
    return [run.parent / name for name in names] if names else [run]


def _require_run(runs: Path, name: str, splits: str) -> Path:
    known = sorted(path.parent.name for path in runs.glob("*/network.weights.h5"))
    if name not in known or not (runs / name / "metrics.json").is_file():
        raise UserError(
            f"There is no scored run '{name}' in {runs}; known are {', '.join(known) or 'none'}."
        )
    if read_json(runs / name / "config.json")["splits"] != splits:
        raise UserError(
            f"{name} was trained on other splits than these; average runs of the same data and settings."
        )
    return runs / name


def _common_facts(members: list[Path]) -> dict[str, Any]:
    """Return what the members share; raises UserError where they differ."""
    configs = [read_json(run / "config.json") for run in members]
    scores = [read_json(run / "metrics.json") for run in members]
    for what, values in (
        *((key, [config[key] for config in configs]) for key in SHARED),
        ("picture shape", [config["network"]["picture_shape"] for config in configs]),
        ("views", [score["views"] for score in scores]),
        ("what selected them", [score["select_by"] for score in scores]),
    ):
        if any(value != values[0] for value in values):
            raise UserError(
                f"{', '.join(run.name for run in members)} differ in {what}; average runs that share it."
            )
    return {key: configs[0][key] for key in SHARED} | {"weights": "of its members"}


def _score(run: Path, members: list[Path], seed: int) -> dict[str, Any]:
    """Average the members' predictions, keep them in `run`, and return their metrics."""
    known = [read_json(member / "metrics.json") for member in members]
    result: dict[str, Any] = {}
    for part in ("validation", "test"):
        stored = [read_arrays(member / f"predictions_{part}.npz") for member in members]
        labels, doubtful = stored[0].pop("labels"), stored[0].pop("doubtful")
        predictions = {
            version: np.mean([item[version] for item in stored], axis=0) for version in stored[0]
        }
        write_arrays(
            run / f"predictions_{part}.npz", labels=labels, doubtful=doubtful, **predictions
        )
        result[part] = score_predictions(labels, doubtful, predictions, seed)
        result[part]["milliseconds"] = sum(metrics[part]["milliseconds"] for metrics in known)
    selection = selection_score(result["validation"], known[0]["select_by"])
    sums = {key: sum(metrics[key] for metrics in known) for key in ("parameters", "zip_megabytes")}
    facts = {key: known[0][key] for key in ("views", "distortion", "select_by")}
    return result | sums | facts | {"selection_score": selection, "test_looks": 1}
