"""The whole competition as a bundle that a teacher uploads to Codabench.

competition.yaml follows version 2 of the competition definition
(https://docs.codabench.org/latest/Organizers/Benchmark_Creation/Yaml-Structure/). It is written as
JSON, which is YAML.
"""

import datetime
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from competition.codabench import sample_model
from competition.codabench.dry_run import (
    PROGRAMS,
    Reference,
    write_input,
    write_program,
    write_reference,
)
from competition.common.console import headline, say, timed
from competition.common.files import replacing
from competition.config import Config
from competition.data.arrays import PreparedData, ScoredSet
from competition.distortion.profiles import PROFILE
from competition.metric import ACCURACY, Metric, get_metric

PAGES = Path(__file__).parent / "pages"
# The leaderboard's columns beside that of the metric, which is the first: keys of scores.json,
# titles, and the order of the ranking.
COLUMNS = (
    ("accuracy", "Accuracy", "desc"),
    ("f1_macro", "F1 (macro)", "desc"),
    ("f1_weighted", "F1 (weighted)", "desc"),
    ("duration", "Duration (s)", "asc"),
)
# What evaluation.md says of a submission's predictions, by whether the metric needs probabilities.
ANSWERS = {
    False: """def predict(self, X):  # X: (n, {height}, {width}, 3) uint8 in 0..255
        ...  # returns (n,) integer labels, not one-hot""",
    True: """def predict_proba(self, X):  # X: (n, {height}, {width}, 3) uint8 in 0..255
        ...  # returns (n, {num_classes}) probabilities; those of an image sum to 1""",
}


def write_bundle(path: Path, prepared: PreparedData, config: Config) -> Path:
    """Write the competition's bundle, a zip, and return its path.

    A first phase scores on the distorted validation images, a last one on those of the test split;
    the training split is public data. Pages, starting kit, both programs, input and reference data
    lie beside competition.yaml.
    """
    headline("Bundle")
    with tempfile.TemporaryDirectory(prefix="bundle_") as place, timed(f"{path.name} is written"):
        root = Path(place)
        _write_pages(root / "pages", prepared, config)
        _write_programs(root)
        for scored in (prepared.validation, prepared.test):
            metric = get_metric(config.metric)
            _write_data(root / scored.name, scored, prepared.class_names, metric)
        (root / "public_data").mkdir()
        training = prepared.training
        np.savez(
            root / "public_data" / "training_set.npz",
            images=training.images,
            labels=training.labels,
        )
        _write_starting_kit(root / "starting_kit", training.images, training.labels)
        _draw_logo(root / "logo.png", training.images, training.labels)
        definition = json.dumps(_define_competition(config), indent=2)
        (root / "competition.yaml").write_text(definition + "\n", encoding="utf-8")
        with replacing(path) as temporary:
            shutil.make_archive(str(temporary.with_suffix("")), "zip", root)
    size = path.stat().st_size / 2**20
    say(f"{path}: {size:.1f} MB; upload it on Codabench: Benchmarks > Management > Upload")
    return path


def _define_competition(config: Config) -> dict[str, Any]:
    """Return the content of competition.yaml."""
    settings = config.codabench
    return {
        "version": 2,
        "title": settings.title,
        "description": "Label images of blood cells, and stay right when the images are distorted.",
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
        "phases": [
            _define_phase(0, "Development", "Try as often as the limit allows.", config),
            _define_phase(1, "Final", "Other images; this phase decides.", config),
        ],
        "tasks": [_define_task(0, "validation"), _define_task(1, "test")],
        "solutions": [{"index": 0, "path": "starting_kit/sample_submission.zip", "tasks": [0, 1]}],
        "leaderboards": [
            {
                "title": "Results",
                "key": "main",
                "submission_rule": "Force_Best",
                "columns": [
                    {"title": title, "key": key, "index": index, "sorting": sorting, "precision": 4}
                    for index, (key, title, sorting) in enumerate(_list_columns(config))
                ],
            }
        ],
    }


def _list_columns(config: Config) -> list[tuple[str, str, str]]:
    metric = get_metric(config.metric)
    title = metric.title[0].upper() + metric.title[1:]
    first = (metric.name, title, "desc" if metric.greater_is_better else "asc")
    return [first, *(column for column in COLUMNS if column[0] != metric.name)]


def _define_phase(index: int, name: str, description: str, config: Config) -> dict[str, Any]:
    length = datetime.timedelta(days=config.codabench.days)
    start = config.codabench.opening_day() + index * length
    return {
        "index": index,
        "name": name,
        "description": description,
        "start": f"{start} 00:00:00",
        "end": f"{start + length} 00:00:00",
        "max_submissions_per_day": config.codabench.submissions_per_day,
        "execution_time_limit": round(config.limits.seconds),
        "starting_kit": "starting_kit",
        "public_data": "public_data",
        "tasks": [index],
    }


def _define_task(index: int, split: str) -> dict[str, Any]:
    return {
        "index": index,
        "name": f"Blood cells, {split}",
        "description": f"The distorted images of the {split} split.",
        "input_data": f"{split}/input_data",
        "reference_data": f"{split}/reference_data",
        "ingestion_program": "ingestion_program",
        "scoring_program": "scoring_program",
    }


def _write_pages(folder: Path, prepared: PreparedData, config: Config) -> None:
    folder.mkdir()
    count, height, width = prepared.training.images.shape[:3]
    metric = get_metric(config.metric)
    facts = {
        "metric": metric.title + ("" if metric.greater_is_better else ", less is better"),
        "others": "" if metric == ACCURACY else "accuracy, ",
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
    facts["answer"] = ANSWERS[metric.needs_probabilities].format(**facts)
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8").format(**facts)
        (folder / page.name).write_text(text, encoding="utf-8")


def _write_programs(folder: Path) -> None:
    for kind in PROGRAMS:
        write_program(kind, folder / f"{kind}_program")


def _write_data(
    folder: Path, scored: ScoredSet, class_names: tuple[str, ...], metric: Metric
) -> None:
    """Write the images that a task asks about and, apart from them, their labels."""
    write_input(folder / "input_data", scored.versions[PROFILE], metric)
    write_reference(folder / "reference_data", Reference(scored.labels, class_names, metric))


def _write_starting_kit(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write a submission that runs, packed and unpacked, and both programs."""
    sample = folder / "sample_submission"
    sample.mkdir(parents=True)
    shutil.copy(sample_model.__file__, sample / "model.py")
    colours = images.mean(axis=(1, 2))
    means = [colours[labels == label].mean(axis=0) for label in np.unique(labels)]
    np.save(sample / "means.npy", np.stack(means))
    shutil.make_archive(str(sample), "zip", sample)
    _write_programs(folder)


def _draw_logo(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Draw the first image of each of four classes side by side."""
    firsts = [images[np.flatnonzero(labels == label)[0]] for label in np.unique(labels)[:4]]
    Image.fromarray(np.concatenate(firsts, axis=1)).save(path)
