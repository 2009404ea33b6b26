"""What a submission will take on the server, extrapolated from a run on fewer pictures, against what is granted."""

from dataclasses import dataclass

import numpy as np

from competition.codabench.dry_run import Answers
from competition.common.errors import UserError
from competition.config import LimitsConfig


@dataclass(frozen=True)
class Budget:
    """What a submission takes on the server.

    fixed_seconds: of loading and compiling. seconds_per_picture: with all views. memory_megabytes: at the peak, the
    pictures included.
    """

    fixed_seconds: float
    seconds_per_picture: float
    memory_megabytes: float
    zip_megabytes: float

    def seconds(self, pictures: int, share: float = 1.0) -> float:
        """Return the seconds for that many pictures, with a share of the views."""
        return self.fixed_seconds + pictures * self.seconds_per_picture * share


def estimate(
    answers: Answers, images: np.ndarray, zip_megabytes: float, limits: LimitsConfig
) -> Budget:
    """Extrapolate from what a run on `images` (n, h, w, 3) took to `limits.images` pictures.

    The second prediction, of some pictures for their probabilities, compiles nothing; its rate holds for the rest.
    """
    load, first, second = answers.seconds
    repeated = 0 if answers.probabilities is None else len(answers.probabilities)
    rate = min(first / len(images), second / repeated if repeated else np.inf)
    further = max(0, limits.images - len(images)) * images[0].nbytes / 2**20
    fixed = load + first - rate * len(images)
    return Budget(fixed, float(rate), answers.peak_megabytes + further, zip_megabytes)


def describe(budget: Budget, limits: LimitsConfig) -> str:
    """Return the budget beside what is granted."""
    seconds = budget.seconds(limits.images)
    return (
        f"{limits.images} pictures on {limits.cores or 'all'} cores: about {seconds:.0f} of {limits.seconds:.0f} s, "
        f"{budget.memory_megabytes:.0f} of {limits.memory_megabytes:.0f} MB of memory; "
        f"zip {budget.zip_megabytes:.1f} of {limits.zip_megabytes:.0f} MB"
    )


def require(budget: Budget, limits: LimitsConfig, views: int) -> None:
    """Raise UserError, naming what would fit, where the submission takes more time or memory than is granted."""
    seconds = budget.seconds(limits.images)
    if seconds > limits.seconds:
        raise _refusal(
            f"about {seconds:.0f} s", f"{limits.seconds:.0f} s", _fewer_views(budget, limits, views)
        )
    if budget.memory_megabytes > limits.memory_megabytes:
        advice = (
            "smaller batches (--set submission.batch_size=16) or a smaller network would take less"
        )
        memory = f"{budget.memory_megabytes:.0f} MB of memory"
        raise _refusal(memory, f"{limits.memory_megabytes:.0f} MB", advice)


def require_size(megabytes: float, limits: LimitsConfig, float16: bool) -> None:
    """Raise UserError, naming what would fit, where the zip has more megabytes than is granted."""
    if megabytes > limits.zip_megabytes:
        halved = megabytes / 2
        fits = not float16 and halved <= limits.zip_megabytes
        advice = f"float16 weights (--set submission.float16=true) would take about {halved:.1f} MB"
        advice = advice if fits else "a smaller network (--final NAME) would take less"
        raise _refusal(f"a zip of {megabytes:.1f} MB", f"{limits.zip_megabytes:.1f} MB", advice)


def _fewer_views(budget: Budget, limits: LimitsConfig, views: int) -> str:
    for fewer in range(views - 1, 0, -1):
        seconds = budget.seconds(limits.images, fewer / views)
        if seconds <= limits.seconds:
            return (
                f"{fewer} views (--set evaluation.tta_views={fewer}) would take about {seconds:.0f} s"
            )
    return "not even one view would fit; a smaller network (--final NAME) or smaller pictures would take less"


def _refusal(taken: str, granted: str, advice: str) -> UserError:
    return UserError(
        f"The submission does not fit on the server: {taken}, over the limit of {granted}; {advice}."
    )
