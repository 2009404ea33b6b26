"""The server's two steps at home: a zip through ingestion, apart and with limits, and scoring.

Ingestion has the folders and the command of Codabench's container, with a temporary folder in the
place of /app. Its predictions are taken over as plain arrays once all its processes are gone; only
then are they compared with the labels, by the scoring program's functions in this process
(https://docs.codabench.org/latest/Developers_and_Administrators/Submission-Docker-Container-Layout/).
"""

import io
import math
import os
import shlex
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import competition.scoring as scoring
from competition.codabench import ingestion
from competition.codabench.sandbox import (
    NOT_ISOLATED,
    Finished,
    can_isolate,
    extract,
    public_environment,
    remove_tree,
    run_limited,
)
from competition.common.console import headline, say
from competition.common.errors import CheckFailedError
from competition.common.files import digest, read_json, write_json, write_text
from competition.config import Config, LimitsConfig
from competition.data.arrays import PreparedData, one_hot
from competition.distortion.profiles import PROFILE
from competition.metric import ACCURACY, Metric, get_metric
from competition.paths import TEST_LOOKS, Paths

# The commands of each program's metadata.yaml, which the server runs in the folder /app/program.
COMMANDS = {
    "ingestion": "python3 /app/program/ingestion.py --input /app/input_data "
    "--submission /app/ingested_program --output /app/output",
    "scoring": "python3 /app/program/scoring.py --input /app/input --output /app/output",
}
PROGRAMS = {"ingestion": Path(ingestion.__file__), "scoring": Path(scoring.__file__)}
# Else this process would hold an accelerator's memory, and the submission would find no room.
SHARED_DEVICE = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # for a pipe
ANSWER_BYTES = 2**14  # per image: its label and the probabilities of 4000 classes


@dataclass(frozen=True)
class Predictions:
    """The predictions of a submission, and the time and memory that they took.

    labels: (n,) int64. probabilities: (min(n, asked), K), or None. seconds: of loading; of
    predicting all labels; of predicting once more the images whose probabilities were asked for; as
    the submission's process tells them, so for trusted ones only. wall_seconds: of its process.
    peak_megabytes: of the whole process tree, images included.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    seconds: tuple[float, float, float]
    wall_seconds: float
    peak_megabytes: float
    output: str

    def as_probabilities(self, num_classes: int) -> np.ndarray:
        """Return the probabilities (n, K), or labels as such, where no others were asked for."""
        if self.probabilities is None:
            return one_hot(self.labels, num_classes)
        return self.probabilities


@dataclass(frozen=True)
class Reference:
    """The truth that the scoring program compares with.

    labels: (n,). metric: the one that ranks.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    metric: Metric = ACCURACY


@dataclass(frozen=True)
class DryRun:
    """The server's view of a submission.

    scores: of scores.json, the duration from the start of the process to its end. page:
    detailed_results.html. output: of the submission.
    """

    scores: dict[str, float]
    page: str
    output: str
    peak_megabytes: float


def show_dry_run(
    zip_path: Path, prepared: PreparedData, config: Config, paths: Paths, on_test: bool
) -> None:
    """Run a zip as the server would, print the result, and write the page of detailed results.

    on_test: score on the test split, which counts as a look at it, rather than on validation.
    Raises CheckFailedError where the zip would fail on the server.
    """
    headline(f"Dry run of {zip_path.name}")
    images, reference = open_split(prepared, config, on_test, zip_path, paths)
    result = dry_run(zip_path, images, reference, config.limits)
    page = paths.submissions / f"{zip_path.stem}.detailed_results.html"
    write_text(page, result.page)
    say(f"{result.output.strip()}\n")
    say("\n".join(f"  {name:12} {value:.4f}" for name, value in result.scores.items()))
    say(f"  {result.peak_megabytes:.0f} MB of memory at the peak; details: {page}")


