"""Predictions on all versions of validation and test, the most telling first."""

import time
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np

from competition.common.console import progress, say, tell_progress
from competition.config import EvaluationConfig
from competition.data.arrays import PreparedData
from competition.distortion.profiles import PROFILE, VERSIONS, selected_versions
from competition.evaluation.metrics import TTA_VERSIONS
from competition.networks.submission_model import predict_views
from competition.time_budget import Slot

Predictions = dict[str, dict[str, np.ndarray]]
"""Split -> version -> probabilities (views, n, K) float32."""


@dataclass(frozen=True)
class Step:
    """One version of a split to predict.

    views: how many there are once it is done. needed: it is predicted even after the slot is over.
    """

    split: str
    version: str
    views: int
    needed: bool = False

    @property
    def title(self) -> str:
        """Its name for a reader."""
        return f"{self.split} {self.version}{' TTA' if self.views > 1 else ''}"


def plan_steps(select_by: str, tta_views: int, is_calibrated: bool = False) -> list[Step]:
    """Return the predictions to make, in order: first those for the rank and the expected score.

    is_calibrated: whether a temperature is fitted to validation, with all views then.
    """
    selected = selected_versions(select_by)
    steps = [Step("test", PROFILE, 1, needed=True)]
    steps += [Step("validation", name, 1, needed=True) for name in selected]
    steps.append(Step("test", "clean", 1))
    if tta_views > 1:
        steps.append(Step("test", PROFILE, tta_views))
    if tta_views > 1 and is_calibrated:
        steps += [Step("validation", name, tta_views) for name in selected]
    steps += [Step("test", name, 1) for name in VERSIONS if name not in TTA_VERSIONS]
    if tta_views > 1:
        steps.append(Step("test", "clean", tta_views))
    return steps + [Step("validation", name, 1) for name in VERSIONS if name not in selected]


def predict_all(
    network: keras.Model,
    data: PreparedData,
    steps: list[Step],
    config: EvaluationConfig,
    known: Predictions,
    slot: Slot | None,
) -> tuple[Predictions, float | None, list[Step]]:
    """Return the predictions, the seconds per image and view, and the steps for which time was out.

    known: earlier predictions, which are not made again. A step that is not needed begins only if
    it ends within the slot at the rate of those before it.
    """
    passed, seconds, left_out = 0, 0.0, []
    for number, step in enumerate(steps):
        tell_progress(number / len(steps), f"scoring {step.title}")
        done = known[step.split].get(step.version)
        first_view = 0 if done is None else len(done)
        images = getattr(data, step.split).versions[step.version]
        passes = len(images) * (step.views - first_view)
        if passes <= 0:
            continue
        is_late = slot is not None and passes * seconds / max(passed, 1) > slot.seconds_left
        if is_late and not step.needed:
            left_out.append(step)
            continue
        if not passed:
            predict_views(network, images[:1], 1, config.batch_size)  # compiles
        started = time.perf_counter()
        track = partial(progress, what=f"  {step.title}", unit="batch")
        predicted = predict_views(
            network, images, step.views, config.batch_size, track, first_view=first_view
        )
        passed += passes
        seconds += time.perf_counter() - started
        known[step.split][step.version] = (
            predicted if done is None else np.concatenate([done, predicted])
        )
    if left_out:
        say(f"  NOT SCORED, for want of time: {', '.join(step.title for step in left_out)}")
    return known, seconds / passed if passed else None, left_out
