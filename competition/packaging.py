"""From a trained run to a proven zip: packaged, run apart, within the budget, alike under the server's versions."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.budget import Budget, describe, estimate, require, require_size
from competition.config import Config
from competition.console import say, timed
from competition.ensemble import members_of
from competition.files import InputError, replacing, write_json
from competition.server_versions import NotCheckedError, cache_folder, server_python
from competition.submission import Verified, package, verify
from competition.submission_model import Model


@dataclass(frozen=True)
class Expected:
    """Pictures (n, h, w, 3) uint8, and the probabilities (n, K) that the trained network gives them with its views."""

    images: np.ndarray
    probabilities: np.ndarray
    views: int


def deliver(run: Path, expected: Expected, config: Config, zip_path: Path, server: tuple[str, ...] = ()) -> str:
    """Write the submission of `run` to `zip_path` once all checks pass, and their figures to `run`/package.json.

    server: requirements of the server, as `tensorflow==2.17.0`; returns why they could not be tried, or nothing.
    Raises InputError where a check fails.
    """
    with replacing(zip_path) as unverified:
        package(members_of(run), expected.views, config.submission, unverified, run.name)
        try:
            verified, budget, reason = _prove(unverified, run.name, expected, config, server)
        except InputError as error:
            raise InputError(str(error).replace(str(unverified), str(zip_path))) from error
    _report(run, zip_path, verified, budget)
    say(f"on the server, {describe(budget, config.limits)}")
    if server:
        say(f"server versions: {f'NOT CHECKED ({reason})' if reason else 'alike under ' + ', '.join(server)}")
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
    say(f"float16 weights change {others} of {len(trained)} labels, and probabilities by up to {difference:.0e}")
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
