"""Precision and recall of cleaning on planted faults, beside cleanvision, imagededup and cleanlab.

    python -m benchmarks.cleaning [--data training_set.npz] [--weights DIR] [--images N] [--seed S]
                                  [--peers] [--labels] [--json FILE] [--enlarge N]

Plants into drawn cells and, with --data, into the real images that look clean: those that a first
pass keeps and does not flag, except as the first of copies. Faults that this pass overlooks count
against every tool; images that it flags count for none. Wrong labels, any and of look-alike
classes, are also planted alone; cleanlab judges them by our probabilities. --labels measures these
alone. --peers needs requirements-benchmarks.txt.
--enlarge prints instead what cleaning costs in time and memory for the --data as they are, and
enlarged to N images.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.enlarging import print_growth
from benchmarks.planting import (
    COPIES,
    NON_CELLS,
    SPOILED,
    UNRELATED,
    WRONG_LABELS,
    Planted,
    count_confusions,
    plant,
    plant_wrong_labels,
)
from competition import paths
from competition.cleaning.clean import clean
from competition.cleaning.embedding import embed, take_components
from competition.cleaning.wrong_labels import describe, find_wrong_labels, predict_labels
from competition.config import Config, DataConfig, with_settings
from competition.data.arrays import Dataset
from competition.data.dataset import load_dataset
from competition.demo.make import draw_cells
from competition.demo.smear import CLASSES, Smear
from competition.networks.weights import find_weights

TOOLS = ("ours", "cleanvision", "imagededup")
# Flags of each tool that count as finding a fault; a tool without an entry does not cover it.
FLAGS: dict[str, dict[str, set[str]]] = {
    "ours": {
        "blank": {"blank"},
        "broken": {"broken"},
        "noise": {"noise"},
        "low information": {"low_information", "odd_brightness", "blank"},
        "brightness": {"odd_brightness", "low_information", "blank"},
        NON_CELLS: {"non_cell"},
        UNRELATED: {"non_cell", "odd_image", "odd_brightness"},
        WRONG_LABELS: {"wrong_label"},
    },
    "cleanvision": {
        "blank": {"low_information"},
        "low information": {"low_information", "blurry"},
        "brightness": {"dark", "light", "low_information"},
    },
    "imagededup": {},
}
COPY_ISSUES = {
    "exact copy": {"exact_copy", "conflicting_copy"},
    "near copy": {"near_copy", "conflicting_copy"},
}
# Faults of the image itself; a flag on one of these for another reason is neither right nor wrong.
SPOILED_KINDS = [*SPOILED, NON_CELLS, UNRELATED]


@dataclass(frozen=True)
class Findings:
    """What a tool found.

    flags: indices by kind of issue. partners: of `exact` and `near` copies, the others of its group
    by index.
    """

    flags: dict[str, set[int]]
    partners: dict[str, dict[int, set[int]]]
    seconds: float


@dataclass(frozen=True)
class Score:
    """Shares, or None where nothing was flagged or planted."""

    precision: float | None
    recall: float | None


def clean_by_ours(
    dataset: Dataset, config: Config, weights: Path | None
) -> tuple[Findings, np.ndarray]:
    """Run the whole cleaning stage; also returns the mask of the images that it keeps (n,)."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        keep = clean(dataset, Path(folder), config, weights).keep
        with (Path(folder) / paths.ISSUES).open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    seconds = time.perf_counter() - started
    flags: dict[str, set[int]] = {}
    for row in rows:
        flags.setdefault(row["kind"], set()).add(int(row["index"]))
    partners: dict[str, dict[int, set[int]]] = {}
    for kind, names in COPY_ISSUES.items():
        groups: dict[str, set[int]] = {}
        for row in rows:
            if row["kind"] in names:
                groups.setdefault(row["group"], set()).add(int(row["index"]))
        partners[kind.split()[0]] = {
            one: group - {one} for group in groups.values() for one in group
        }
    return Findings(flags, partners, seconds), keep


