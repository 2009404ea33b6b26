"""Trials of the search against the plain way: python -m benchmarks.search PREPARED WEIGHTS PLACE [PART ...].

PREPARED is a data/<name>/prepared that the driver left, WEIGHTS a folder with ImageNet weights, PLACE a folder that
keeps scores and features, so that a run goes on where it was killed. The plain way trains the whole network on pictures
for every trial, with as many epochs. About two hours on two cores; ratios are of one run.

speed: seconds of a plain trial on all pictures and of the trials of each part of a search, and how many times as many
an hour that makes, also with what goes beside (the cached features, the finals); expect at least 50 for heads and 5 for
others.
memory: of a process after 10 and after 100 trials of a head, of both stages and from random weights, on few pictures
and with few epochs; expect 5 % more at most.
truth: the same configurations, drawn from the search's space, by the plain way with two seeds, and by the search's way:
trials on a quarter of the pictures (from random weights at half the size), finals on all of them. Rank correlations,
and how far what each way picks is below the best; expect 0.8 of the plain way with itself, and half a point.
pruning: curves of trials from random weights, put before each pruner in many orders: what share of the epochs it
spends, and how far what is picked then is below the best.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
import psutil
from scipy.stats import spearmanr

from competition.common.console import say
from competition.common.files import digest, read_json, write_json
from competition.common.parallel import Workers
from competition.config import Config, SearchConfig, with_settings
from competition.data.arrays import TrainingData, load_prepared
from competition.networks.weights import RANDOM, Weights, resolve_weights
from competition.search.features import cache_features
from competition.search.rounds import (
    FINALS,
    FINE_TUNING_SPACE,
    HEAD_SPACE,
    HEADS,
    REDUCTION,
    TRIALS,
    Effort,
)
from competition.search.search import suggest
from competition.search.study import PRUNERS
from competition.search.trial import Outcome, Trainer, ignore_epoch

PLAIN = "plain"
SPEED_BACKBONES, TRUTH_BACKBONES = (
    ("mobilenetv3large", "custom_cnn"),
    ("mobilenetv3small", "custom_cnn"),
)
MEMORY_PARTS = {"mobilenetv3small": (HEADS, TRIALS), "custom_cnn": (TRIALS,)}
MEMORY_TRIALS, MEMORY_PICTURES = 100, 64
CONFIGURATIONS, PICTURES = 20, 1000  # of `truth`
CURVES, ORDERS = 24, 200  # of `pruning`


def find_weights(folder: Path, backbone: str) -> Weights:
    """Return the ImageNet weights, but for the backbone that has none."""
    return RANDOM if backbone == "custom_cnn" else resolve_weights(str(folder), backbone, folder)


def configure(backbone: str, weights: Weights, side: int, part: str) -> Config:
    """Return the settings of a trial of that part of a search, or of the plain way."""
    schedule = Effort(Config().search, weights.is_pretrained).schedule(
        FINALS if part == PLAIN else part, side
    )
    return with_settings(Config(), {"model.backbone": backbone} | schedule)


def make_trainer(
    data: TrainingData, weights: Weights, config: Config, part: str, folder: Path
) -> Trainer:
    """Return what trains on `data` as that part of a search does, or on pictures as the plain way does."""
    if part == PLAIN or not weights.is_pretrained:
        return Trainer(data, weights, None)
    return Trainer(
        data,
        weights,
        cache_features(config, data, weights, FINE_TUNING_SPACE["training.unfreeze"], folder),
    )


# -- speed


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_trials(
    prepared: Path, folder: Path, place: Path, backbone: str
) -> tuple[dict[str, float], float]:
    """Return the seconds of a trial of each part, the fastest of some, and of the features that they need."""
    data, weights = load_prepared(prepared).training, find_weights(folder, backbone)
    seconds, beside, effort = {}, 0.0, Effort(Config().search, weights.is_pretrained)
    for part, repeats in {HEADS: 5, TRIALS: 2, FINALS: 1, PLAIN: 1}.items():
        if part == HEADS and not weights.is_pretrained:
            continue
        few = data if part == PLAIN else data.for_trial(effort.pictures(part), 0)
        config = configure(backbone, weights, data.images.shape[1], part)
        started = time.perf_counter()
        trainer = make_trainer(
            few, weights, config, part, place / f"speed_{backbone}_{part == FINALS}"
        )
        beside += time.perf_counter() - started
        train = trainer.train_head if part == HEADS else trainer.train
        times = [
            timed(partial(train, replace(config, seed=seed), ignore_epoch))
            for seed in range(repeats)
        ]
        seconds[part] = min(times)
        say(
            f"{backbone}, {part}: a trial on {len(few.labels)} pictures takes {seconds[part]:.1f} s"
        )
    return seconds, beside


def compare_speed(prepared: Path, folder: Path, place: Path) -> None:
    """Print seconds and ratios for a pretrained backbone and one from random weights, each on a core of its own."""
    tasks = {
        name: partial(measure_trials, prepared, folder, place, name) for name in SPEED_BACKBONES
    }
    with Workers(len(tasks)) as workers:
        for backbone, (seconds, beside) in workers.run_all(tasks):
            say(f"{backbone}: computing features takes {beside:.1f} s")
            for line in _describe_speed(seconds, beside):
                say(f"{backbone}, {line}")


def _describe_speed(seconds: dict[str, float], beside: float) -> list[str]:
    plain, counts = seconds[PLAIN], Effort(Config().search, HEADS in seconds).trials
    trials = {part: count for part, count in counts.items() if part != FINALS}
    lines = [f"{part}: {plain / seconds[part]:.1f} times as many trials an hour" for part in trials]
    finals = counts[FINALS] * seconds[FINALS]
    whole = beside + finals + sum(count * seconds[part] for part, count in trials.items())
    ratio = sum(trials.values()) * plain / whole
    lines.append(
        f"a whole search of {counts}: {whole / 60:.1f} min, {ratio:.1f} times as many trials"
    )
    both = counts[TRIALS] * plain / (counts[TRIALS] * seconds[TRIALS] + finals)
    return [*lines, f"trials, with finals: {both:.1f} times as many an hour"]


# -- memory


def compare_memory(prepared: Path, folder: Path, place: Path) -> None:
    """Print how a process of each kind of trial grows, all at the same time."""
    tasks = {
        f"{backbone}, {part}": partial(try_many, prepared, folder, place, backbone, part)
        for backbone, parts in MEMORY_PARTS.items()
        for part in parts
    }
    with Workers(len(tasks)) as workers:
        for name, sizes in workers.run_all(tasks):
            growth = 100 * (sizes[-1] / sizes[9] - 1)
            after = f"{sizes[9]:.0f} MB after 10 trials, {sizes[-1]:.0f} MB after {len(sizes)}"
            say(f"{name}: {after}: {growth:+.1f} %")


def try_many(prepared: Path, folder: Path, place: Path, backbone: str, part: str) -> list[float]:
    """Return the megabytes of this process after each of many trials of one part of a search."""
    weights, sizes = find_weights(folder, backbone), []
    data = load_prepared(prepared).training.for_trial(MEMORY_PICTURES, 0)
    few = {"training.frozen_epochs": 1, "training.fine_tuning_epochs": int(part != HEADS)}
    config = with_settings(configure(backbone, weights, data.images.shape[1], part), few)
    trainer = make_trainer(data, weights, config, part, place / f"memory_{backbone}")
    for changes in draw_configurations(HEAD_SPACE | FINE_TUNING_SPACE, MEMORY_TRIALS):
        (trainer.train_head if part == HEADS else trainer.train)(
            with_settings(config, changes), ignore_epoch
        )
        keras.utils.clear_session(free_memory=True)
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    return sizes


# -- truth


def score(
    prepared: Path,
    folder: Path,
    place: Path,
    backbone: str,
    part: str,
    seed: int,
    changes: dict[str, Any],
) -> dict[str, Any]:
    """Return what a configuration gives on some of the pictures, and its score after each epoch; kept in `place`."""
    kept = place / f"{digest(backbone, part, seed, changes)}.json"
    if kept.is_file():
        return dict(read_json(kept))
    data, weights = _take_some(load_prepared(prepared).training), find_weights(folder, backbone)
    few = data.for_trial(PICTURES // REDUCTION, 0) if part == TRIALS else data
    config = with_settings(
        configure(backbone, weights, data.images.shape[1], part), {**changes, "seed": seed}
    )
    trainer = make_trainer(
        few, weights, with_settings(config, {"seed": 0}), part, place / f"truth_{backbone}_{part}"
    )
    curve: list[float] = []
    outcome: Outcome = trainer.train(config, lambda value, _: curve.append(value))
    result = {**asdict(outcome), "curve": curve}
    write_json(kept, result)
    return result


def _take_some(data: TrainingData) -> TrainingData:
    """Return some of the training pictures, and the same share of the validation pictures."""
    return data.limited(PICTURES, 0).validated_on_one_in(len(data.labels) // PICTURES)


def draw_configurations(space: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return configurations drawn evenly from `space`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space) for _ in range(count)]


def compare_truth(prepared: Path, folder: Path, place: Path) -> None:
    """Print each configuration's scores by the ways, and what they agree upon, for each backbone."""
    for backbone in TRUTH_BACKBONES:
        pretrained = find_weights(folder, backbone).is_pretrained
        drawn = draw_configurations(
            HEAD_SPACE | FINE_TUNING_SPACE if pretrained else HEAD_SPACE, CONFIGURATIONS
        )
        evaluate = partial(_score_all, partial(score, prepared, folder, place, backbone), drawn)
        everything = range(CONFIGURATIONS)
        plain, again = evaluate(PLAIN, 0, everything), evaluate(PLAIN, 1, everything)
        trials = evaluate(TRIALS, 2, everything)
        finalists = Effort(SearchConfig(trials=CONFIGURATIONS), pretrained=False).trials[FINALS]
        best = np.argsort(-trials)[:finalists]
        finals = evaluate(FINALS, 2, best)
        ranked = np.where(np.isnan(finals), trials - 1, finals)  # a finalist is above the others
        truth = (plain + again) / 2
        for number in everything:
            ways = " ".join(f"{values[number]:.4f}" for values in (plain, again, trials, finals))
            say(f"  {number:2} {ways}  {drawn[number]}")
        ceiling = spearmanr(plain, again).statistic
        for name, values in {"again": again, "trials": trials, "search": ranked}.items():
            against = [plain] if name == "again" else [plain, again]
            rank = float(np.mean([spearmanr(one, values).statistic for one in against]))
            below = 100 * (truth.max() - truth[values.argmax()])
            share = f"{rank / ceiling:.2f} of the ceiling"
            say(
                f"{backbone}, {name}: rank correlation {rank:.3f} ({share}); pick {below:.2f} points below the best"
            )


