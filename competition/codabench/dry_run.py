"""The server's two steps at home: a submission's zip through ingestion and scoring, each a process with limits.

The folders and commands are those of Codabench's containers, with a temporary folder in the place of /app
(https://docs.codabench.org/latest/Developers_and_Administrators/Submission-Docker-Container-Layout/).
"""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.codabench import ingestion, scoring
from competition.codabench.sandbox import Finished, extract, run_limited
from competition.common.errors import UserError
from competition.common.files import read_arrays, read_json, write_json
from competition.config import LimitsConfig

# metadata.yaml of each program: what the server runs, in the folder /app/program.
COMMANDS = {
    "ingestion": "python3 /app/program/ingestion.py --input /app/input_data --submission /app/ingested_program "
    "--output /app/output",
    "scoring": "python3 /app/program/scoring.py --input /app/input --output /app/output",
}
PROGRAMS = {"ingestion": Path(ingestion.__file__), "scoring": Path(scoring.__file__)}


@dataclass(frozen=True)
class Answers:
    """What a submission answered, and what it took.

    labels: (n,) int64. probabilities: (min(n, asked), K), or None. seconds: of loading, of predicting, of predicting
    once more those whose probabilities were asked for. peak_megabytes: of the whole process tree, with the pictures.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    seconds: tuple[float, float, float]
    peak_megabytes: float
    output: str


@dataclass(frozen=True)
class Reference:
    """What the scoring program compares with: labels (n,), class names, and pictures once the phase is over."""

    labels: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """What the server would show: scores.json, detailed_results.html, and the output of both programs."""

    scores: dict[str, float]
    page: str
    output: str
    peak_megabytes: float


def dry_run(
    zip_path: Path, images: np.ndarray, reference: Reference, limits: LimitsConfig
) -> Result:
    """Run a zip on images (n, h, w, 3) uint8 as the server does, and score it; raises UserError as it would fail."""
    answers = run_ingestion(zip_path, images, limits)
    with _container() as app:
        write_reference(app / "input" / "ref", reference)
        (app / "input" / "res").mkdir()
        seconds = np.array(answers.seconds)
        np.savez(app / "input" / "res" / "predictions.npz", labels=answers.labels, seconds=seconds)
        finished = _run_program("scoring", app, limits)
        if finished.return_code != 0:
            raise UserError(f"{zip_path} cannot be scored: {last_line(finished.output)}")
        page = (app / "output" / "detailed_results.html").read_text(encoding="utf-8")
        scores = read_json(app / "output" / "scores.json")
    return Result(scores, page, answers.output + finished.output, answers.peak_megabytes)


def run_ingestion(
    zip_path: Path,
    images: np.ndarray,
    limits: LimitsConfig,
    python: Path | None = None,
    probabilities: int = 0,
) -> Answers:
    """Run a zip on images (n, h, w, 3) uint8 in a process of its own, with the harness not on its path.

    python: the interpreter (default: this one). Raises UserError where the zip is unsafe, fails, answers in another
    shape, or exceeds the limits.
    """
    megabytes = zip_path.stat().st_size / 2**20
    if megabytes > limits.zip_megabytes:
        raise UserError(
            f"{zip_path} has {megabytes:.0f} MB, over the limit of {limits.zip_megabytes:.0f} MB."
        )
    with _container() as app:
        extract(zip_path, app / "ingested_program", 4 * limits.zip_megabytes)
        (app / "input_data").mkdir()
        np.save(app / "input_data" / "images.npy", images)
        finished = _run_program(
            "ingestion", app, limits, python, f"--probabilities {probabilities}"
        )
        if finished.return_code != 0:
            raise UserError(f"{zip_path} fails when it runs: {last_line(finished.output)}")
        stored = read_arrays(app / "output" / "predictions.npz")
    load, predict, again = stored["seconds"].tolist()
    peak = finished.peak_megabytes
    return Answers(
        stored["labels"], stored.get("probabilities"), (load, predict, again), peak, finished.output
    )


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the reference data that the scoring program reads."""
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", reference.labels.astype(np.int64))
    over = reference.images is not None
    write_json(
        folder / "settings.json", {"class_names": list(reference.class_names), "phase_over": over}
    )
    if reference.images is not None:
        np.save(folder / "images.npy", reference.images)


def write_program(kind: str, folder: Path) -> None:
    """Write a program, `ingestion` or `scoring`, with its metadata.yaml."""
    folder.mkdir(parents=True)
    shutil.copy(PROGRAMS[kind], folder)
    (folder / "metadata.yaml").write_text(f"command: {COMMANDS[kind]}\n", encoding="utf-8")


def last_line(output: str) -> str:
    """Return the last line that says anything."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


@contextmanager
def _container() -> Iterator[Path]:
    """Yield an empty folder that stands for /app, with output/ in it."""
    with tempfile.TemporaryDirectory(prefix="codabench_") as place:
        (Path(place) / "output").mkdir()
        yield Path(place)


def _run_program(
    kind: str, app: Path, limits: LimitsConfig, python: Path | None = None, more: str = ""
) -> Finished:
    """Run the command of a program's metadata.yaml in its folder, as the server does."""
    write_program(kind, app / "program")
    command = (
        (app / "program" / "metadata.yaml").read_text(encoding="utf-8").removeprefix("command:")
    )
    words = [word.replace("/app", str(app), 1) for word in shlex.split(command + more)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= _SHARED_DEVICE | {"PYTHONUNBUFFERED": "1"}
    if python is not None:
        environment.pop(
            "KERAS_BACKEND", None
        )  # another environment need not have this one's backend
    arguments = [str(python or sys.executable), "-P", *words[1:]]
    return run_limited(
        arguments,
        app / "program",
        limits.seconds,
        limits.memory_megabytes,
        environment,
        limits.cores,
    )


# So that the submission finds room on an accelerator whose memory this process would else hold.
_SHARED_DEVICE = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
