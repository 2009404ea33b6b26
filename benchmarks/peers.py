"""Findings of cleanvision and imagededup in a folder of images.

    python -m benchmarks.peers FOLDER RESULT.json

`benchmarks.cleaning` runs it in a process of its own. The result has an entry per tool, null where
it is not installed: `seconds`, `flags` (file numbers by kind of issue) and `partners` (of exact and
near copies, the numbers of the others by file number).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def run_cleanvision(folder: Path) -> dict[str, Any]:
    """Find every issue that it looks for, with its own thresholds."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    lab.find_issues(verbose=False)
    columns = [name for name in lab.issues.columns if name.startswith("is_")]
    flags = {
        name[len("is_") : -len("_issue")]: [*map(_number, lab.issues.index[lab.issues[name]])]
        for name in columns
    }
    partners: dict[str, dict[int, list[int]]] = {}
    for name in ("exact", "near"):
        groups = [
            [_number(path) for path in group] for group in lab.info[f"{name}_duplicates"]["sets"]
        ]
        partners[name] = {
            one: [other for other in group if other != one] for group in groups for one in group
        }
    return {"flags": flags, "partners": partners}


def run_imagededup(folder: Path) -> dict[str, Any]:
    """Find copies by perceptual hash: exact at distance 0, near at its recommended distance, 10.

    Its package imports torch and torchvision for a network whose weights would be downloaded. The
    hashes need neither; they are imported with empty modules in the place of that network's.
    """
    for name, member in (
        ("imagededup.methods.cnn", "CNN"),
        ("imagededup.utils.models", "CustomModel"),
    ):
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], member, None)
    from imagededup.methods import PHash

    hasher = PHash(verbose=False)
    hashes = hasher.encode_images(image_dir=str(folder))
    partners = {}
    for name, distance in (("exact", 0), ("near", 10)):
        found = hasher.find_duplicates(encoding_map=hashes, max_distance_threshold=distance)
        partners[name] = {
            _number(one): [_number(other) for other in others]
            for one, others in found.items()
            if others
        }
    return {"flags": {}, "partners": partners}


PEERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cleanvision": run_cleanvision,
    "imagededup": run_imagededup,
}


def main(folder: Path, result: Path) -> None:
    """Run each peer that is installed, and write what they find."""
    findings: dict[str, Any] = {}
    for name, run in PEERS.items():
        started = time.perf_counter()
        try:
            findings[name] = run(folder)
        except ImportError:
            findings[name] = None
        else:
            findings[name]["seconds"] = time.perf_counter() - started
    result.write_text(json.dumps(findings), encoding="utf-8")


def _number(path: str) -> int:
    return int(Path(path).stem)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
