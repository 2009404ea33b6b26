"""The search of one backbone: its rounds one after the other, and what they settle."""

import errno
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial
from scipy.stats import norm
from sqlalchemy.exc import SQLAlchemyError

from competition.common.console import part_of_task, say
from competition.common.errors import TrialFailedError
from competition.common.files import read_json, write_json
from competition.common.settings import flatten
from competition.config import with_settings
from competition.data.arrays import TrainingData, count_skipped
from competition.distortion.profiles import selected_versions
from competition.evaluation.metrics import DRAWS, draw_gains, mcnemar
from competition.metric import ACCURACY, Metric, get_metric
from competition.search.features import cache_features
from competition.search.report import write_report
from competition.search.rounds import PRETRAINED, REDUCTION, Round, Search, inside_space
from competition.search.study import (
    QUEUED,
    REASON,
    count_trials,
    describe_settings,
    open_study,
    rank,
    run_trials,
    suggest,
    told_by_name,
)
from competition.search.trial import TrialTrainer
from competition.time_budget import Slot
from competition.training.chance import beats_chance
from competition.training.selection import calibrate

# A full disk or a storage that is gone are nothing that another trial would do better.
NOT_THE_TRIALS_FAULT = (OSError, OptunaError, SQLAlchemyError)
SIGNIFICANCE = 0.05  # probability under which chance explains a gain no more
# Attributes of a trial, as hexadecimal digits: which predictions are right, and, where the metric
# is another one than accuracy, its probabilities in float32.
CORRECT, PROBABILITIES = "correct", "probabilities"


def search_backbone(search: Search, data: TrainingData, features: Path) -> dict[str, Any]:
    """Run the rounds of a search, or go on with them; return the settings that it changes.

    Any number of processes may do so at the same time; the one of worker 0 writes
    <backbone>_best.json and the reports. features: the folder of cached features.
    Settings change only where the gain over those as given is beyond chance, by McNemar's exact
    test on the same images, corrected for the number of trials (Bonferroni). Other metrics than
    accuracy have the bootstrap instead of that test. Where time is left for heads alone, the recipe
    that an earlier search found stays.
    Raises UserError where the storage cannot be used.
    """
    if search.heads_only and (whole := read_best(search, heads_only=False)):
        say(f"{search.backbone}: what the search of whole recipes found stays, for want of time")
        return whole
    with told_by_name(search.url):
        settled, decision = _run_rounds(search, data, features)
    if search.worker == 0:
        facts = {"settings": settled, "decision": decision, **_list_facts(search)}
        facts |= {"given": _list_given(search), "heads_only": search.heads_only}
        write_json(search.folder / f"{search.backbone}_best.json", facts)
    return settled


def read_best(search: Search, **facts: Any) -> dict[str, Any]:
    """Return the settings that an earlier search changed.

    Nothing where its data, its weights, or the settings that it began with are others than now, or
    where it lacks one of these `facts`.
    """
    path = search.folder / f"{search.backbone}_best.json"
    if not path.is_file():
        return {}
    shape = {"settings": dict, "data": str, "weights": str, "select_by": str}
    cure = "delete it, and --search again, which goes on with its trials."
    best: dict[str, Any] = {"metric": "accuracy"} | read_json(path, shape, cure)
    given, now = best.get("given", {}), _list_given(search)
    is_same = all(given[key] == now[key] for key in given.keys() & now.keys())
    if not is_same or not (_list_facts(search) | facts).items() <= best.items():
        return {}
    found = best["settings"].items()
    return {key: value for key, value in found if not search.is_fixed(key)}


def _list_given(search: Search) -> dict[str, Any]:
    """Return the settings as given that the search may change."""
    searched = {key for item in PRETRAINED for key in item.space}
    return {
        key: value
        for key, value in flatten(search.config).items()
        if {key, key.partition(".")[0]} & searched and not search.is_fixed(key)
    }


