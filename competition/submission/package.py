"""A run as a submission: a zip that is proven to run before it is called done.

The zip holds `model.py`, its settings and the weights. It runs in a process of its own. Its
predictions must be those of the trained networks, within the limits of the server.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from competition.codabench.dry_run import Predictions, run_ingestion
from competition.common.console import say, timed
from competition.common.errors import CheckFailedError, NotCheckedError
from competition.common.files import replacing, write_json
from competition.config import Config, LimitsConfig, SubmissionConfig
from competition.evaluation.metrics import read_metrics
from competition.networks import submission_model
from competition.networks.submission_model import Model, predict_views, temper
from competition.paths import PACKAGE, WEIGHTS
from competition.submission.server_limits import (
    describe_usage,
    estimate_usage,
    require_size,
    require_usage,
)
from competition.submission.server_versions import cache_folder, server_python
from competition.training.runs import load_run, read_config

TOLERANCE = 1e-4  # by which a probability may differ between here and the server
# Images that a zip is tried on. A fault of packaging shows on the first of them; two batches of the
# usual size give its rate.
CHECKED_IMAGES = 256


def package_run(
    run: Path,
    members: Sequence[Path],
    images: np.ndarray,
    config: Config,
    zip_path: Path,
    server: tuple[str, ...],
) -> str:
    """Write the submission of `run` to `zip_path` once all checks pass.

    Returns why it could not be tried under the server's versions, or nothing.

    members: the runs whose networks are averaged, `run` itself or those of an ensemble, each as
    often as it counts.
    images: distorted test images (n, h, w, 3) uint8; the zip is tried on the first 256.
    server: requirements of the server, as `tensorflow==2.17.0`; the zip is tried under them too.
    The unpacked zip lies in a folder beside it, and the figures of the checks in
    `run`/package.json. Raises CheckFailedError where a check fails, and UserError for server
    versions that do not exist.
    """
    images = images[:CHECKED_IMAGES]
    limits = config.limits
    settings = config.submission
    views = config.evaluation.tta_views
    folder = zip_path.with_suffix("")
    temperature = float(read_metrics(run).get("temperature", 1.0))
    write_submission(members, views, settings, folder, temperature)
    with replacing(zip_path) as unverified:
        shutil.make_archive(str(unverified.with_suffix("")), "zip", folder)
        megabytes = unverified.stat().st_size / 2**20
        require_size(megabytes, limits, settings.float16)
        expected = predict_mean(members, images, views, settings.batch_size)
        expected = expected if temperature == 1 else temper(expected, temperature)
        if settings.float16:
            expected = _predict_rounded(folder, images, expected)
        try:
            predictions, difference = verify(unverified, images, expected, limits)
            usage = estimate_usage(predictions, images, settings.batch_size, megabytes, limits)
            require_usage(usage, limits, views)
            unchecked = _try_server(server, unverified, images, expected, limits)
        except CheckFailedError as error:
            raise CheckFailedError(str(error).replace(str(unverified), str(zip_path))) from error
    load, predict, _ = predictions.seconds
    figures = {
        "images": len(images),
        "megabytes": round(megabytes, 2),
        "load_seconds": round(load, 2),
        "predict_seconds": round(predict, 2),
        "peak_megabytes": round(predictions.peak_megabytes),
        "largest_difference": difference,
    }
    write_json(run / PACKAGE, figures)
    alike = f"probabilities within {difference:.0e}" if difference else "the same probabilities"
    say(
        f"{zip_path}: verified. {megabytes:.2f} MB; loads in {load:.2f} s, predicts {len(images)} "
        f"images in {predict:.2f} s, {predictions.peak_megabytes:.0f} MB; the same labels as the "
        f"trained network, {alike}"
    )
    say(f"on the server, {describe_usage(usage, limits)}")
    if server:
        result = f"NOT CHECKED ({unchecked})" if unchecked else f"alike under {', '.join(server)}"
        say(f"server versions: {result}")
    return unchecked


def write_submission(
    members: Sequence[Path],
    views: int,
    config: SubmissionConfig,
    folder: Path,
    temperature: float = 1.0,
) -> None:
    """Write the files of a submission into a new `folder`; it averages the members' networks.

    members: runs, each as often as it counts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(submission_model.__file__, folder / "model.py")
    copy = round_weights if config.float16 else shutil.copy
    networks = []
    for member, count in Counter(members).items():
        facts = read_config(member, "network", "class_names")
        weights = f"{member.name}.weights.h5"
        copy(member / WEIGHTS, folder / weights)
        share = count / len(members)
        networks.append({"network": facts["network"], "weights": weights, "share": share})
    known = facts.get("settings", {})
    settings = {
        "class_names": facts["class_names"],
        "class_shares": facts.get("class_shares"),
        "data": {key: value for key, value in known.items() if key.startswith("data.")},
        "views": views,
        "batch_size": config.batch_size,
        "members": networks,
    }
    if temperature != 1:
        settings["temperature"] = temperature
    write_json(folder / "config.json", settings)


