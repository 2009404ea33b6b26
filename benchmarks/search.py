"""Trials of the search against the plain way: python -m benchmarks.search PREPARED WEIGHTS [speed] [truth] [pruning].

PREPARED is a data/<name>/prepared that the driver left, WEIGHTS a folder with ImageNet weights. The plain way trains
both stages on pictures for every trial, with as many epochs. About an hour on two cores; ratios are of one run.

speed: seconds of a plain trial on all pictures, of a head's and of a two-stage trial as the search runs them, and the
ratios, with building the cache spread over the trials of a search; expect at least 50 and 5.
truth: the same configurations, drawn from the search's space, by the plain way with two seeds and by the search's way;
rank correlations, and how far what each way picks is below the best; expect 0.8 of the plain way with itself.
pruning: curves of whole trainings from random weights, put before each pruner in many orders: what share of the epochs
it spends, and how far what is picked then is below the best.
"""

import sys
import tempfile
import time
from dataclasses import replace as with_changes
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import spearmanr

from competition.config import Config, replace
from competition.console import say
from competition.features import cache_features
from competition.prepared import load_prepared
from competition.search import suggest
from competition.search_job import FINE_TUNING_SPACE, HEAD_SPACE
from competition.study import PRUNERS
from competition.training import TrainingData
from competition.trial import Outcome, Trainer, ignore_epoch
from competition.weights import RANDOM, Weights, resolve_weights
from competition.workers import Workers

SPEED_BACKBONE, TRUTH_BACKBONE, SCRATCH_BACKBONE = "mobilenetv3large", "mobilenetv3small", "custom_cnn"
CONFIGURATIONS, PICTURES, TRIAL_PICTURES = 20, 1000, 600  # of `truth`, and of them a trial's
CURVES, EPOCHS, ORDERS = 24, 6, 200  # of `pruning`


def configure(backbone: str, changes: dict[str, Any]) -> Config:
    """Return the settings of a trial, with the epochs of both stages as the search has them."""
    search = Config().search
    epochs = search.trial_frozen_epochs, search.trial_fine_tuning_epochs
    schedule = {"training.frozen_epochs": epochs[0], "training.fine_tuning_epochs": epochs[1]}
    return replace(Config(), {"model.backbone": backbone, **schedule, **changes})


def take_few(prepared: Path, pictures: int) -> TrainingData:
    """Return some of the training pictures, and the same share of the validation pictures."""
    data = load_prepared(prepared).training
    every = max(1, len(data.labels) // pictures)
    checked = data.validation_images[::every], data.validation_labels[::every]
    few = data.limited(pictures, 0)
    return with_changes(few, validation_images=checked[0], validation_labels=checked[1])


def make_trainer(data: TrainingData, config: Config, weights: Weights, pictures: int, folder: Path) -> Trainer:
    """Return what trains on cached features of some of `data`."""
    few = data.limited(pictures, config.seed)
    shares = FINE_TUNING_SPACE["training.unfreeze"]
    return Trainer(few, weights, cache_features(config, few, weights, shares, folder))


def timed_run(work: Any) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_speed(data: TrainingData, weights: Path, folder: Path) -> None:
    """Print seconds and ratios."""
    config, own = configure(SPEED_BACKBONE, {}), resolve_weights(str(weights), SPEED_BACKBONE, weights)
    search = config.search
    cache = timed_run(lambda: make_trainer(data, config, own, search.trial_pictures, folder))
    cached = make_trainer(data, config, own, search.trial_pictures, folder)
    head = (
        timed_run(lambda: [cached.train_head(with_changes(config, seed=seed), ignore_epoch) for seed in range(5)]) / 5
    )
    both = timed_run(lambda: cached.train(config, ignore_epoch))
    plain = timed_run(lambda: Trainer(data, own, None).train(config, ignore_epoch))
    heads = head + cache / (search.trials + search.two_stage_trials)
    boths = both + cache / (search.trials + search.two_stage_trials)
    say(f"{SPEED_BACKBONE}, {len(data.labels)} pictures: a plain trial takes {plain:.1f} s; the cache {cache:.1f} s")
    say(f"a head's trial {head:.2f} s: {plain / head:.0f} times as many an hour, {plain / heads:.0f} with the cache")
    say(f"a two-stage trial {both:.1f} s: {plain / both:.1f} times as many an hour, {plain / boths:.1f} with the cache")


def score(prepared: Path, weights: Path, changes: dict[str, Any], folder: Path | None, seed: int) -> Outcome:
    """Return what a configuration gives by the plain way, or (`folder`: of the cache) by the search's."""
    data = take_few(prepared, PICTURES)
    config, own = configure(TRUTH_BACKBONE, changes), resolve_weights(str(weights), TRUTH_BACKBONE, weights)
    trainer = make_trainer(data, config, own, TRIAL_PICTURES, folder) if folder else Trainer(data, own, None)
    return trainer.train(with_changes(config, seed=seed), ignore_epoch)


def draw_configurations(space: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return configurations drawn evenly from `space`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space) for _ in range(count)]