def _list_facts(search: Search) -> dict[str, Any]:
    """Return what the settings that a search found hold for."""
    return {
        "data": search.data["splits"],
        "weights": search.weights.fingerprint,
        "select_by": search.config.training.select_by,
        "metric": search.config.metric,
    }


def _run_rounds(search: Search, data: TrainingData, features: Path) -> tuple[dict[str, Any], str]:
    """Return the settings that all rounds changed, and why."""
    given = flatten(search.config)
    ranked: list[dict[str, Any]] = []  # settings that the round before found, best first
    settled: dict[str, Any] = {}
    decision = "no trial was finished; the settings stay as given"
    passes = np.cumsum([0.0, *map(search.count_passes, search.rounds)])
    ends = passes / max(1.0, passes[-1])
    for number, item in enumerate(search.rounds):
        current = replace(search, slot=_next_slot(search, number))
        base = inside_space(given, search.space(item))
        first = [base]
        if item.is_promoted:
            first += [one for one in ranked if one != base]
            promoted = min(search.count_trials(item), math.ceil(len(first) / REDUCTION))
            first = first[: max(2, promoted)]
            if len(first) < 2:
                continue
        else:
            current = replace(current, config=with_settings(search.config, settled))
        study = open_study(current, item, first)
        with part_of_task(ends[number], ends[number + 1]):
            _run_round(current, item, study, data, features)
        if search.worker == 0:
            write_report(study, search.folder, f"{search.backbone}_{item.name}")
        trials = rank(study)
        if not trials:
            continue
        winner, decision = _settle(search, item, study, base, data.validation_labels)
        say(f"{search.backbone} {item.name}: {decision}")
        space = search.space(search.rounds[-1])
        ranked = [inside_space(given | settled | trial.params, space) for trial in trials]
        if search.decides(item):
            changed = {} if winner == base else _list_new(search.list_changes(winner), given)
            settled = changed if item.is_promoted else settled | changed
    return settled, decision


