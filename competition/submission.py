"""The submission: a flat zip of `model.py`, its settings and weights, proven to run before it is called done."""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition import submission_model
from competition.codabench.dry_run import Answers, run_ingestion
from competition.config import LimitsConfig, SubmissionConfig
from competition.files import InputError, read_json, replacing, write_json

TOLERANCE = 1e-4  # by which a probability may differ between here and the server
COMPARED = 256  # pictures whose probabilities are compared; of all others, the labels


def package(runs: Sequence[Path], views: int, config: SubmissionConfig, zip_path: Path, name: str) -> Path:
    """Write the submission of finished runs as a folder `name` beside `zip_path`, and as that flat zip; return it.

    The probabilities of several runs are averaged.
    """
    folder = zip_path.parent / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(submission_model.__file__, folder / "model.py")
    members: list[dict[str, Any]] = []
    for run in runs:
        facts = read_json(run / "config.json")
        weights = f"{run.name}.weights.h5"
        copy = round_weights if config.float16 else shutil.copy
        copy(run / "network.weights.h5", folder / weights)
        members.append({"network": facts["network"], "weights": weights})
    settings = {"class_names": facts["class_names"], "views": views, "batch_size": config.batch_size}
    write_json(folder / "config.json", settings | {"members": members})
    with replacing(zip_path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return zip_path


def round_weights(source: Path, target: Path) -> None:
    """Copy a weights file of Keras with its float32 arrays rounded to float16; loading makes them float32 again.

    An array with a value beyond float16's range stays as it is.
    """
    import h5py

    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                new.require_group(name).attrs.update(item.attrs)
                return
            values = item[()]
            fits = item.dtype == np.float32 and np.abs(values).max(initial=0) <= np.finfo(np.float16).max
            new.create_dataset(name, data=values.astype(np.float16) if fits else values).attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


@dataclass(frozen=True)
class Verified:
    """What a submission answered, and the largest difference between its probabilities and ours."""

    answers: Answers
    largest_difference: float


def verify(
    zip_path: Path, images: np.ndarray, expected: np.ndarray, limits: LimitsConfig, python: Path | None = None
) -> Verified:
    """Run the zip and compare with our own probabilities `expected` (n, K).

    python: the interpreter that runs it (default: this one). Raises InputError where a label differs (one that is as
    probable but for the tolerance does not), a probability differs by more than 1e-4, or a limit is passed.
    """
    answers = run_ingestion(zip_path, images, limits, python, probabilities=COMPARED)
    assert answers.probabilities is not None
    difference = float(np.abs(answers.probabilities - expected[: len(answers.probabilities)]).max())
    chosen = np.take_along_axis(expected, answers.labels[:, None], axis=1)[:, 0]
    others = int((expected.max(axis=1) - chosen > 2 * TOLERANCE).sum())
    if others or not difference <= TOLERANCE:
        raise InputError(
            f"{zip_path} answers otherwise than the trained network: {others} of {len(images)} labels differ, "
            f"probabilities by up to {difference:.1e}; this is a fault of the packaging, please report it."
        )
    return Verified(answers, difference)
