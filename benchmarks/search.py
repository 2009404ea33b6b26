"""The search against the plain way, and against a recipe made by hand.

python -m benchmarks.search PREPARED WEIGHTS PLACE [PART ...] [--minutes 60] [--training 20]

PREPARED is a data/<name>/prepared that the command line left, WEIGHTS a folder with ImageNet
weights, PLACE a folder that keeps all results, so that a run goes on where it was killed. Ratios
are of one run.

speed: seconds of a plain trial, which trains on all images, and of the trials of each round, and
how many times as many an hour that makes.
memory: of a process after 10 and after 100 trials of a head, of whole recipes and from random
weights, on few images and with few epochs; expect 5 % more at most.
ranks: the same recipes, drawn from the search's space, as trials of the first and of the second
round, and by long trainings with two seeds. Rank correlations, and how far the pick of each is
below the best.
recipe: a search that starts from the baseline's recipe, so many minutes long; then trainings of
equal length of the baseline's recipe, of the one found and of the default, scored on the test.
"""

import argparse
import time
from collections.abc import Callable
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
from competition.common.parallel import Workers, count_cores
from competition.config import PRESETS, Config, with_settings
from competition.data.arrays import TrainingData, load_prepared
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.metrics import collect_values, read_metrics
from competition.metric import METRICS
from competition.networks.weights import RANDOM, Weights, resolve_weights
from competition.search.features import cache_features
from competition.search.rounds import (
    EVERYTHING,
    FROM_RANDOM,
    PRETRAINED,
    Round,
    Search,
    Space,
    list_changes,
)
from competition.search.search import search_backbone
from competition.search.study import suggest
from competition.search.trial import Report, TrialResult, TrialTrainer
from competition.time_budget import Slot, TrainingTime
from competition.training.runs import train_run

HEAD, FINE_TUNING, SEMIFINAL, FINAL = PRETRAINED
SCRATCH = FROM_RANDOM[0]
BACKBONE = "mobilenetv3large"
# Rounds of a backbone, and how often a trial of each is timed.
SPEED = {
    BACKBONE: ((HEAD, 5), (FINE_TUNING, 2), (SEMIFINAL, 1), (FINAL, 1)),
    "custom_cnn": ((SCRATCH, 2), (FROM_RANDOM[1], 1)),
}
MEMORY = {"mobilenetv3small": (HEAD, FINE_TUNING), "custom_cnn": (SCRATCH,)}
MEMORY_TRIALS = 100
MEMORY_IMAGES = 64
CONFIGURATIONS = 12  # of `ranks`
# What is compared by rank: name -> the round (None: a long training) and the seed.
WAYS = {
    "first round": (FINE_TUNING, 0),
    "second round": (SEMIFINAL, 0),
    "long": (None, 1),
    "long again": (None, 2),
}


def find_weights(folder: Path, backbone: str) -> Weights:
    """Return the ImageNet weights, but for the backbone that has none."""
    if backbone == "custom_cnn":
        return RANDOM
    return resolve_weights(str(folder), backbone, folder)


def configure(backbone: str, side: int, item: Round) -> Config:
    """Return the settings of a trial of a round."""
    changes = {"model.backbone": backbone} | item.settings(Config(), side)
    return with_settings(Config(), changes)


def make_trainer(
    data: TrainingData, weights: Weights, config: Config, item: Round | None, folder: Path
) -> Callable[[Config, Report], TrialResult]:
    """Return what trains a trial of a round (None: the plain way); `folder` keeps features."""
    if item is None or not item.is_head:
        return TrialTrainer(data, weights, None).train
    return TrialTrainer(data, weights, cache_features(config, data, weights, folder)).train_head


# -- speed


def measure_trials(prepared: Path, folder: Path, place: Path, backbone: str) -> dict[str, float]:
    """Return the seconds of a trial of each round, the fastest of some, and of a plain one."""
    data = load_prepared(prepared).training
    weights = find_weights(folder, backbone)
    side = data.images.shape[1]
    seconds: dict[str, float] = {}
    rounds = SPEED[backbone]
    for item, repeats in rounds:
        few = data.for_trial(item.count_images(Config().search), 0)
        config = configure(backbone, side, item)
        train = make_trainer(few, weights, config, item, place / f"speed_{backbone}")
        times = [_time(partial(train, replace(config, seed=s), None)) for s in range(repeats)]
        seconds[item.name] = min(times)
        say(f"{backbone}, {item.name}: {len(few.labels)} images take {seconds[item.name]:.1f} s")
    changes = {"training.limit": 0, "model.input_size": 0}
    config = with_settings(configure(backbone, side, rounds[-1][0]), changes)
    train = make_trainer(data, weights, config, None, place)
    seconds["plain"] = _time(partial(train, config, None))
    return seconds