def open_split(
    prepared: PreparedData, config: Config, on_test: bool, asked: Path, paths: Paths
) -> tuple[np.ndarray, Reference]:
    """Return distorted images (n, h, w, 3) of validation or test, and the truth about them.

    asked: the zip or folder that is scored on them; its looks at the test are counted, and said.
    """
    scored = prepared.test if on_test else prepared.validation
    images = scored.versions[PROFILE]
    say(f"{len(images)} distorted images of the {scored.name} split")
    if not can_isolate():
        say(NOT_ISOLATED)
    if on_test:
        path = paths.experiments / TEST_LOOKS
        cure = "delete it; the looks at the test are counted from 0 then."
        looks = read_json(path, {str: int}, cure) if path.is_file() else {}
        key = f"{asked.name} {digest(asked)}" if asked.is_file() else asked.name
        looks[key] = looks.get(key, 0) + 1
        write_json(path, looks)
        say(
            f"look number {looks[key]} at the test with {asked.name}; "
            "each one makes its score a little less believable"
        )
    return images, Reference(scored.labels, prepared.class_names, get_metric(config.metric))


def dry_run(
    zip_path: Path, images: np.ndarray, reference: Reference, limits: LimitsConfig
) -> DryRun:
    """Run a zip on images (n, h, w, 3) uint8 as the server does, and score it.

    Raises CheckFailedError where it would fail on the server.
    """
    predictions = run_ingestion(zip_path, images, limits, metric=reference.metric)
    try:
        scores, page = scoring.score_labels(
            reference.labels,
            predictions.labels,
            list(reference.class_names),
            predictions.wall_seconds,
            reference.metric.name,
            predictions.probabilities,
        )
    except SystemExit as error:  # so the program ends where the labels are invalid
        raise CheckFailedError(f"{zip_path} cannot be scored: {error}") from error
    return DryRun(scores, page, predictions.output, predictions.peak_megabytes)


def run_ingestion(
    zip_path: Path,
    images: np.ndarray,
    limits: LimitsConfig,
    python: Path | None = None,
    probabilities: int = 0,
    elsewhere: bool = False,
    metric: Metric = ACCURACY,
) -> Predictions:
    """Run a zip on images (n, h, w, 3) uint8 in a process that cannot import the harness.

    python: the interpreter (default: this one). probabilities: of how many images to return them.
    elsewhere: the working folder is not the submission's, so that no file is found by luck.
    metric: one that needs probabilities has them of all images.
    Raises CheckFailedError where the zip is unsafe, fails, answers in another shape, or exceeds the
    limits.
    """
    megabytes = zip_path.stat().st_size / 2**20
    if megabytes > limits.zip_megabytes:
        raise CheckFailedError(
            f"{zip_path} has {megabytes:.0f} MB, over the limit of {limits.zip_megabytes:.0f} MB."
        )
    with _container() as app:
        extract(zip_path, app / "ingested_program", 4 * limits.zip_megabytes)
        write_input(app / "input_data", images, metric)
        more = f"--probabilities {probabilities}{' --elsewhere' * elsewhere}"
        finished = _run_ingestion_program(app, limits, python, more)
        if finished.return_code != 0:
            reason = last_line(finished.output, f"it ended with code {finished.return_code}")
            raise CheckFailedError(f"{zip_path} fails when it runs: {reason}")
        try:
            asked = len(images) if metric.needs_probabilities else probabilities
            stored = read_predictions(app / "output" / "predictions.npz", len(images), asked)
        except Exception as error:  # a stranger wrote this file; zipfile and numpy raise many kinds
            reason = str(getattr(error, "strerror", None) or error)  # not its path, long gone
            raise CheckFailedError(
                f"{zip_path} leaves no readable predictions: {reason}"
            ) from error
    load, predict, again = stored["seconds"].tolist()
    return Predictions(
        stored["labels"],
        stored.get("probabilities"),
        (load, predict, again),
        finished.seconds,
        finished.peak_megabytes,
        finished.output,
    )


