"""From a trained run to a proven zip: packaged, run apart, within the budget, alike under the server's versions."""

from pathlib import Path
from typing import Any

import numpy as np

from competition.budget import describe, estimate, require
from competition.config import Config
from competition.console import say, timed
from competition.files import replacing, write_json
from competition.server_versions import NotCheckedError, cache_folder, server_python
from competition.submission import compare, package, verify


def deliver(
    run: Path,
    views: int,
    images: np.ndarray,
    expected: np.ndarray,
    config: Config,
    zip_path: Path,
    server: tuple[str, ...] = (),
) -> str:
    """Write the submission of `run` to `zip_path`, where all checks pass, and their figures to `run`/package.json.

    images (n, h, w, 3) uint8 and our probabilities of them, `expected` (n, K), are what it is compared on.
    server: requirements of the server, as `tensorflow==2.17.0`; returns why they could not be tried, or nothing.
    Raises InputError where a check fails.
    """
    limits, settings = config.limits, config.submission
    with replacing(zip_path) as unverified:
        package([run], views, settings, unverified, run.name)
        answers = verify(unverified, images, expected, limits)
        budget = estimate(answers, images, unverified.stat().st_size / 2**20, limits)
        require(budget, limits, views, settings.float16)
        reason = _try_server(server, unverified, images, expected, config) if server else ""
    load, predict, _ = answers.seconds
    figures: dict[str, Any] = {
        "pictures": len(images),
        "megabytes": round(budget.zip_megabytes, 2),
        "load_seconds": round(load, 2),
        "predict_seconds": round(predict, 2),
        "peak_megabytes": round(answers.peak_megabytes),
        "largest_difference": compare(answers, expected)[1],
    }
    write_json(run / "package.json", figures)
    say(
        f"{zip_path}: verified. {figures['megabytes']} MB; loads in {load:.2f} s, predicts {len(images)} pictures in "
        f"{predict:.2f} s, {answers.peak_megabytes:.0f} MB; the same labels as the trained network, probabilities "
        f"within {figures['largest_difference']:.0e}"
    )
    say(f"budget, {describe(budget, limits)}")
    if server:
        say(f"server versions: {f'NOT CHECKED ({reason})' if reason else 'alike under ' + ', '.join(server)}")
    return reason


def _try_server(
    server: tuple[str, ...], zip_path: Path, images: np.ndarray, expected: np.ndarray, config: Config
) -> str:
    """Verify the zip under the server's versions; return why that was not possible, or nothing."""
    try:
        python = server_python(server, cache_folder())
    except NotCheckedError as error:
        return str(error)
    with timed(f"  the zip runs under {', '.join(server)}"):
        verify(zip_path, images, expected, config.limits, python)
    return ""