def run_peers(images: np.ndarray) -> dict[str, Findings | None]:
    """Write the images as PNG and run the peers on them, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "images"
        result = Path(folder) / "result.json"
        files.mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(files / f"{index}.png")
        command = [sys.executable, "-m", "benchmarks.peers", str(files), str(result)]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        content = json.loads(result.read_text("utf-8"))
    return {name: found and _parse(found) for name, found in content.items()}


def score_flags(planted: Planted, flagged: set[int], kind: str) -> Score:
    """Score the flags for a kind of fault, or for all that are called `kind: ...`."""
    mine = set(np.flatnonzero(_is_of(planted, kind)).tolist())
    spoiled = set(np.flatnonzero(np.isin(planted.kinds, SPOILED_KINDS)).tolist())
    hits = flagged & mine
    wrong = flagged - mine - spoiled
    return Score(_share(len(hits), len(hits) + len(wrong)), _share(len(hits), len(mine)))


def score_copies(planted: Planted, partners: dict[int, set[int]], kind: str) -> Score:
    """Score partners.

    A copy is found if its original is among its partners. An image is right if one of its partners
    is true. Images of a planted pair of another kind of copy, and spoiled ones, count for neither.
    """
    groups = np.array([name.split(":")[0] for name in planted.kinds.tolist()])
    copies = np.flatnonzero(_is_of(planted, kind))
    pairs = {(int(copy), int(planted.copy_of[copy])) for copy in copies}
    pairs |= {(original, copy) for copy, original in pairs}
    mine = {one for one, _ in pairs}
    others = np.flatnonzero((planted.copy_of >= 0) & (groups != kind.split(":")[0]))
    spared = {*others.tolist(), *planted.copy_of[others].tolist()}
    spared |= set(np.flatnonzero(np.isin(planted.kinds, SPOILED_KINDS)).tolist())
    found = {one for one, other in pairs if other in partners.get(one, set())}
    right = len(found & mine)
    wrong = set(partners) - spared - found
    recalled = len(found & set(copies.tolist()))
    return Score(_share(right, right + len(wrong)), _share(recalled, len(copies)))


def score(planted: Planted, findings: Findings, tool: str, kind: str) -> Score | None:
    """Return the score of a tool for a kind, None where the tool does not cover it."""
    group = kind.split(":")[0]
    if group in COPY_ISSUES:
        partners = findings.partners.get(group.split()[0])
        result = None if partners is None else score_copies(planted, partners, kind)
    else:
        names = FLAGS[tool].get(group)
        flagged = set[int]().union(*(findings.flags.get(name, set()) for name in names or ()))
        result = score_flags(planted, flagged, kind) if names else None
    return Score(None, result.recall) if result and ":" in kind else result


def measure(
    name: str, dataset: Dataset, arguments: argparse.Namespace, weights: Path | None
) -> dict[str, Any]:
    """Plant into a dataset, run the tools, print a table, and return it."""
    generator = np.random.default_rng(arguments.seed)
    planted = plant(dataset.images, dataset.labels, len(dataset.class_names), generator)
    spoiled = Dataset(planted.images, planted.labels, dataset.class_names)
    config = with_settings(Config(), {"seed": arguments.seed})
    findings: dict[str, Findings | None] = dict.fromkeys(TOOLS)
    findings["ours"], keep = clean_by_ours(spoiled, config, weights)
    if arguments.peers:
        findings |= run_peers(planted.images)
    # Each group of faults, followed by its members.
    names = [part for kind in [*COPIES, *SPOILED] for part in (kind.split(":")[0], kind)]
    scores = {
        kind: {
            tool: score(planted, found, tool, kind) if found else None
            for tool, found in findings.items()
        }
        for kind in dict.fromkeys([*names, NON_CELLS, UNRELATED, WRONG_LABELS])
    }
    is_sound = planted.kinds == "cell"
    is_original = np.isin(np.arange(len(keep)), planted.copy_of)
    lost = int((~keep & is_sound & ~is_original).sum())
    _print_table(f"{name}, {len(keep)} images, seed {arguments.seed}", planted, scores, findings)
    print(f"sound cells dropped by ours, for whatever reason: {lost} of {is_sound.sum()}")
    return {
        "images": len(keep),
        "scores": {
            kind: {tool: each and vars(each) for tool, each in row.items()}
            for kind, row in scores.items()
        },
        "seconds": {tool: found and found.seconds for tool, found in findings.items()},
        "cells_lost": lost,
    }


def measure_wrong_labels(
    name: str, dataset: Dataset, arguments: argparse.Namespace, weights: Path | None
) -> dict[str, Any]:
    """Plant wrong labels alone, print a table of the scores by kind and tool, and return it."""
    settings = Config().cleaning
    seed = arguments.seed
    features, textures = embed(dataset.images, settings.backbone, weights, seed)
    views = [describe(dataset.images), take_components(features, seed)]
    if textures is not None:
        views.append(textures)
    likeness = count_confusions(views[0], dataset.labels)
    results = {}
    for kind, confusions in {"any": np.zeros_like(likeness), "look-alike": likeness}.items():
        generator = np.random.default_rng(seed)
        labels, planted = plant_wrong_labels(dataset.labels, confusions, generator)
        found = find_wrong_labels(views, labels, settings, seed)
        flagged = {
            "flagged": {wrong.index for wrong in found},
            "surely": {wrong.index for wrong in found if wrong.sure},
        }
        if arguments.peers:
            from cleanlab.filter import find_label_issues

            by_ours = predict_labels(views, labels, settings, seed)
            flagged["cleanlab"] = {*np.flatnonzero(find_label_issues(labels, by_ours)).tolist()}
        hits = {tool: len(indices & {*planted.tolist()}) for tool, indices in flagged.items()}
        results[kind] = {
            tool: Score(_share(hits[tool], len(indices)), _share(hits[tool], len(planted)))
            for tool, indices in flagged.items()
        }
    print(f"\n{name}, wrong labels alone, seed {seed}; precision / recall in percent")
    for kind, scores in results.items():
        for tool, each in scores.items():
            print(f"{kind:12}{tool:10}{len(planted):>8}{_format(each):>16}")
    return {kind: {tool: vars(s) for tool, s in row.items()} for kind, row in results.items()}


def main() -> None:
    """Measure on drawn cells and, where there is a file of them, on real ones."""
    arguments = _parse_arguments()
    config = with_settings(Config(), {"seed": arguments.seed})
    setting = str(arguments.weights or "none")
    weights = find_weights(setting, config.cleaning.backbone, Path())
    if arguments.enlarge:
        dataset = load_dataset(arguments.data, DataConfig())
        return print_growth(dataset, arguments.enlarge, config, weights)
    generator = np.random.default_rng(arguments.seed)
    images, labels = draw_cells(Smear(generator), arguments.images or 3000, "drawing cells")
    drawn = Dataset(images, labels.astype(np.int64), tuple(kind.name for kind in CLASSES))
    datasets = {"drawn cells": drawn}
    if arguments.data is None:
        print("Real images: skipped, since no --data is given.")
    else:
        dataset = load_dataset(arguments.data, DataConfig())
        found, keep = clean_by_ours(dataset, config, weights)
        flagged = [[*indices] for kind, indices in found.flags.items() if "copy" not in kind]
        kept = np.setdiff1d(np.flatnonzero(keep), np.concatenate([np.empty(0, int), *flagged]))
        kept = np.sort(generator.permutation(kept)[: arguments.images or None])
        dataset = Dataset(dataset.images[kept], dataset.labels[kept], dataset.class_names)
        datasets["real images"] = dataset
    results = {
        name: {} if arguments.labels else measure(name, dataset, arguments, weights)
        for name, dataset in datasets.items()
    }
    for name, dataset in datasets.items():
        results[name]["wrong labels"] = measure_wrong_labels(name, dataset, arguments, weights)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="training file of real images; without it they are skipped")
    add("--weights", type=Path, help="folder or file of ImageNet weights; without it, pixels")
    add("--images", type=int, default=3000, help="per set (0: all real ones)")
    add("--seed", type=int, default=0)
    add("--peers", action="store_true", help="also run cleanvision, imagededup and cleanlab")
    add("--labels", action="store_true", help="measure wrong labels alone")
    add("--json", type=Path, help="write the numbers to this file")
    add("--enlarge", type=int, metavar="N", help="measure the cost of N images made from --data")
    arguments = parser.parse_args()
    if arguments.enlarge and arguments.data is None:
        parser.error("--enlarge needs --data")
    return arguments


def _is_of(planted: Planted, kind: str) -> np.ndarray:
    """Return the mask (n,) of the images with a fault of that name, or called `kind: ...`."""
    return np.array([kind in (name, name.split(":")[0]) for name in planted.kinds.tolist()])


def _parse(found: dict[str, Any]) -> Findings:
    flags = {name: set(indices) for name, indices in found["flags"].items()}
    partners = {
        name: {int(one): set(others) for one, others in table.items()}
        for name, table in found["partners"].items()
    }
    return Findings(flags, partners, found["seconds"])


def _print_table(
    title: str,
    planted: Planted,
    scores: dict[str, dict[str, Score | None]],
    findings: dict[str, Findings | None],
) -> None:
    def print_row(*cells: object) -> None:
        print(f"{cells[0]:26}{cells[1]:>8}" + "".join(f"{cell:>16}" for cell in cells[2:]))

    print(f"\n{title}; precision / recall in percent")
    print_row("", "planted", *TOOLS)
    for kind, row in scores.items():
        cells = [_format(row[tool]) if findings[tool] else "not installed" for tool in TOOLS]
        print_row(kind, int(_is_of(planted, kind).sum()), *cells)
    print_row(
        "seconds", "", *(f"{found.seconds:.0f}" if found else "-" for found in findings.values())
    )


def _format(result: Score | None) -> str:
    if result is None:
        return "-"
    shares = (result.precision, result.recall)
    return " / ".join("  -  " if share is None else f"{100 * share:5.1f}" for share in shares)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


if __name__ == "__main__":
    main()
