"""The resources that a submission needs on the server, against its limits."""

import math
from dataclasses import dataclass

import numpy as np

from competition.codabench.dry_run import Predictions
from competition.common.errors import CheckFailedError
from competition.config import LimitsConfig


@dataclass(frozen=True)
class Usage:
    """The resources that a submission needs.

    fixed_seconds: of loading and compiling. seconds_per_batch: with all views. memory_megabytes: at
    the peak, images included.
    """

    fixed_seconds: float
    seconds_per_batch: float
    batch_size: int
    memory_megabytes: float
    zip_megabytes: float

    def seconds(self, images: int, share: float = 1.0) -> float:
        """Return the seconds for that many images, with a share of the views."""
        batches = math.ceil(images / self.batch_size)
        return self.fixed_seconds + batches * self.seconds_per_batch * share


def estimate_usage(
    predictions: Predictions,
    images: np.ndarray,
    batch_size: int,
    zip_megabytes: float,
    limits: LimitsConfig,
) -> Usage:
    """Extrapolate from a run on `images` (n, h, w, 3), predicted twice, to `limits.images` images.

    The second prediction compiles nothing. The quicker rate of the two holds for further batches,
    which are all of one size.
    """
    load, first, second = predictions.seconds
    batches = math.ceil(len(images) / batch_size)
    rate = min(first, second) / batches
    further = max(0, limits.images - len(images)) * images[0].nbytes / 2**20
    memory = predictions.peak_megabytes + further
    return Usage(load + first - rate * batches, rate, batch_size, memory, zip_megabytes)


def describe_usage(usage: Usage, limits: LimitsConfig) -> str:
    """Return the usage beside the limits."""
    seconds = usage.seconds(limits.images)
    return (
        f"{limits.images} images on {limits.cores or 'all'} cores: "
        f"about {seconds:.0f} of {limits.seconds:.0f} s, "
        f"{usage.memory_megabytes:.0f} of {limits.memory_megabytes:.0f} MB of memory; "
        f"zip {usage.zip_megabytes:.1f} of {limits.zip_megabytes:.0f} MB"
    )


def require_usage(usage: Usage, limits: LimitsConfig, views: int) -> None:
    """Raise CheckFailedError, with settings that would fit, for too much time or memory."""
    seconds = usage.seconds(limits.images)
    if seconds > limits.seconds:
        advice = _fewer_views(usage, limits, views)
        raise _refusal(f"about {seconds:.0f} s", f"{limits.seconds:.0f} s", advice)
    if usage.memory_megabytes > limits.memory_megabytes:
        advice = (
            "smaller batches (--set submission.batch_size=16) or a smaller network would take less"
        )
        memory = f"{usage.memory_megabytes:.0f} MB of memory"
        raise _refusal(memory, f"{limits.memory_megabytes:.0f} MB", advice)


def require_size(megabytes: float, limits: LimitsConfig, float16: bool) -> None:
    """Raise CheckFailedError, with settings that would fit, for a zip of too many megabytes."""
    if megabytes > limits.zip_megabytes:
        halved = megabytes / 2
        advice = "a smaller network (--final NAME) would take less"
        if not float16 and halved <= limits.zip_megabytes:
            advice = (
                f"float16 weights (--set submission.float16=true) would take about {halved:.1f} MB"
            )
        raise _refusal(f"a zip of {megabytes:.1f} MB", f"{limits.zip_megabytes:.1f} MB", advice)


def _fewer_views(usage: Usage, limits: LimitsConfig, views: int) -> str:
    for fewer in range(views - 1, 0, -1):
        seconds = usage.seconds(limits.images, fewer / views)
        if seconds <= limits.seconds:
            setting = f"--set evaluation.tta_views={fewer}"
            return f"{fewer} views ({setting}) would take about {seconds:.0f} s"
    return (
        "not even one view would fit; a smaller network (--final NAME) or smaller images "
        "would take less"
    )


def _refusal(taken: str, granted: str, advice: str) -> CheckFailedError:
    return CheckFailedError(
        f"The submission does not fit on the server: {taken}, over the limit of {granted}; "
        f"{advice}."
    )
