"""Recipes on the same splits, with several seeds.

python -m benchmarks.recipe PREPARED WEIGHTS PLACE [RECIPE ...] [--seeds 0 1 2] [--backbone NAME]

PREPARED is a data/<name>/prepared that the command line left, WEIGHTS a folder with ImageNet
weights, PLACE a folder that keeps all runs, so that a call goes on where it was killed. A RECIPE
names what it changes: presets, settings as KEY=VALUE, or both, joined by commas; `default` changes
nothing. Each is trained with each seed on one core. Printed are the selection score and the
accuracies on the test: the mean and the standard deviation over the seeds, and the 95 % interval of
the difference from the first recipe, paired over the images and averaged over the seeds.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search import find_weights
from competition.common.files import read_arrays
from competition.common.parallel import Workers, count_cores
from competition.config import PRESETS, Config, with_settings
from competition.data.arrays import load_prepared
from competition.distortion.profiles import selected_versions
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.metrics import ACCURACIES
from competition.paths import name_predictions
from competition.training.runs import train_run

DRAWS = 2000  # of the bootstrap


def read_recipe(text: str) -> dict[str, Any]:
    """Return the changes of settings that a RECIPE names."""
    changes: dict[str, Any] = {}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        changes |= {key: value} if separator else {} if key == "default" else PRESETS[key]
    return changes


def answer(
    prepared: Path, folder: Path, runs: Path, backbone: str, changes: dict[str, Any], seed: int
) -> dict[str, np.ndarray]:
    """Train and score a recipe, unless that was done; return which images are right (n,), by name.

    The names: `selection`, of the validation images as often as versions select, and ACCURACIES.
    """
    data, weights = load_prepared(prepared), find_weights(folder, backbone)
    config = with_settings(Config(), changes | {"model.backbone": backbone, "seed": seed})
    run = train_run(config, data, weights, runs, None)
    evaluate_run(config, data, run)
    labels = {"validation": data.validation.labels, "test": data.test.labels}
    stored = {
        split: read_arrays(run / name_predictions(split), {"labels": labels[split].shape})
        for split in labels
    }

    def is_right(split: str, version: str, views: str) -> np.ndarray:
        known = stored[split][version]
        mean = known[0] if views == "plain" else known.mean(axis=0)
        return np.asarray(mean.argmax(axis=1) == labels[split])

    select_by = selected_versions(config.training.select_by)
    selection = [is_right("validation", version, "plain") for version in select_by]
    tested = {name: is_right("test", *where) for name, where in ACCURACIES.items()}
    return {"selection": np.concatenate(selection), **tested}


def describe(right: np.ndarray) -> str:
    """Return mean and standard deviation over the seeds of the accuracy of answers (seeds, n)."""
    accuracies = 100 * right.mean(axis=1)
    deviation = f" +- {accuracies.std(ddof=1):.2f}" if len(accuracies) > 1 else ""
    return f"{accuracies.mean():.2f}{deviation}"


def compare(right: np.ndarray, first: np.ndarray) -> str:
    """Return the interval of the gain of answers (seeds, n) over the first recipe's."""
    gains = 100 * (right.mean(axis=0) - first.mean(axis=0))
    drawn = np.random.default_rng(0).integers(len(gains), size=(DRAWS, len(gains)))
    low, high = np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975])
    return f"{low:+.1f} to {high:+.1f}"


def main() -> None:
    """Print the accuracies of each recipe, side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("prepared", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("recipes", nargs="*", default=["default"], metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="mobilenetv3large")
    asked = parser.parse_args()
    places = asked.prepared.resolve(), asked.weights.resolve(), asked.place.resolve()
    tasks = {
        f"{recipe}, seed {seed}": partial(answer, *places, asked.backbone, changes, seed)
        for recipe, changes in {text: read_recipe(text) for text in asked.recipes}.items()
        for seed in asked.seeds
    }
    with Workers(min(count_cores(), len(tasks))) as workers:
        right = dict(workers.run_all(tasks))
    answers = {
        recipe: [right[f"{recipe}, seed {seed}"] for seed in asked.seeds]
        for recipe in asked.recipes
    }
    for recipe, known in answers.items():
        print(recipe)
        for name in known[0]:
            own, first = (
                np.stack([values[name] for values in some])
                for some in (known, answers[asked.recipes[0]])
            )
            beside = "" if recipe == asked.recipes[0] else f"  {compare(own, first)}"
            print(f"  {name:14} {describe(own)}{beside}")


if __name__ == "__main__":
    main()
