"""Several trained runs as one: their probabilities averaged, scored as a run of its own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.common.console import say
from competition.common.errors import UserError
from competition.common.files import digest, read_arrays, write_arrays, write_json
from competition.config import Config, LimitsConfig
from competition.data.arrays import PreparedData, ScoredSet, Splits
from competition.distortion.profiles import PROFILE, selected_versions
from competition.evaluation.evaluate import SPLITS, score_predictions, score_selection
from competition.evaluation.folds import read_folds
from competition.evaluation.metrics import draw_gains, list_scored, read_metrics
from competition.metric import Metric, get_metric
from competition.networks.submission_model import temper
from competition.paths import CONFIG, ENVIRONMENT, METRICS, WEIGHTS, name_predictions
from competition.training.runs import describe_environment, list_runs, make_run_folder, read_config
from competition.training.selection import selection_score

Predictions = dict[str, np.ndarray]
"""The predictions of a run on a split, as its predictions_<split>.npz holds them."""
FACTS = ("labels", "wrong_labels")  # the arrays of it that are no predictions
PREFIX = "ensemble"
ROUNDS = 25  # of the selection, as in AutoGluon
DRAWS = 500  # of the bootstrap
# The shape of its members' metrics.
MEMBER_KEYS = (
    "select_by",
    "views",
    "distortion",
    "parameters",
    "zip_megabytes",
    "not_scored",
    "milliseconds",
)


def make_ensemble(runs: Path, names: tuple[str, ...], splits: str, seed: int) -> Path:
    """Return the run that averages the scored runs `names`, written unless it is there already.

    Its folder holds the files of a scored run, without weights. `members` of its config.json names
    the runs, and `shares` the weight of each. names: a run as often as it counts. splits: the
    fingerprint that they must have. Raises UserError for unknown runs, fewer than two, and runs of
    other data, views, selection or image shapes.
    """
    members = [_require_run(runs, name, splits) for name in names]
    if len(set(names)) < 2:
        raise UserError(
            f"--ensemble got {', '.join(names)}, and expects two runs or more, "
            "as mobilenetv3large_001."
        )
    shared_keys = ("splits", "distortion", "class_names")
    configs = [read_config(run, *shared_keys, "network") for run in members]
    metrics = [read_metrics(run, *MEMBER_KEYS) for run in members]
    _require_alike(names, configs, metrics)
    stored = {split: [_read_predictions(run, split) for run in members] for split in SPLITS}
    shared = {key: configs[0][key] for key in shared_keys}
    return _find_or_write(runs, names, shared, stored, seed)


def make_fold_ensemble(
    runs: Path, folder: Path, splits: Splits, data: PreparedData, seed: int
) -> Path:
    """Return the run that averages the networks of all folds in `folder`, written unless there.

    Its scores on validation, the images of `splits`, are out-of-fold: of each image by the one
    network that was not trained on it. Raises UserError where the folds are not complete.
    """
    folds, out_of_fold = read_folds(folder, splits.fingerprint)
    places = np.searchsorted(out_of_fold["indices"], splits.validation)
    labels = out_of_fold["labels"][places]
    validation = {"labels": labels, "wrong_labels": np.zeros(len(labels), bool)}
    for version, probabilities in zip(
        out_of_fold["versions"], out_of_fold["probabilities"], strict=True
    ):
        validation[str(version)] = probabilities[None, places]
    stored = {"validation": [validation], "test": [_read_predictions(run, "test") for run in folds]}
    facts = {
        "splits": splits.fingerprint,
        "distortion": data.distortion_hash,
        "class_names": data.class_names,
    }
    names = tuple(f"../{folder.name}/{run.name}" for run in folds)
    return _find_or_write(runs, names, facts, stored, seed)


def members_of(run: Path) -> list[Path]:
    """Return the runs whose networks a run consists of: itself, or the members of an ensemble.

    A member is named as often as it counts.
    """
    names = read_config(run).get("members")
    return [run.parent / name for name in names] if names else [run]


def describe_members(names: Sequence[str]) -> str:
    """Return the names of members, with how often each counts: `2 a_001 + b_001`."""
    return " + ".join(
        name if count == 1 else f"{count} {name}" for name, count in Counter(names).items()
    )


# -- the best ensemble


@dataclass(frozen=True, eq=False)
class Candidate:
    """A scored run that may join an ensemble.

    labels: (n,), probabilities: (n, K), of all validation images that select, with one view.
    seconds: of the server, for all its images. megabytes: of its zip.
    """

    name: str
    labels: np.ndarray
    probabilities: np.ndarray
    seconds: float
    megabytes: float


def make_best_ensemble(runs: Path, splits: str, config: Config, most: int) -> Path:
    """Return the ensemble that is best on validation within the server's limits.

    It is a single run where no ensemble is better. The gain over the best single run is said, with
    its 95 % interval on the test, and kept in metrics.json. most: networks at most. Raises
    UserError where no run is scored.
    """
    metric = get_metric(config.metric)
    names = select_members(list_candidates(runs, splits, config), config.limits, most, metric)
    single = runs / names[0]
    if len(set(names)) == 1:
        say(f"{single.name} alone: no ensemble within the limits is better on validation.")
        return single
    run = make_ensemble(runs, names, splits, config.seed)
    stored = [read_arrays(each / name_predictions("test")) for each in (run, single)]
    views = min(len(arrays[PROFILE]) for arrays in stored)
    metrics = [read_metrics(each, "selection_score") for each in (run, single)]
    pair = [
        temper(arrays[PROFILE][:views].mean(axis=0), known.get("temperature", 1.0))
        for arrays, known in zip(stored, metrics, strict=True)
    ]
    labels = stored[0]["labels"]
    gain, drawn = draw_gains(labels, pair[0], pair[1], metric, DRAWS, config.seed)
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975]))
    told = {"over": single.name, "gain": gain, "interval": [low, high]}
    write_json(run / METRICS, metrics[0] | {"gain": told})
    ours, others = (metric.format(metric.flip(known["selection_score"])) for known in metrics)
    gained = [f"{100 * x:+.1f}" if metric.is_share else f"{x:+.2g}" for x in (gain, low, high)]
    unit = " points" if metric.is_share else ""
    say(
        f"{run.name}: {describe_members(names)}. Selection {ours}, that of the best single run "
        f"{single.name} {others}. What it gains on the test, {PROFILE}: {gained[0]}{unit}, "
        f"95 % interval {gained[1]} to {gained[2]}."
    )
    return run


def list_candidates(runs: Path, splits: str, config: Config) -> list[Candidate]:
    """Return the scored runs that can be averaged with the best of them; say which cannot.

    splits: the fingerprint that they must have. Raises UserError where there is none.
    """
    select_by = config.training.select_by
    found = []
    for run in list_scored(runs):
        facts = read_config(run, "splits", "distortion", "class_names", "network")
        known = read_metrics(run, *MEMBER_KEYS, "selection_score")
        decided_by = known["select_by"], known.get("metric", "accuracy")
        is_single = not facts.get("members")
        if not is_single or facts["splits"] != splits or decided_by != (select_by, config.metric):
            continue
        if known["milliseconds"] is None:
            say(f"{run.name} is left out: its speed is not known; --evaluate --force measures it.")
        else:
            found.append((run, facts, known))
    if not found:
        raise UserError(
            f"--ensemble best found no scored run on these data that {select_by} selected; "
            "train some: --train --backbone NAME."
        )
    best = max(found, key=lambda item: float(item[2]["selection_score"]))
    candidates = []
    for run, facts, known in found:
        try:
            names = best[0].name, run.name
            _require_alike(names, [best[1], facts], [best[2], known])
        except UserError as error:
            say(f"{run.name} is left out: {error}")
            continue
        stored = read_arrays(run / name_predictions("validation"))
        versions = selected_versions(select_by)
        passes = config.evaluation.tta_views * config.limits.images
        megabytes = known["zip_megabytes"] / (2 if config.submission.float16 else 1)
        candidates.append(
            Candidate(
                run.name,
                np.tile(stored["labels"], len(versions)),
                np.concatenate([stored[version][0] for version in versions]),
                known["milliseconds"] / 1000 * passes,
                megabytes,
            )
        )
    return candidates


def select_members(
    candidates: Sequence[Candidate], limits: LimitsConfig, most: int, metric: Metric
) -> tuple[str, ...]:
    """Return the names of the best ensemble, each as often as it counts; the best single run first.

    Each round adds the candidate, with replacement, whose average with those before is best on
    validation; among equals it adds the one of the lowest log-loss. The first of the best rounds
    counts. This is ensemble selection (Caruana et al. 2004), as AutoGluon has it. All networks
    together keep within the limits; where no single one does, packaging says so.
    most: networks at most.
    """
    able = [one for one in candidates if _fits({one}, limits)] or candidates
    chosen: list[Candidate] = []
    scores: list[float] = []
    for _ in range(ROUNDS):
        total = sum(one.probabilities for one in chosen)
        if chosen:
            together = {one: {*chosen, one} for one in able}
            able = [
                one
                for one in able
                if one in chosen or (len(together[one]) <= most and _fits(together[one], limits))
            ]
        ranked = {
            one: _rate(metric, one.labels, (total + one.probabilities) / (len(chosen) + 1))
            for one in able
        }
        best = max(ranked, key=lambda one: ranked[one])
        chosen.append(best)
        scores.append(ranked[best][0])
    return tuple(one.name for one in chosen[: 1 + int(np.argmax(scores))])


def _fits(together: set[Candidate], limits: LimitsConfig) -> bool:
    seconds = sum(one.seconds for one in together)
    megabytes = sum(one.megabytes for one in together)
    return seconds <= limits.seconds and megabytes <= limits.zip_megabytes


def _rate(metric: Metric, labels: np.ndarray, averaged: np.ndarray) -> tuple[float, float]:
    true = averaged[np.arange(len(labels)), labels]
    return selection_score(metric, labels, averaged), float(np.log(true + 1e-7).mean())


# -- any ensemble


def _require_run(runs: Path, name: str, splits: str) -> Path:
    known = sorted(path.parent.name for path in runs.glob(f"*/{WEIGHTS}"))
    if name not in known or not (runs / name / METRICS).is_file():
        raise UserError(
            f"There is no scored run '{name}' in {runs}; known are {', '.join(known) or 'none'}."
        )
    if read_config(runs / name, "splits")["splits"] != splits:
        raise UserError(
            f"{name} was trained on other splits than these; "
            "average runs of the same data and settings."
        )
    return runs / name


def _require_alike(
    names: tuple[str, ...], configs: list[dict[str, Any]], metrics: list[dict[str, Any]]
) -> None:
    """Raise UserError where the runs differ in a fact that they must share."""
    facts = {
        "class names": [config["class_names"] for config in configs],
        "distortion": [config["distortion"] for config in configs],
        "image shape": [config["network"]["image_shape"] for config in configs],
        "views": [known["views"] for known in metrics],
        "the versions that selected them": [known["select_by"] for known in metrics],
        "the metric": [known.get("metric", "accuracy") for known in metrics],
    }
    for title, values in facts.items():
        if any(value != values[0] for value in values):
            raise UserError(f"{', '.join(names)} differ in {title}; average runs that share it.")


def _read_predictions(run: Path, split: str) -> Predictions:
    cure = "score the run anew with --evaluate --force."
    return read_arrays(run / name_predictions(split), dict.fromkeys(FACTS, (None,)), cure)


def _find_or_write(
    runs: Path,
    names: tuple[str, ...],
    facts: dict[str, Any],
    stored: dict[str, list[Predictions]],
    seed: int,
) -> Path:
    """Return the ensemble of members `names`, written if need be; stored: predictions by split.

    facts: those of its config.json that its members share.
    """
    arrays = [predictions[name] for predictions in stored["test"] for name in sorted(predictions)]
    fingerprint = digest(sorted(names), *arrays, seed)
    for folder in list_runs(runs, PREFIX):
        is_whole = (folder / METRICS).is_file()
        if is_whole and read_config(folder, "fingerprint")["fingerprint"] == fingerprint:
            return folder
    run = make_run_folder(runs, PREFIX)
    config = {
        "fingerprint": fingerprint,
        "members": names,
        "shares": {name: count / len(names) for name, count in Counter(names).items()},
        "network": {"builder": describe_members(names)},
        "weights": "of its members",
        "seed": seed,
    }
    write_json(run / CONFIG, config | facts)
    write_json(run / ENVIRONMENT, describe_environment())
    members = [read_metrics(member, *MEMBER_KEYS) for member in dict.fromkeys(members_of(run))]
    scores = _score(run, stored, members, seed)
    write_json(run / METRICS, scores | {"distortion": facts["distortion"]})
    return run


def _score(
    run: Path, predictions: dict[str, list[Predictions]], networks: list[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """Average the members' predictions, keep them in `run`, and return their metrics.

    predictions: by split. networks: the metrics of each network. Versions and views that a
    member was not scored in are left out.
    """
    result: dict[str, Any] = {}
    select_by, metric = networks[0]["select_by"], get_metric(networks[0].get("metric", "accuracy"))
    for split in SPLITS:
        stored = predictions[split]
        arrays = {name: stored[0][name] for name in FACTS}
        labels = arrays["labels"]
        versions = set.intersection(*map(set, stored)) - set(arrays)
        averaged = {}
        for version in sorted(versions):
            views = min(len(item[version]) for item in stored)
            averaged[version] = np.mean([item[version][:views] for item in stored], axis=0)
        write_arrays(run / name_predictions(split), **arrays, **averaged)
        if split == "validation":  # the first one
            selection = score_selection(labels, averaged, select_by, metric)
        scored = ScoredSet(split, {}, labels, arrays["wrong_labels"])
        temperature = selection.get("temperature", 1.0)
        result[split] = score_predictions(scored, averaged, seed, metric, temperature)
    milliseconds = [known["milliseconds"] for known in networks]
    not_scored = [name for known in networks for name in known["not_scored"]]
    return (
        result
        | selection
        | {
            "views": networks[0]["views"],
            "parameters": sum(known["parameters"] for known in networks),
            "zip_megabytes": sum(known["zip_megabytes"] for known in networks),
            "milliseconds": None if None in milliseconds else sum(milliseconds),
            "not_scored": list(dict.fromkeys(not_scored)),
            "test_looks": 1,
        }
    )
