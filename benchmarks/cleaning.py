"""Precision and recall of cleaning on planted faults, beside cleanvision and imagededup on the same pictures.

    python -m benchmarks.cleaning [--data training_set.npz] [--weights DIR] [--pictures N] [--seed S]
                                  [--peers] [--json FILE] [--enlarge N]

Plants into drawn cells and, with --data, into the real pictures that look clean: those that a first pass keeps and does
not flag, but as the first of copies. What that pass overlooks counts against every tool; what it flagged rightly or
wrongly counts for none. --peers needs requirements-benchmarks.txt. --enlarge prints instead what
cleaning costs in time and memory for the --data as they are, and enlarged to N pictures.
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
from benchmarks.planting import COPIES, NON_CELLS, SPOILED, UNRELATED, WRONG_LABELS, Planted, plant
from competition.cleaning.clean import clean
from competition.config import Config, DataConfig, with_settings
from competition.data.arrays import Dataset
from competition.data.dataset import load_dataset
from competition.demo.make import draw_cells
from competition.demo.smear import CLASSES, Smear
from competition.networks.weights import find_weights

TOOLS = ("ours", "cleanvision", "imagededup")
# What counts as finding a kind, for each tool; a tool that has nothing for it does not cover it.
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
# Faults of the picture itself, which to flag for another reason is neither right nor wrong.
SPOILED_KINDS = [*SPOILED, NON_CELLS, UNRELATED]


@dataclass(frozen=True)
class Findings:
    """What a tool found: flags, kind of issue to indices; partners, `exact` and `near` to each copy's other ones."""

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
    """Run the whole cleaning stage; also returns the mask of what it keeps (n,)."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        keep = clean(dataset, Path(folder), config, weights).keep
        with (Path(folder) / "issues.csv").open(encoding="utf-8") as stream:
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
    """Write the pictures as PNG and let the peers loose on them, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, result = Path(folder) / "pictures", Path(folder) / "result.json"
        pictures.mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(pictures / f"{index}.png")
        command = [sys.executable, "-m", "benchmarks.peers", str(pictures), str(result)]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return {
            name: found and _parse(found)
            for name, found in json.loads(result.read_text("utf-8")).items()
        }


def score_flags(planted: Planted, flagged: set[int], kind: str) -> Score:
    """Score what was flagged for a kind of fault, or for all that are called `kind: ...`."""
    mine = np.flatnonzero(
        [name.split(":")[0] == kind or name == kind for name in planted.kinds.tolist()]
    )
    hits = flagged & set(mine.tolist())
    others = (
        flagged
        - set(mine.tolist())
        - set(np.flatnonzero(np.isin(planted.kinds, SPOILED_KINDS)).tolist())
    )
    return Score(_share(len(hits), len(hits) + len(others)), _share(len(hits), len(mine)))


def score_copies(planted: Planted, partners: dict[int, set[int]], kind: str) -> Score:
    """Score partners: a copy is found if its original is among them, a picture is right if one of them is true.

    Pictures that belong to a planted pair of another kind of copy are left out of precision, and spoiled ones.
    """
    kinds = np.array([name.split(":")[0] for name in planted.kinds.tolist()])
    copies = np.flatnonzero((kinds == kind) | (planted.kinds == kind))
    pairs = {(int(copy), int(planted.copy_of[copy])) for copy in copies}
    pairs |= {(original, copy) for copy, original in pairs}
    mine = {one for one, _ in pairs}
    others = np.flatnonzero((planted.copy_of >= 0) & (kinds != kind.split(":")[0]))
    spared = {*others.tolist(), *planted.copy_of[others].tolist()}
    spared |= set(np.flatnonzero(np.isin(planted.kinds, SPOILED_KINDS)).tolist())
    found = {one for one, other in pairs if other in partners.get(one, set())}
    wrong = set(partners) - spared - found
    recalled = len(found & set(copies.tolist()))
    return Score(
        _share(len(found & mine), len(found & mine) + len(wrong)), _share(recalled, len(copies))
    )


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
    """Plant into a data set, run the tools, print a table, and return it."""
    generator = np.random.default_rng(arguments.seed)
    planted = plant(dataset.images, dataset.labels, len(dataset.class_names), generator)
    spoiled = Dataset(planted.images, planted.labels, dataset.class_names)
    findings: dict[str, Findings | None] = dict.fromkeys(TOOLS)
    findings["ours"], keep = clean_by_ours(
        spoiled, with_settings(Config(), {"seed": arguments.seed}), weights
    )
    if arguments.peers:
        findings |= run_peers(planted.images)
    kinds = dict.fromkeys(
        part for kind in [*COPIES, *SPOILED] for part in (kind.split(":")[0], kind)
    )
    scores = {
        kind: {
            tool: score(planted, found, tool, kind) if found else None
            for tool, found in findings.items()
        }
        for kind in [*kinds, NON_CELLS, UNRELATED, WRONG_LABELS]
    }
    lost = int(
        (~keep & (planted.kinds == "cell") & ~np.isin(np.arange(len(keep)), planted.copy_of)).sum()
    )
    _print_table(f"{name}, {len(keep)} pictures, seed {arguments.seed}", planted, scores, findings)
    print(
        f"sound cells dropped by ours, for whatever reason: {lost} of {(planted.kinds == 'cell').sum()}"
    )
    as_numbers = {
        kind: {tool: each and vars(each) for tool, each in row.items()}
        for kind, row in scores.items()
    }
    seconds = {tool: found and found.seconds for tool, found in findings.items()}
    return {"pictures": len(keep), "scores": as_numbers, "seconds": seconds, "cells_lost": lost}