def read_predictions(path: Path, count: int, probabilities: int = 0) -> dict[str, np.ndarray]:
    """Read a predictions.npz that a stranger's code may have written.

    Returns labels (count,) int64, seconds (3,), and probabilities (min(count, asked), K) where some
    were asked for and given. Nothing is unpickled or decompressed, and no array is made before its
    size is known to be right. Raises ValueError and others for anything else.
    """
    if path.parent.resolve() != path.parent:
        raise ValueError("its folder was replaced by a link")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | NO_WAIT)
    with os.fdopen(descriptor, "rb") as stream:
        facts = os.fstat(stream.fileno())
        limit = 2**16 + ANSWER_BYTES * count
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
            raise ValueError(f"{path.name} is no plain file of at most {limit} bytes")
        content = io.BytesIO(stream.read(limit))
    with zipfile.ZipFile(content) as archive:
        stored = {
            "labels": _read_array(archive, "labels", np.dtype(np.int64), (count,)),
            "seconds": _read_array(archive, "seconds", np.dtype(float), (3,)),
        }
        if probabilities and "probabilities.npy" in archive.namelist():
            shape = (min(count, probabilities), None)
            stored["probabilities"] = _read_array(
                archive, "probabilities", np.dtype(np.float32), shape
            )
    return stored


def _read_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int | None, ...]
) -> np.ndarray:
    if f"{name}.npy" not in archive.namelist():
        raise ValueError(f"'{name}' is missing")
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"'{name}' is compressed")
    with archive.open(entry) as stream:
        np.lib.format.read_magic(stream)
        found, _, kind = np.lib.format.read_array_header_1_0(stream)
        fits = len(found) == len(shape) and all(
            wanted in (None, size) for size, wanted in zip(found, shape, strict=True)
        )
        if not fits or kind != dtype or math.prod(found) * dtype.itemsize > entry.file_size:
            raise ValueError(f"'{name}' is {kind} of shape {found}")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def write_input(folder: Path, images: np.ndarray, metric: Metric) -> None:
    """Write the input data that the ingestion program reads."""
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images)
    if metric.needs_probabilities:
        write_json(folder / "settings.json", {"metric": metric.title})


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the reference data that the scoring program reads."""
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", reference.labels.astype(np.int64))
    facts = {"class_names": list(reference.class_names), "metric": reference.metric.name}
    write_json(folder / "settings.json", facts)


def write_program(kind: str, folder: Path) -> None:
    """Write a program, `ingestion` or `scoring`, with its metadata.yaml."""
    folder.mkdir(parents=True)
    shutil.copy(PROGRAMS[kind], folder)
    (folder / "metadata.yaml").write_text(f"command: {COMMANDS[kind]}\n", encoding="utf-8")


def last_line(output: str, otherwise: str = "no output") -> str:
    """Return the last line that holds any text, its first 500 letters, or `otherwise`."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:500] if lines else otherwise


@contextmanager
def _container() -> Iterator[Path]:
    """Yield a folder that stands for /app, with output/ in it; it lies alone in a private one."""
    place = Path(tempfile.mkdtemp(prefix="codabench_")).resolve()
    try:
        (place / "app" / "output").mkdir(parents=True)
        yield place / "app"
    finally:
        try:
            remove_tree(place)
        except OSError as error:  # files that stay behind must not stop the next one
            say(f"{place} cannot be removed: {error}")


def _run_ingestion_program(
    app: Path, limits: LimitsConfig, python: Path | None, more: str
) -> Finished:
    """Run the command of the program's metadata.yaml in its folder, as the server does."""
    folder = app / "program"
    write_program("ingestion", folder)
    line = f"{COMMANDS['ingestion']} {more}"
    words = [word.replace("/app", str(app), 1) for word in shlex.split(line)]
    command = [str(python or sys.executable), "-P", *words[1:]]
    environment = public_environment() | SHARED_DEVICE | {"PYTHONUNBUFFERED": "1"}
    if python is not None:  # another environment need not have this one's backend
        environment.pop("KERAS_BACKEND", None)
    return run_limited(
        command,
        folder,
        limits.seconds,
        limits.memory_megabytes,
        environment,
        limits.cores,
        private=app.parent,
    )
