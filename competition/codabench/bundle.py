"""The whole competition as a bundle that a teacher uploads to Codabench.

competition.yaml follows version 2 of the competition definition
(https://docs.codabench.org/latest/Organizers/Benchmark_Creation/Yaml-Structure/) and is written as JSON, which is YAML.
"""

import datetime
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from competition.codabench import sample_model
from competition.codabench.dry_run import Reference, write_program, write_reference
from competition.common.console import timed
from competition.common.files import replacing
from competition.config import CodabenchConfig, Config
from competition.data.arrays import PreparedData, ScoredSet
from competition.distortion.profiles import PROFILE

PAGES = Path(__file__).parent / "pages"
# The leaderboard's columns: keys of scores.json, titles, and which way is better.
COLUMNS = (
    ("accuracy", "Accuracy", "desc"),
    ("f1_macro", "F1 (macro)", "desc"),
    ("f1_weighted", "F1 (weighted)", "desc"),
    ("duration", "Duration (s)", "asc"),
)


def write_bundle(path: Path, prepared: PreparedData, config: Config) -> Path:
    """Write the competition's bundle: a phase on the distorted validation pictures, and a last one on the test split.

    The training split is public data; pages, starting kit, both programs, input and reference data lie beside
    competition.yaml.
    """
    with tempfile.TemporaryDirectory(prefix="bundle_") as place, timed(f"{path.name} is written"):
        root = Path(place)
        _write_pages(root / "pages", prepared, config)
        for kind in ("ingestion", "scoring"):
            write_program(kind, root / f"{kind}_program")
        for scored in (prepared.validation, prepared.test):
            _write_data(root / scored.name, scored, prepared.class_names)
        _write_public_data(root / "public_data", prepared)
        write_starting_kit(
            root / "starting_kit", prepared.training.images, prepared.training.labels
        )
        _draw_logo(root / "logo.png", prepared)
        definition = json.dumps(define(config), indent=2)
        (root / "competition.yaml").write_text(definition + "\n", encoding="utf-8")
        with replacing(path) as temporary:
            zip_folder(root, temporary)
    return path


def plan_phases(config: Config) -> list[dict[str, Any]]:
    """Return the two phases, one after the other."""
    settings = config.codabench
    start = settings.opening_day()
    days = [start + datetime.timedelta(days=settings.days * number) for number in range(3)]
    return [
        {
            "index": index,
            "name": name,
            "description": description,
            "start": f"{days[index]} 00:00:00",
            "end": f"{days[index + 1]} 00:00:00",
            "max_submissions_per_day": settings.submissions_per_day,
            "execution_time_limit": round(config.limits.seconds),
            "starting_kit": "starting_kit",
            "public_data": "public_data",
            "tasks": [index],
        }
        for index, (name, description) in enumerate(
            (
                ("Development", "Try as often as the limit allows."),
                ("Final", "Other pictures; this phase decides."),
            )
        )
    ]


def define(config: Config) -> dict[str, Any]:
    """Return the content of competition.yaml."""
    settings: CodabenchConfig = config.codabench
    return {
        "version": 2,
        "title": settings.title,
        "description": "Label pictures of blood cells, and stay right when the pictures are distorted.",
        "image": "logo.png",
        "terms": "pages/terms.md",
        "docker_image": settings.docker_image,
        "registration_auto_approve": False,
        "enable_detailed_results": True,
        "make_programs_available": True,
        "make_input_data_available": False,
        "pages": [
            {"title": name.title(), "file": f"pages/{name}.md"}
            for name in ("overview", "data", "evaluation")
        ],
        "phases": plan_phases(config),
        "tasks": [_define_task(index, part) for index, part in enumerate(("validation", "test"))],
        "solutions": [{"index": 0, "path": "starting_kit/sample_submission.zip", "tasks": [0, 1]}],
        "leaderboards": [
            {
                "title": "Results",
                "key": "main",
                "submission_rule": "Force_Best",
                "columns": [
                    {"title": title, "key": key, "index": index, "sorting": sorting, "precision": 4}
                    for index, (key, title, sorting) in enumerate(COLUMNS)
                ],
            }
        ],
    }


def _define_task(index: int, part: str) -> dict[str, Any]:
    return {
        "index": index,
        "name": f"Blood cells, {part}",
        "description": f"The distorted pictures of the {part} split.",
        "input_data": f"{part}/input_data",
        "reference_data": f"{part}/reference_data",
        "ingestion_program": "ingestion_program",
        "scoring_program": "scoring_program",
    }


def _write_pages(folder: Path, prepared: PreparedData, config: Config) -> None:
    folder.mkdir()
    count, height, width = prepared.training.images.shape[:3]
    facts = {
        "title": config.codabench.title,
        "docker_image": config.codabench.docker_image,
        "submissions_per_day": config.codabench.submissions_per_day,
        "seconds": round(config.limits.seconds),
        "zip_megabytes": round(config.limits.zip_megabytes),
        "num_classes": len(prepared.class_names),
        "classes": ", ".join(f"{label} {name}" for label, name in enumerate(prepared.class_names)),
        "training": count,
        "validation": len(prepared.validation.labels),
        "test": len(prepared.test.labels),
        "height": height,
        "width": width,
    }
    for page in sorted(PAGES.glob("*.md")):
        (folder / page.name).write_text(
            page.read_text(encoding="utf-8").format(**facts), encoding="utf-8"
        )


def _write_data(folder: Path, scored: ScoredSet, class_names: tuple[str, ...]) -> None:
    """Write what a task's programs read: the pictures, and apart from them the labels."""
    (folder / "input_data").mkdir(parents=True)
    np.save(folder / "input_data" / "images.npy", scored.versions[PROFILE])
    write_reference(folder / "reference_data", Reference(scored.labels, class_names))


def _write_public_data(folder: Path, prepared: PreparedData) -> None:
    folder.mkdir()
    np.savez(
        folder / "training_set.npz",
        images=prepared.training.images,
        labels=prepared.training.labels,
    )


def write_starting_kit(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write a submission that runs, packed and unpacked, and both programs; images (n, h, w, 3), labels (n,)."""
    sample = folder / "sample_submission"
    sample.mkdir(parents=True)
    (sample / "model.py").write_bytes(Path(sample_model.__file__).read_bytes())
    colours = images.mean(axis=(1, 2))
    np.save(
        sample / "means.npy",
        np.stack([colours[labels == label].mean(axis=0) for label in np.unique(labels)]),
    )
    zip_folder(sample, folder / "sample_submission.zip")
    for kind in ("ingestion", "scoring"):
        write_program(kind, folder / f"{kind}_program")


def _draw_logo(path: Path, prepared: PreparedData) -> None:
    """Draw the first training pictures of four classes side by side."""
    images, labels = prepared.training.images, prepared.training.labels
    firsts = [images[np.flatnonzero(labels == label)[0]] for label in np.unique(labels)[:4]]
    Image.fromarray(np.concatenate(firsts, axis=1)).save(path)


def zip_folder(folder: Path, path: Path) -> None:
    """Zip the content of a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                file = Path(place) / name
                archive.write(file, file.relative_to(folder))
