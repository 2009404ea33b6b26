"""The server's two steps at home: a zip through ingestion and scoring, each a process with limits.

The folders and commands are those of Codabench's containers, with a temporary folder in the place
of /app
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
from competition.common.console import headline, say
from competition.common.errors import CheckFailedError
from competition.common.files import digest, read_arrays, read_json, write_json, write_text
from competition.config import Config, LimitsConfig
from competition.data.arrays import PreparedData
from competition.distortion.profiles import PROFILE
from competition.paths import TEST_LOOKS, Paths

# The commands of each program's metadata.yaml, which the server runs in the folder /app/program.
COMMANDS = {
    "ingestion": "python3 /app/program/ingestion.py --input /app/input_data "
    "--submission /app/ingested_program --output /app/output",
    "scoring": "python3 /app/program/scoring.py --input /app/input --output /app/output",
}
PROGRAMS = {"ingestion": Path(ingestion.__file__), "scoring": Path(scoring.__file__)}
# So that a submission finds room on an accelerator whose memory this process would else hold.
SHARED_DEVICE = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Answers:
    """The answers of a submission, and the time and memory that they took.

    labels: (n,) int64. probabilities: (min(n, asked), K), or None. seconds: of loading; of
    predicting all labels; of predicting once more the images whose probabilities were asked for.
    peak_megabytes: of the whole process tree, images included.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    seconds: tuple[float, float, float]
    peak_megabytes: float
    output: str


@dataclass(frozen=True)
class Reference:
    """The truth that the scoring program compares with.

    labels: (n,). images: those of which it may show mistakes, once the phase is over, or None.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray | None = None


@dataclass(frozen=True)
class DryRun:
    """The server's view of a submission.

    scores: of scores.json. page: detailed_results.html. output: of both programs.
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
    shown = images if config.codabench.phase_over else None
    return images, Reference(scored.labels, prepared.class_names, shown)


def dry_run(
    zip_path: Path, images: np.ndarray, reference: Reference, limits: LimitsConfig
) -> DryRun:
    """Run a zip on images (n, h, w, 3) uint8 as the server does, and score it.

    Raises CheckFailedError where it would fail on the server.
    """
    answers = run_ingestion(zip_path, images, limits)
    with _container() as app:
        write_reference(app / "input" / "ref", reference)
        (app / "input" / "res").mkdir()
        seconds = np.array(answers.seconds)
        np.savez(app / "input" / "res" / "predictions.npz", labels=answers.labels, seconds=seconds)
        finished = _run_program("scoring", app, limits)
        if finished.return_code != 0:
            raise CheckFailedError(f"{zip_path} cannot be scored: {last_line(finished.output)}")
        page = (app / "output" / "detailed_results.html").read_text(encoding="utf-8")
        scores = read_json(app / "output" / "scores.json")
    return DryRun(scores, page, answers.output + finished.output, answers.peak_megabytes)


def run_ingestion(
    zip_path: Path,
    images: np.ndarray,
    limits: LimitsConfig,
    python: Path | None = None,
    probabilities: int = 0,
    elsewhere: bool = False,
) -> Answers:
    """Run a zip on images (n, h, w, 3) uint8 in a process that cannot import the harness.

    python: the interpreter (default: this one). probabilities: of how many images to return them.
    elsewhere: the working folder is not the submission's, so that no file is found by luck.
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
        (app / "input_data").mkdir()
        np.save(app / "input_data" / "images.npy", images)
        more = f"--probabilities {probabilities}{' --elsewhere' * elsewhere}"
        finished = _run_program("ingestion", app, limits, python, more)
        if finished.return_code != 0:
            raise CheckFailedError(f"{zip_path} fails when it runs: {last_line(finished.output)}")
        try:
            stored = read_arrays(app / "output" / "predictions.npz")
            load, predict, again = stored["seconds"].tolist()
            return Answers(
                stored["labels"],
                stored.get("probabilities"),
                (load, predict, again),
                finished.peak_megabytes,
                finished.output,
            )
        except (ValueError, KeyError) as error:  # it may have written this file itself
            reason = error.__cause__ or error
            raise CheckFailedError(f"{zip_path} leaves no readable answers: {reason}") from error


def write_reference(folder: Path, reference: Reference) -> None:
    """Write the reference data that the scoring program reads."""
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", reference.labels.astype(np.int64))
    facts = {"class_names": list(reference.class_names), "phase_over": reference.images is not None}
    write_json(folder / "settings.json", facts)
    if reference.images is not None:
        np.save(folder / "images.npy", reference.images)


def write_program(kind: str, folder: Path) -> None:
    """Write a program, `ingestion` or `scoring`, with its metadata.yaml."""
    folder.mkdir(parents=True)
    shutil.copy(PROGRAMS[kind], folder)
    (folder / "metadata.yaml").write_text(f"command: {COMMANDS[kind]}\n", encoding="utf-8")


def last_line(output: str) -> str:
    """Return the last line that holds any text."""
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
    folder = app / "program"
    write_program(kind, folder)
    words = [word.replace("/app", str(app), 1) for word in shlex.split(f"{COMMANDS[kind]} {more}")]
    command = [str(python or sys.executable), "-P", *words[1:]]
    environment = os.environ | SHARED_DEVICE | {"PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)
    if python is not None:  # another environment need not have this one's backend
        environment.pop("KERAS_BACKEND", None)
    return run_limited(
        command, folder, limits.seconds, limits.memory_megabytes, environment, limits.cores
    )