def _list_new(changes: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the changes that differ from what is given; a preset keeps all that goes with it."""
    is_new = {key: "augmentation" in changes or changes[key] != given[key] for key in changes}
    return {key: value for key, value in changes.items() if is_new[key]}


def _next_slot(search: Search, number: int) -> Slot | None:
    """Return the slot of a round: its share of the work that is left, from now on."""
    if search.slot is None:
        return None
    first, *others = (search.count_passes(item) for item in search.rounds[number:])
    return search.slot.next_part(first / (first + sum(others)))


def _run_round(
    search: Search, item: Round, study: optuna.Study, data: TrainingData, features: Path
) -> None:
    """Run what is missing of the trials of a round."""
    title = f"{search.backbone} {item.name} trial"
    asked = None if item.is_promoted else search.count_trials(item)
    finished, total = count_trials(study, asked)
    if finished >= total:
        most = getattr(search.config.search, item.trials)
        has_more = item.is_head or (asked is not None and asked < most)
        say(f"{title}s: {finished} are done already{'; --trials asks for more' * has_more}.")
        return
    if search.slot is not None and search.slot.is_over:
        return
    few = data.for_trial(item.count_images(search.config.search), search.config.seed)
    cached = None
    if item.is_head:
        cached = cache_features(search.config, few, search.weights, features / search.backbone)
    trainer = TrialTrainer(few, search.weights, cached)
    run_trials(search, study, title, asked, _objective(search, item, trainer))


def _objective(search: Search, item: Round, trainer: TrialTrainer) -> Callable[[Trial], float]:
    train = trainer.train_head if item.is_head else trainer.train

    def objective(trial: Trial) -> float:
        suggested = suggest(trial, search.space(item))
        config = with_settings(search.with_params(suggested), search.trial_settings(item))

        def report(score: float | None, epoch: int) -> None:
            if search.slot is not None and search.slot.is_over:
                raise TimeoutError  # it counts as interrupted
            if score is None:
                return
            trial.report(score, epoch)
            if not trial.user_attrs.get(QUEUED) and trial.should_prune():
                raise optuna.TrialPruned

        try:
            result = train(config, report)
        except Exception as error:  # a loss that diverged, or no memory, which each backend raises
            lacks_memory = getattr(error, "errno", 0) == errno.ENOMEM
            if isinstance(error, NOT_THE_TRIALS_FAULT) and not lacks_memory:
                raise
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            trial.set_user_attr(REASON, reason)
            raise TrialFailedError(reason) from error
        finally:
            keras.utils.clear_session(free_memory=True)
        trial.set_user_attr(CORRECT, np.packbits(result.correct).tobytes().hex())
        if config.metric != "accuracy" and not item.is_small:
            trial.set_user_attr(PROBABILITIES, result.probabilities.astype("f4").tobytes().hex())
        return result.score

    return objective


def _settle(
    search: Search,
    item: Round,
    study: optuna.Study,
    base: dict[str, Any],
    labels: np.ndarray,
) -> tuple[dict[str, Any], str]:
    """Return the best settings of a round, or `base` where chance may explain their gain, and why.

    base: the settings as given. labels: of all validation images.
    """
    trials = rank(study)
    best = trials[0]
    others = {key: value for key, value in best.params.items() if value != base[key]}
    metric = get_metric(search.config.metric)
    found = f"best of {len(trials)} trials {metric.flip(best.value):.4f}"
    if others:
        found += f" with {describe_settings(others)}"
    places = np.arange(len(labels))
    places = places[:: count_skipped(len(labels), item.count_images(search.config.search))]
    versions = selected_versions(search.config.training.select_by)
    images = places % (len(labels) // len(versions))  # each is there in several versions
    different = labels[np.unique(images)]
    if not beats_chance(float(_read_correct(best)[: len(images)].mean()), different):
        return base, f"{found}: no better than naming one class always, the settings stay as given"
    if not search.decides(item):
        return base, f"{found}: so small trials decide nothing, the best go on"
    if best.params == base:
        return base, f"{found}: these are the settings as given"
    tried = [trial for trial in study.get_trials(deepcopy=False) if trial.params == base]
    if any(REASON in trial.user_attrs for trial in tried):
        return best.params, f"{found}: the settings as given fail"
    given = next((trial for trial in trials if trial.params == base), None)
    if given is None:
        return base, f"{found}: the settings as given were not finished, and stay"
    if metric == ACCURACY:
        correct = [
            np.bincount(images, _read_correct(trial)[: len(images)]) for trial in (best, given)
        ]
        probability = mcnemar(correct[0], correct[1], alternative="greater")
    else:
        probability = compare_probabilities(best, given, labels[places], images, metric)
    probability *= count_trials(study, None)[0] - 1
    if probability >= SIGNIFICANCE:
        gain = f"{metric.format(best.value - given.value)}{' points' if metric.is_share else ''}"
        return base, f"{found}: {gain} above the settings as given, within chance"
    return best.params, f"{found}: beyond chance (p = {probability:.2g})"


def _read_correct(trial: FrozenTrial) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(trial.user_attrs[CORRECT]), np.uint8)) == 1


def compare_probabilities(
    better: FrozenTrial,
    worse: FrozenTrial,
    labels: np.ndarray,
    images: np.ndarray,
    metric: Metric,
) -> float:
    """Return the probability that a trial is that much better, or more, by chance alone, 0..1.

    labels: (m,) of what the trials predicted. images: (m,), the number of the image of each, which
    is there in several versions.
    """
    pair = []
    for trial in (better, worse):
        numbers = np.frombuffer(bytes.fromhex(trial.user_attrs[PROBABILITIES]), np.float32)
        pair.append(calibrate(metric, labels, numbers.reshape(len(labels), -1)))
    gain, drawn = draw_gains(labels, pair[0], pair[1], metric, DRAWS, seed=0, images=images)
    error = float(np.std(drawn))
    return float(norm.sf(gain / error)) if error else 1.0
