"""The submission: a flat zip of `model.py`, its settings and weights, proven to run before it is called done."""

import dataclasses
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.codabench.dry_run import Answers, run_ingestion
from competition.common.console import say, timed
from competition.common.errors import NotCheckedError, UserError
from competition.common.files import read_json, replacing, write_json
from competition.config import Config, LimitsConfig, SubmissionConfig
from competition.evaluation.ensemble import members_of
from competition.networks import submission_model
from competition.networks.submission_model import Model
from competition.submission.server_limits import Budget, describe, estimate, require, require_size
from competition.submission.server_versions import cache_folder, server_python

TOLERANCE = 1e-4  # by which a probability may differ between here and the server
COMPARED = 256  # pictures whose probabilities are compared; of all others, the labels


def package(
    runs: Sequence[Path], views: int, config: SubmissionConfig, zip_path: Path, name: str
) -> Path:
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
    settings = {
        "class_names": facts["class_names"],
        "views": views,
        "batch_size": config.batch_size,
    }
    write_json(folder / "config.json", settings | {"members": members})
    with (
        replacing(zip_path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
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
            fits = (
                item.dtype == np.float32
                and np.abs(values).max(initial=0) <= np.finfo(np.float16).max
            )
            new.create_dataset(
                name, data=values.astype(np.float16) if fits else values
            ).attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


@dataclass(frozen=True)
class Verified:
    """What a submission answered, and the largest difference between its probabilities and ours."""

    answers: Answers
    largest_difference: float


def verify(
    zip_path: Path,
    images: np.ndarray,
    expected: np.ndarray,
    limits: LimitsConfig,
    python: Path | None = None,
) -> Verified:
    """Run the zip and compare with our own probabilities `expected` (n, K).

    python: the interpreter that runs it (default: this one). Raises UserError where a label differs (one that is as
    probable but for the tolerance does not), a probability differs by more than 1e-4, or a limit is passed.
    """
    answers = run_ingestion(zip_path, images, limits, python, probabilities=COMPARED)
    assert answers.probabilities is not None
    difference = float(np.abs(answers.probabilities - expected[: len(answers.probabilities)]).max())
    chosen = np.take_along_axis(expected, answers.labels[:, None], axis=1)[:, 0]
    others = int((expected.max(axis=1) - chosen > 2 * TOLERANCE).sum())
    if others or not difference <= TOLERANCE:
        raise UserError(
            f"{zip_path} answers otherwise than the trained network: {others} of {len(images)} labels differ, "
            f"probabilities by up to {difference:.1e}; this is a fault of the packaging, please report it."
        )
    return Verified(answers, difference)


@dataclass(frozen=True)
class Expected:
    """Pictures (n, h, w, 3) uint8, and the probabilities (n, K) that the trained network gives them with its views."""

    images: np.ndarray
    probabilities: np.ndarray
    views: int


def deliver(
    run: Path, expected: Expected, config: Config, zip_path: Path, server: tuple[str, ...] = ()
) -> str:
    """Write the submission of `run` to `zip_path` once all checks pass, and their figures to `run`/package.json.

    server: requirements of the server, as `tensorflow==2.17.0`; returns why they could not be tried, or nothing.
    Raises UserError where a check fails.
    """
    with replacing(zip_path) as unverified:
        package(members_of(run), expected.views, config.submission, unverified, run.name)
        try:
            verified, budget, reason = _prove(unverified, run.name, expected, config, server)
        except UserError as error:
            raise UserError(str(error).replace(str(unverified), str(zip_path))) from error
    _report(run, zip_path, verified, budget)
    say(f"on the server, {describe(budget, config.limits)}")
    if server:
        say(
            f"server versions: {f'NOT CHECKED ({reason})' if reason else 'alike under ' + ', '.join(server)}"
        )
    return reason


def _prove(
    zip_path: Path, folder: str, expected: Expected, config: Config, server: tuple[str, ...]
) -> tuple[Verified, Budget, str]:
    """Do all checks; return what the zip answered, its budget, and why the server's versions were not tried, if so."""
    limits, float16 = config.limits, config.submission.float16
    megabytes = zip_path.stat().st_size / 2**20
    require_size(megabytes, limits, float16)
    if float16:
        expected = _rounded(zip_path.parent / folder, expected)
    verified = verify(zip_path, expected.images, expected.probabilities, limits)
    budget = estimate(verified.answers, expected.images, megabytes, limits)
    require(budget, limits, expected.views)
    return verified, budget, _try_server(server, zip_path, expected, config) if server else ""


def _rounded(folder: Path, expected: Expected) -> Expected:
    """Return what the network gives with the weights of the packaged `folder`, rounded; say what that changed."""
    trained, rounded = expected.probabilities, Model(folder).predict_proba(expected.images)
    others = int((rounded.argmax(axis=1) != trained.argmax(axis=1)).sum())
    difference = float(np.abs(rounded - trained).max())
    say(
        f"float16 weights change {others} of {len(trained)} labels, and probabilities by up to {difference:.0e}"
    )
    return dataclasses.replace(expected, probabilities=rounded)


def _try_server(server: tuple[str, ...], zip_path: Path, expected: Expected, config: Config) -> str:
    """Verify the zip under the server's versions; return why that was not possible, or nothing."""
    try:
        python = server_python(server, cache_folder())
    except NotCheckedError as error:
        return str(error)
    with timed(f"  the zip runs under {', '.join(server)}"):
        verify(zip_path, expected.images, expected.probabilities, config.limits, python)
    return ""


def _report(run: Path, zip_path: Path, verified: Verified, budget: Budget) -> None:
    """Keep and print what the zip took here."""
    answers, difference = verified.answers, verified.largest_difference
    load, predict, _ = answers.seconds
    count, megabytes = len(answers.labels), budget.zip_megabytes
    figures = {
        "pictures": count,
        "megabytes": round(megabytes, 2),
        "load_seconds": round(load, 2),
        "predict_seconds": round(predict, 2),
        "peak_megabytes": round(answers.peak_megabytes),
        "largest_difference": difference,
    }
    write_json(run / "package.json", figures)
    say(
        f"{zip_path}: verified. {megabytes:.2f} MB; loads in {load:.2f} s, predicts {count} pictures in "
        f"{predict:.2f} s, {answers.peak_megabytes:.0f} MB; the same labels as the trained network, probabilities "
        f"within {difference:.0e}"
    )
