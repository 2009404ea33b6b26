"""The submission: a flat zip of `model.py`, its settings and weights, proven to run before it is called done."""

import os
import shutil
import stat
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition import submission_model, submission_runner
from competition.files import InputError, read_arrays, replacing, write_json
from competition.processes import run_limited


@dataclass(frozen=True)
class Limits:
    """What the server grants: seconds and megabytes of memory for a run, megabytes of the zip."""

    seconds: float = 600.0
    memory_megabytes: float = 4096.0
    zip_megabytes: float = 300.0


@dataclass(frozen=True)
class Answers:
    """What a submission answered: labels (n,), probabilities (min(n, 256), K) or none, and what it took."""

    labels: np.ndarray
    probabilities: np.ndarray | None
    load_seconds: float
    predict_seconds: float
    peak_megabytes: float


def package(run: Path, spec: dict[str, Any], class_names: tuple[str, ...], views: int, zip_path: Path) -> Path:
    """Write the submission of a finished run as a folder beside `zip_path`, and as that flat zip; return its path."""
    folder = zip_path.parent / run.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = f"{run.name}.weights.h5"
    shutil.copy(run / "network.weights.h5", folder / weights)
    shutil.copy(submission_model.__file__, folder / "model.py")
    members = [{"network": spec, "weights": weights}]
    settings = {"class_names": list(class_names), "views": views, "batch_size": 64, "members": members}
    write_json(folder / "config.json", settings)
    with replacing(zip_path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return zip_path


def run_submission(zip_path: Path, images: np.ndarray, limits: Limits) -> Answers:
    """Run a zip on images (n, h, w, 3) the way a server does and return its answers.

    It is unzipped to an empty folder and run in a separate process, from a foreign current directory, with the harness
    not importable. Raises InputError where it is unsafe, fails, answers in another shape, or exceeds the limits.
    """
    with tempfile.TemporaryDirectory(prefix="submission_") as place:
        root = Path(place)
        for name in ("code", "work"):
            (root / name).mkdir()
        extract(zip_path, root / "code", limits)
        np.save(root / "pictures.npy", images)
        runner = shutil.copy(submission_runner.__file__, root / "submission_runner.py")
        arguments = [str(root / "code"), str(root / "pictures.npy"), str(root / "answers.npz")]
        command = [sys.executable, "-P", str(runner), *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | _SHARED_DEVICE
        finished = run_limited(command, root / "work", limits.seconds, limits.memory_megabytes, environment)
        if finished.return_code != 0:
            lines = [line for line in finished.output.strip().splitlines() if line.strip()]
            raise InputError(f"{zip_path} fails when it runs: {lines[-1] if lines else 'no output'}")
        answers = read_arrays(root / "answers.npz")
    labels = answers["labels"]
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{zip_path} answers {labels.dtype} {labels.shape}; expected {len(images)} integer labels.")
    load, predict = answers["seconds"].tolist()
    return Answers(labels, answers.get("probabilities"), load, predict, finished.peak_megabytes)


# So that the submission finds room on an accelerator whose memory this process would else hold.
_SHARED_DEVICE = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def extract(zip_path: Path, folder: Path, limits: Limits) -> None:
    """Unzip a flat submission; raises InputError for unsafe names, links, bombs, and other than one model.py."""
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = archive.infolist()
            _check_entries(zip_path, entries, limits)
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{zip_path} cannot be unzipped ({error}); package it again.") from error


def _check_entries(zip_path: Path, entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    for entry in entries:
        unsafe = entry.filename.startswith(("/", "\\")) or ".." in Path(entry.filename).parts or ":" in entry.filename
        if unsafe or stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{zip_path} holds '{entry.filename}', which leads outside its folder; it is refused.")
    megabytes = sum(entry.file_size for entry in entries) / 2**20
    if megabytes > 4 * limits.zip_megabytes:
        raise InputError(f"{zip_path} unpacks to {megabytes:.0f} MB, more than any submission needs; it is refused.")
    models = [entry.filename for entry in entries if Path(entry.filename).name == "model.py"]
    if models != ["model.py"]:
        raise InputError(f"{zip_path} holds {models or 'no model.py'}; expected one model.py, at the top of the zip.")


def verify(zip_path: Path, images: np.ndarray, expected: np.ndarray, limits: Limits) -> dict[str, Any]:
    """Run the zip and compare with our own probabilities `expected` (n, K); return the figures worth showing.

    Raises InputError where a label differs, a probability differs by more than 1e-4, or a limit is passed.
    """
    megabytes = zip_path.stat().st_size / 2**20
    if megabytes > limits.zip_megabytes:
        raise InputError(f"{zip_path} has {megabytes:.0f} MB, over the limit of {limits.zip_megabytes:.0f} MB.")
    answers = run_submission(zip_path, images, limits)
    assert answers.probabilities is not None
    difference = float(np.abs(answers.probabilities - expected[: len(answers.probabilities)]).max())
    others = int((answers.labels != expected.argmax(axis=1)).sum())
    if others or difference > 1e-4:
        raise InputError(
            f"{zip_path} answers otherwise than the trained network: {others} of {len(images)} labels differ, "
            f"probabilities by up to {difference:.1e}; this is a fault of the packaging, please report it."
        )
    return {
        "pictures": len(images),
        "megabytes": round(megabytes, 2),
        "load_seconds": round(answers.load_seconds, 2),
        "predict_seconds": round(answers.predict_seconds, 2),
        "peak_megabytes": round(answers.peak_megabytes),
        "largest_difference": difference,
    }