def compare_truth(prepared: Path, weights: Path, folder: Path) -> None:
    """Print each configuration's scores by the three ways, and what they agree upon."""
    drawn = draw_configurations(HEAD_SPACE | FINE_TUNING_SPACE, CONFIGURATIONS)
    ways: dict[str, tuple[Path | None, int]] = {"plain": (None, 0), "again": (None, 1), "search": (folder, 0)}
    tasks = {
        f"{name} {number}": partial(score, prepared, weights, changes, *way)
        for number, changes in enumerate(drawn)
        for name, way in ways.items()
    }
    found: dict[str, float] = {}
    with Workers(2) as workers:
        for task, outcome in workers.run(tasks):
            assert isinstance(outcome, Outcome)
            found[task] = outcome.score
            say(f"  {len(found)}/{len(tasks)} {task}: {outcome.score:.4f}")
    scores = {name: np.array([found[f"{name} {number}"] for number in range(CONFIGURATIONS)]) for name in ways}
    for number, changes in enumerate(drawn):
        say(" ".join(f"{values[number]:.4f}" for values in scores.values()) + f"  {changes}")
    truth = (scores["plain"] + scores["again"]) / 2
    for name in ("again", "search"):
        rank = spearmanr(scores["plain"], scores[name]).statistic
        below = 100 * (truth.max() - truth[scores[name].argmax()])
        say(f"{name} against plain: rank correlation {rank:.3f}; its pick is {below:.2f} points below the best")


def curve(prepared: Path, changes: dict[str, Any]) -> list[float]:
    """Return the scores of all epochs of a training from random weights."""
    scores: list[float] = []
    data = take_few(prepared, TRIAL_PICTURES)
    sizes = {"model.input_size": 48, "training.frozen_epochs": 0, "training.fine_tuning_epochs": EPOCHS}
    config = configure(SCRATCH_BACKBONE, {**sizes, **changes})
    Trainer(data, RANDOM, None).train(config, lambda value, epoch: scores.append(value))
    return scores


def compare_pruners(prepared: Path) -> None:
    """Print what each pruner spends and loses."""
    drawn = draw_configurations(HEAD_SPACE, CURVES)
    with Workers(2) as workers:
        found = dict(workers.run({str(number): partial(curve, prepared, item) for number, item in enumerate(drawn)}))
    curves = [np.array(found[str(number)]) for number in range(CURVES)]
    best = max(values.max() for values in curves)
    for name, make in PRUNERS.items():
        spent, lost = np.mean([_replay(curves, make(EPOCHS), seed) for seed in range(ORDERS)], axis=0)
        share = spent / (CURVES * EPOCHS)
        say(
            f"{name:10} {100 * share:5.1f} % of the epochs; the pick is {100 * (best - lost):.2f} points below the best"
        )


def _replay(curves: list[np.ndarray], pruner: optuna.pruners.BasePruner, seed: int) -> tuple[int, float]:
    """Return the epochs spent and the best score found, if the trials had come in an order drawn from `seed`."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    spent = 0
    for index in np.random.default_rng(seed).permutation(len(curves)):
        trial = study.ask()
        for epoch, value in enumerate(curves[index]):
            trial.report(value, epoch)
            spent += 1
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curves[index].max())
    return spent, study.best_value


def main() -> None:
    """Print what is asked for, or all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prepared, weights, parts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["speed", "truth", "pruning"]
    with tempfile.TemporaryDirectory() as place:
        if "speed" in parts:
            compare_speed(load_prepared(prepared).training, weights, Path(place))
        if "truth" in parts:
            compare_truth(prepared, weights, Path(place))
        if "pruning" in parts:
            compare_pruners(prepared)


if __name__ == "__main__":
    main()