def _score_all(
    way: Callable[..., Any], drawn: list[dict[str, Any]], part: str, seed: int, which: Any
) -> np.ndarray:
    """Return the scores of some configurations, NaN for the others."""
    scores = np.full(len(drawn), np.nan)
    for number, result in _try_all(way, drawn, part, seed, which).items():
        scores[number] = result["score"]
    return scores


def _try_all(
    way: Callable[..., Any], drawn: list[dict[str, Any]], part: str, seed: int, which: Any
) -> dict[int, Any]:
    """Return by number what some configurations give."""
    found: dict[int, Any] = {}
    with Workers(2) as workers:
        tasks = {str(number): partial(way, part, seed, drawn[number]) for number in which}
        for name, result in workers.run_all(tasks):
            found[int(name)] = result
            say(f"  {part}, seed {seed}: {len(found)}/{len(tasks)}")
    return found


# -- pruning


def compare_pruners(prepared: Path, folder: Path, place: Path) -> None:
    """Print what each pruner spends and loses on trials of the custom CNN."""
    drawn = draw_configurations(HEAD_SPACE, CURVES)
    way = partial(score, prepared, folder, place, "custom_cnn")
    found = _try_all(way, drawn, TRIALS, 2, range(CURVES))
    curves = [np.array(result["curve"]) for result in found.values()]
    best, epochs = max(values.max() for values in curves), len(curves[0])
    for name, make in PRUNERS.items():
        spent, lost = np.mean(
            [_replay(curves, make(epochs), seed) for seed in range(ORDERS)], axis=0
        )
        share, below = 100 * spent / (CURVES * epochs), 100 * (best - lost)
        say(
            f"{name:10} {share:5.1f} % of the epochs; the pick is {below:.2f} points below the best"
        )


def _replay(
    curves: list[np.ndarray], pruner: optuna.pruners.BasePruner, seed: int
) -> tuple[int, float]:
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
    prepared, folder, place = map(Path, sys.argv[1:4])
    place.mkdir(parents=True, exist_ok=True)
    parts = {
        "speed": compare_speed,
        "memory": compare_memory,
        "truth": compare_truth,
        "pruning": compare_pruners,
    }
    for part in sys.argv[4:] or parts:
        parts[part](prepared, folder, place)


if __name__ == "__main__":
    main()