def _time(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_speed(prepared: Path, folder: Path, place: Path) -> None:
    """Print seconds and ratios, each backbone on a core of its own."""
    tasks = {name: partial(measure_trials, prepared, folder, place, name) for name in SPEED}
    with Workers(len(tasks)) as workers:
        for backbone, seconds in workers.run_all(tasks):
            for name, value in seconds.items():
                times = seconds["plain"] / value
                say(f"{backbone}, {name}: {value:.1f} s, {times:.1f} times as many trials an hour")


# -- memory


def compare_memory(prepared: Path, folder: Path, place: Path) -> None:
    """Print how a process of each kind of trial grows, all at the same time."""
    tasks = {
        f"{backbone}, {item.name}": partial(try_many, prepared, folder, place, backbone, item)
        for backbone, rounds in MEMORY.items()
        for item in rounds
    }
    with Workers(len(tasks)) as workers:
        for name, sizes in workers.run_all(tasks):
            growth = 100 * (sizes[-1] / sizes[9] - 1)
            after = f"{sizes[9]:.0f} MB after 10 trials, {sizes[-1]:.0f} MB after {len(sizes)}"
            say(f"{name}: {after}: {growth:+.1f} %")


def try_many(prepared: Path, folder: Path, place: Path, backbone: str, item: Round) -> list[float]:
    """Return the megabytes of this process after each of many trials of one round."""
    weights = find_weights(folder, backbone)
    data = load_prepared(prepared).training.for_trial(MEMORY_IMAGES, 0)
    few = {"training.frozen_epochs": 1, "training.fine_tuning_epochs": int(not item.is_head)}
    config = with_settings(configure(backbone, data.images.shape[1], item), few)
    train = make_trainer(data, weights, config, item, place / f"memory_{backbone}")
    sizes = []
    for changes in draw_configurations(EVERYTHING, MEMORY_TRIALS):
        train(with_settings(config, changes), None)
        keras.utils.clear_session(free_memory=True)
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    return sizes


def draw_configurations(space: Space, count: int) -> list[dict[str, Any]]:
    """Return the changes of configurations drawn evenly from `space`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [list_changes(suggest(study.ask(), space)) for _ in range(count)]


# -- ranks


def score(
    prepared: Path,
    folder: Path,
    place: Path,
    item: Round | None,
    seed: int,
    changes: dict[str, Any],
) -> float:
    """Return the score of a recipe, as a trial of a round or by a long training; kept in `place`.

    Long: on all images of full size, for as many epochs as a trial of the final has.
    """
    kept = place / f"{digest(item.name if item else None, seed, changes)}.json"
    if not kept.is_file():
        data = load_prepared(prepared).training
        config = configure(BACKBONE, data.images.shape[1], item or FINAL)
        if item is None:
            config = with_settings(config, {"training.limit": 0})
        else:
            data = data.for_trial(item.count_images(config.search), 0)
        config = with_settings(config, changes | {"seed": seed})
        train = make_trainer(data, find_weights(folder, BACKBONE), config, item, place)
        write_json(kept, train(config, None).score)
    return float(read_json(kept))


def compare_ranks(prepared: Path, folder: Path, place: Path) -> None:
    """Print each recipe's scores, and how far the ways agree."""
    drawn = draw_configurations(EVERYTHING, CONFIGURATIONS)
    tasks = {
        f"{way} {number}": partial(score, prepared, folder, place, *WAYS[way], changes)
        for way in WAYS
        for number, changes in enumerate(drawn)
    }
    with Workers(count_cores()) as workers:
        found = dict(workers.run_all(tasks))
    scores = {
        way: np.array([found[f"{way} {number}"] for number in range(CONFIGURATIONS)])
        for way in WAYS
    }
    for number, changes in enumerate(drawn):
        values = " ".join(f"{values[number]:.4f}" for values in scores.values())
        say(f"  {number:2} {values}  {changes}")
    truth = (scores["long"] + scores["long again"]) / 2
    for way, (item, _) in WAYS.items():
        others = [other for other in ("long", "long again") if other != way]
        against = others if item else others[:1]
        rank = np.mean([spearmanr(scores[way], scores[other]).statistic for other in against])
        below = 100 * (truth.max() - truth[scores[way].argmax()])
        say(f"{way}: rank correlation {rank:.3f}; its pick is {below:.2f} points below the best")


# -- recipe


def find_recipe(prepared: Path, folder: Path, place: Path, minutes: float) -> dict[str, Any]:
    """Return the settings that a search from the baseline's recipe changes; kept in `place`."""
    kept = place / "recipe.json"
    if not kept.is_file():
        data = load_prepared(prepared)
        search = Search(
            config=with_settings(Config(), PRESETS["baseline"] | {"model.backbone": BACKBONE}),
            weights=find_weights(folder, BACKBONE),
            folder=place,
            data={"splits": data.fingerprint},
            backend=keras.config.backend(),
            side=data.training.images.shape[1],
            slot=Slot(time.time(), time.time() + 60 * minutes),
        )
        write_json(kept, search_backbone(search, data.training, place / "features"))
    return dict(read_json(kept))


def compare_recipes(
    prepared: Path, folder: Path, place: Path, minutes: float, training_minutes: float
) -> None:
    """Print the accuracies on the test after trainings of equal length, one after the other."""
    found = find_recipe(prepared, folder, place, minutes)
    say(f"found from the baseline's recipe: {found}")
    data, weights = load_prepared(prepared), find_weights(folder, BACKBONE)
    recipes = {"baseline": PRESETS["baseline"], "found": PRESETS["baseline"] | found, "default": {}}
    seconds = 60 * training_minutes
    for name, changes in recipes.items():
        config = with_settings(Config(), changes | {"model.backbone": BACKBONE})
        slot = Slot(time.time(), time.time() + seconds)
        run = train_run(config, data, weights, place / name, TrainingTime(slot, slot.end, seconds))
        evaluate_run(config, data, run)
        values = collect_values(read_metrics(run)["test"], METRICS["accuracy"])
        say(f"{name}: {', '.join(f'{key} {value:.4f}' for key, value in values.items())}")


def main() -> None:
    """Print what is asked for, or all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--training", type=float, default=20.0)
    asked = parser.parse_args()
    parts: dict[str, Callable[[Path, Path, Path], None]] = {
        "speed": compare_speed,
        "memory": compare_memory,
        "ranks": compare_ranks,
        "recipe": partial(compare_recipes, minutes=asked.minutes, training_minutes=asked.training),
    }
    asked.place.mkdir(parents=True, exist_ok=True)
    for name in asked.parts or parts:
        parts[name](asked.prepared, asked.weights, asked.place)


if __name__ == "__main__":
    main()
