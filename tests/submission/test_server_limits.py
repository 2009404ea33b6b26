"""The budget: what a few pictures say of five thousand, and what is refused."""

import numpy as np
import pytest

from competition.codabench.dry_run import Answers
from competition.common.errors import UserError
from competition.config import LimitsConfig
from competition.submission.server_limits import Budget, describe, estimate, require, require_size

LIMITS = LimitsConfig(seconds=600, memory_megabytes=1000, zip_megabytes=10, images=5000)


def answers(count: int, seconds: tuple[float, float, float]) -> Answers:
    probabilities = np.zeros((min(count, 256), 3), np.float32)
    return Answers(
        np.zeros(count, np.int64), probabilities, seconds, peak_megabytes=900.0, output=""
    )


def test_what_compiling_took_is_not_multiplied() -> None:
    # 256 pictures at 0.01 s each, after 20 s of compiling and 5 s of loading.
    images = np.zeros((256, 96, 96, 3), np.uint8)
    budget = estimate(answers(256, (5.0, 22.56, 2.56)), images, 1.0, LIMITS)
    assert budget.seconds(5000) == pytest.approx(5 + 20 + 50)
    assert budget.seconds(256) == pytest.approx(5 + 22.56)


def test_a_slower_second_prediction_does_not_count() -> None:
    images = np.zeros((500, 8, 8, 3), np.uint8)
    assert estimate(answers(500, (0.0, 5.0, 99.0)), images, 1.0, LIMITS).seconds(
        5000
    ) == pytest.approx(50)


def test_memory_grows_by_the_pictures_that_are_still_to_come() -> None:
    images = np.zeros((1000, 96, 96, 3), np.uint8)
    budget = estimate(answers(1000, (0, 1, 1)), images, 1.0, LIMITS)
    assert budget.memory_megabytes == pytest.approx(900 + 4000 * 96 * 96 * 3 / 2**20)
    assert (
        estimate(answers(1000, (0, 1, 1)), images, 1.0, LimitsConfig(images=10)).memory_megabytes
        == 900
    )


FITS = Budget(fixed_seconds=100, seconds_per_picture=0.1, memory_megabytes=1000, zip_megabytes=10)


def test_what_just_fits_passes_and_shows_its_margin() -> None:
    require(FITS, LIMITS, views=5)
    require_size(FITS.zip_megabytes, LIMITS, float16=False)
    assert describe(FITS, LIMITS) == (
        "5000 pictures on 2 cores: about 600 of 600 s, 1000 of 1000 MB of memory; zip 10.0 of 10 MB"
    )


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (
            Budget(100, 0.16, 10, 1),
            r"about 900 s, over the limit of 600 s; 3 views \(--set evaluation.tta_views=3\)",
        ),
        (Budget(100, 0.6, 10, 1), "not even one view would fit; a smaller network"),
        (Budget(1, 0.1, 1001, 1), "1001 MB of memory, over the limit of 1000 MB; smaller batches"),
    ],
)
def test_what_takes_too_long_or_too_much_is_refused_with_what_would_fit(
    budget: Budget, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        require(budget, LIMITS, views=5)


@pytest.mark.parametrize(
    ("megabytes", "float16", "sentence"),
    [
        (19, False, r"a zip of 19.0 MB, over the limit of 10.0 MB; float16 weights .* 9.5 MB"),
        (19, True, "a smaller network"),
        (21, False, "a smaller network"),
    ],
)
def test_a_zip_that_is_too_large_is_refused_with_what_would_fit(
    megabytes: float, float16: bool, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        require_size(megabytes, LIMITS, float16)