def main() -> None:
    """Measure on drawn cells and, where there is a file of them, on real ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="training file of real pictures; without it they are skipped"
    )
    parser.add_argument(
        "--weights", type=Path, help="folder or file of ImageNet weights; without it, pixels"
    )
    parser.add_argument(
        "--pictures", type=int, default=3000, help="of each set (0: as many real ones as there are)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true", help="also run cleanvision and imagededup")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument(
        "--enlarge", type=int, metavar="N", help="measure the cost of N pictures made from --data"
    )
    arguments = parser.parse_args()
    if arguments.enlarge and arguments.data is None:
        parser.error("--enlarge needs --data")
    config = with_settings(Config(), {"seed": arguments.seed})
    setting = str(arguments.weights or "none")
    weights = find_weights(setting, config.cleaning.backbone, Path())
    if arguments.enlarge:
        return print_growth(
            load_dataset(arguments.data, DataConfig()), arguments.enlarge, config, weights
        )
    generator = np.random.default_rng(arguments.seed)
    images, labels = draw_cells(Smear(generator), arguments.pictures or 3000, "drawing cells")
    names = tuple(kind.name for kind in CLASSES)
    results = {
        "demo": measure(
            "drawn cells", Dataset(images, labels.astype(np.int64), names), arguments, weights
        )
    }
    if arguments.data is None:
        print("Real pictures: skipped, since no --data is given.")
    else:
        dataset = load_dataset(arguments.data, DataConfig())
        found, keep = clean_by_ours(dataset, config, weights)
        looked_at = [
            index
            for name, indices in found.flags.items()
            if "copy" not in name
            for index in indices
        ]
        kept = np.setdiff1d(np.flatnonzero(keep), looked_at)
        kept = np.sort(generator.permutation(kept)[: arguments.pictures or None])
        dataset = Dataset(dataset.images[kept], dataset.labels[kept], dataset.class_names)
        results["real"] = measure("real pictures", dataset, arguments, weights)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _parse(found: dict[str, Any]) -> Findings:
    partners = {
        name: {int(one): set(others) for one, others in table.items()}
        for name, table in found["partners"].items()
    }
    return Findings(
        {name: set(indices) for name, indices in found["flags"].items()}, partners, found["seconds"]
    )


def _print_table(
    title: str,
    planted: Planted,
    scores: dict[str, dict[str, Score | None]],
    findings: dict[str, Findings | None],
) -> None:
    print(
        f"\n{title}; precision / recall in percent\n{'':26}{'planted':>8}"
        + "".join(f"{tool:>16}" for tool in TOOLS)
    )
    for kind, row in scores.items():
        count = sum(name == kind or name.split(":")[0] == kind for name in planted.kinds.tolist())
        cells = [
            "not installed" if findings[tool] is None else _format(row[tool]) for tool in TOOLS
        ]
        print(f"{kind:26}{count:8}" + "".join(f"{cell:>16}" for cell in cells))
    seconds = [f"{found.seconds:.0f}" if found else "-" for found in findings.values()]
    print(f"{'seconds':34}" + "".join(f"{cell:>16}" for cell in seconds))


def _format(result: Score | None) -> str:
    if result is None:
        return "-"
    shares = (
        "  -  " if share is None else f"{100 * share:5.1f}"
        for share in (result.precision, result.recall)
    )
    return " / ".join(shares)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


if __name__ == "__main__":
    main()
