"""Trials of the search against the plain way.

python -m benchmarks.search PREPARED WEIGHTS PLACE [PART ...]

PREPARED is a data/<name>/prepared that the command line left, WEIGHTS a folder with ImageNet
weights, PLACE a folder that keeps scores and features, so that a run goes on where it was killed.
The plain way trains the whole network on images for every trial, with as many epochs. About two
hours on two cores; ratios are of one run.

speed: seconds of a plain trial on all images and of the trials of each round, and how many times as
many an hour that makes; expect at least 50 for heads and 5 for others.
memory: of a process after 10 and after 100 trials of a head, of both stages and from random
weights, on few images and with few epochs; expect 5 % more at most.
truth: the same configurations, drawn from the search's space, by the plain way with two seeds, and
by the search's way: trials on a quarter of the images, from random weights at half the size.
Rank correlations, and how far the pick of each way is below the best.
"""

import sys
import time
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
from competition.config import Config, with_settings
from competition.data.arrays import TrainingData, load_prepared
from competition.networks.weights import RANDOM, Weights, resolve_weights
from competition.search.features import cache_features
from competition.search.rounds import (
    EVERYTHING,
    FINE_TUNING_SPACE,
    FROM_RANDOM,
    HEAD_SPACE,
    PRETRAINED,
    REDUCTION,
    Round,
    Space,
)
from competition.search.study import suggest
from competition.search.trial import TrialTrainer, ignore_epoch

HEAD, FINE_TUNING, FINAL = PRETRAINED
SCRATCH = FROM_RANDOM[0]
# Rounds of a backbone, and how often a trial of each is timed.
SPEED = {
    "mobilenetv3large": ((HEAD, 5), (FINE_TUNING, 2), (FINAL, 1)),
    "custom_cnn": ((SCRATCH, 2), (FROM_RANDOM[1], 1)),
}
MEMORY = {"mobilenetv3small": (HEAD, FINE_TUNING), "custom_cnn": (SCRATCH,)}
MEMORY_TRIALS = 100
MEMORY_IMAGES = 64
CONFIGURATIONS = 20  # of `truth`
TRUTH_IMAGES = 1000
TRUTH = {"mobilenetv3small": (FINE_TUNING, EVERYTHING), "custom_cnn": (SCRATCH, HEAD_SPACE)}


def find_weights(folder: Path, backbone: str) -> Weights:
    """Return the ImageNet weights, but for the backbone that has none."""
    if backbone == "custom_cnn":
        return RANDOM
    return resolve_weights(str(folder), backbone, folder)


def configure(backbone: str, side: int, item: Round) -> Config:
    """Return the settings of a trial of a round."""
    changes = {"model.backbone": backbone} | item.settings(Config().search, side)
    return with_settings(Config(), changes)


def make_trainer(
    data: TrainingData, weights: Weights, config: Config, folder: Path | None
) -> TrialTrainer:
    """Return what trains on `data`: on features kept in `folder`, or on images as the plain way."""
    if folder is None or not weights.is_pretrained:
        return TrialTrainer(data, weights, None)
    shares = FINE_TUNING_SPACE["training.unfreeze"]
    return TrialTrainer(data, weights, cache_features(config, data, weights, shares, folder))


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
        trainer = make_trainer(few, weights, config, place / f"speed_{backbone}_{item.name}")
        train = trainer.train if item.fine_tuning else trainer.train_head
        times = [
            _time(partial(train, replace(config, seed=s), ignore_epoch)) for s in range(repeats)
        ]
        seconds[item.name] = min(times)
        say(f"{backbone}, {item.name}: {len(few.labels)} images take {seconds[item.name]:.1f} s")
    config = with_settings(configure(backbone, side, rounds[-1][0]), {"training.limit": 0})
    trainer = make_trainer(data, weights, config, None)
    seconds["plain"] = _time(partial(trainer.train, config, ignore_epoch))
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
    few = {"training.frozen_epochs": 1, "training.fine_tuning_epochs": int(item.fine_tuning > 0)}
    config = with_settings(configure(backbone, data.images.shape[1], item), few)
    trainer = make_trainer(data, weights, config, place / f"memory_{backbone}")
    train = trainer.train if item.fine_tuning else trainer.train_head
    sizes = []
    for changes in draw_configurations(EVERYTHING, MEMORY_TRIALS):
        train(with_settings(config, changes), ignore_epoch)
        keras.utils.clear_session(free_memory=True)
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    return sizes


# -- truth


def draw_configurations(space: Space, count: int) -> list[dict[str, Any]]:
    """Return configurations drawn evenly from `space`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), space) for _ in range(count)]


def score(
    prepared: Path,
    folder: Path,
    place: Path,
    backbone: str,
    plain: bool,
    seed: int,
    changes: dict[str, Any],
) -> float:
    """Return the score of a configuration on some of the images; kept in `place`."""
    kept = place / f"{digest(backbone, plain, seed, changes)}.json"
    if not kept.is_file():
        whole = load_prepared(prepared).training
        some = whole.limited(TRUTH_IMAGES, 0)
        data = some.validated_on_one_in(len(whole.labels) // TRUTH_IMAGES)
        weights = find_weights(folder, backbone)
        item = TRUTH[backbone][0]
        config = configure(backbone, data.images.shape[1], item)
        if plain:
            config = with_settings(config, {"model.input_size": 0})
        few = data if plain else data.for_trial(TRUTH_IMAGES // REDUCTION, 0)
        features = None if plain else place / f"truth_{backbone}"
        trainer = make_trainer(few, weights, config, features)
        config = with_settings(config, changes | {"seed": seed, "training.limit": 0})
        write_json(kept, trainer.train(config, ignore_epoch).score)
    return float(read_json(kept))


def compare_truth(prepared: Path, folder: Path, place: Path) -> None:
    """Print each configuration's scores by the ways, and how far they agree, per backbone."""
    ways = {"plain": (True, 0), "plain again": (True, 1), "trials": (False, 2)}
    for backbone, (_, space) in TRUTH.items():
        drawn = draw_configurations(space, CONFIGURATIONS)
        scores = {}
        for way, (plain, seed) in ways.items():
            run = partial(score, prepared, folder, place, backbone, plain, seed)
            tasks = {str(number): partial(run, changes) for number, changes in enumerate(drawn)}
            with Workers(2) as workers:
                found = dict(workers.run_all(tasks))
            scores[way] = np.array([found[str(number)] for number in range(CONFIGURATIONS)])
        truth = (scores["plain"] + scores["plain again"]) / 2
        for number, changes in enumerate(drawn):
            values = " ".join(f"{values[number]:.4f}" for values in scores.values())
            say(f"  {number:2} {values}  {changes}")
        for way in ("plain again", "trials"):
            against = [scores["plain"]] if way == "plain again" else [scores["plain"], truth]
            rank = float(np.mean([spearmanr(one, scores[way]).statistic for one in against]))
            below = 100 * (truth.max() - truth[scores[way].argmax()])
            say(f"{backbone}, {way}: rank correlation {rank:.3f}; pick {below:.2f} points below")


PARTS = {"speed": compare_speed, "memory": compare_memory, "truth": compare_truth}


def main() -> None:
    """Print what is asked for, or all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prepared, folder, place = map(Path, sys.argv[1:4])
    place.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[4:] or PARTS:
        PARTS[name](prepared, folder, place)


if __name__ == "__main__":
    main()