def round_weights(source: Path, target: Path) -> None:
    """Copy a weights file of Keras with its float32 arrays rounded to float16.

    Loading makes them float32 again. An array with a value beyond float16's range stays as it is.
    """
    import h5py

    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                new.require_group(name).attrs.update(item.attrs)
                return
            values = item[()]
            largest = np.abs(values).max(initial=0) if item.dtype == np.float32 else np.inf
            if largest <= np.finfo(np.float16).max:
                values = values.astype(np.float16)
            new.create_dataset(name, data=values).attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


def predict_mean(
    members: Sequence[Path], images: np.ndarray, views: int, batch_size: int
) -> np.ndarray:
    """Return the probabilities (n, K) of trained networks, averaged over views and members.

    members: runs, each as often as it counts.
    """
    counts = Counter(members)
    predicted = [
        predict_views(load_run(run), images, views, batch_size).mean(axis=0) for run in counts
    ]
    return np.asarray(np.average(predicted, axis=0, weights=list(counts.values())))


def verify(
    zip_path: Path,
    images: np.ndarray,
    expected: np.ndarray,
    limits: LimitsConfig,
    python: Path | None = None,
) -> tuple[Predictions, float]:
    """Run the zip; return its predictions and their largest difference from `expected`.

    expected: (n, K). python: the interpreter (default: this one). Raises CheckFailedError where a
    limit is exceeded, a probability differs by more than 1e-4, or a label differs although the
    trained networks are surer of another one.
    """
    predictions = run_ingestion(zip_path, images, limits, python, len(images), elsewhere=True)
    assert predictions.probabilities is not None
    difference = float(np.abs(predictions.probabilities - expected).max())
    chosen = np.take_along_axis(expected, predictions.labels[:, None], axis=1)[:, 0]
    others = int((expected.max(axis=1) - chosen > 2 * TOLERANCE).sum())
    if others or not difference <= TOLERANCE:
        raise CheckFailedError(
            f"{zip_path} answers otherwise than the trained network: {others} of {len(images)} "
            f"labels differ, probabilities by up to {difference:.1e}; this is a fault of the "
            "packaging, please report it."
        )
    return predictions, difference


def _predict_rounded(folder: Path, images: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Return the probabilities with the rounded weights in `folder`; say how they differ."""
    rounded = Model(folder).predict_proba(images)
    others = int((rounded.argmax(axis=1) != trained.argmax(axis=1)).sum())
    difference = float(np.abs(rounded - trained).max())
    say(
        f"float16 weights change {others} of {len(trained)} labels, "
        f"and probabilities by up to {difference:.0e}"
    )
    return rounded


def _try_server(
    server: tuple[str, ...],
    zip_path: Path,
    images: np.ndarray,
    expected: np.ndarray,
    limits: LimitsConfig,
) -> str:
    """Verify the zip under the server's versions; return why that was not possible, or nothing."""
    if not server:
        return ""
    try:
        python = server_python(server, cache_folder())
    except NotCheckedError as error:
        return str(error)
    with timed(f"  the zip runs under {', '.join(server)}"):
        verify(zip_path, images, expected, limits, python)
    return ""
