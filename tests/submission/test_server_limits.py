"""The usage on the server: a few images tell of five thousand, and too much is refused."""

import numpy as np
import pytest

from competition.codabench.dry_run import Predictions
from competition.common.errors import CheckFailedError
from competition.config import LimitsConfig
from competition.submission.server_limits import (
    Usage,
    describe_usage,
    estimate_usage,
    require_size,
    require_usage,
)

LIMITS = LimitsConfig(seconds=600, memory_megabytes=1000, zip_megabytes=10, images=5000)


def estimate(
    count: int,
    seconds: tuple[float, float, float],
    side: int = 8,
    batch_size: int = 1,
    limits: LimitsConfig = LIMITS,
) -> Usage:
    labels, probabilities = np.zeros(count, np.int64), np.zeros((count, 3), np.float32)
    predictions = Predictions(
        labels, probabilities, seconds, wall_seconds=9.0, peak_megabytes=900.0, output=""
    )
    images = np.zeros((count, side, side, 3), np.uint8)
    return estimate_usage(predictions, images, batch_size, 1.0, limits)


def test_the_time_of_compiling_is_not_multiplied() -> None:
    # 256 images at 0.01 s each, after 20 s of compiling and 5 s of loading.
    usage = estimate(256, (5.0, 22.56, 2.56))
    assert usage.seconds(5000) == pytest.approx(5 + 20 + 50)
    assert usage.seconds(256) == pytest.approx(5 + 22.56)


def test_a_slower_second_prediction_does_not_count() -> None:
    assert estimate(500, (0.0, 5.0, 99.0)).seconds(5000) == pytest.approx(50)


def test_a_batch_takes_as_long_however_many_images_fill_it() -> None:
    usage = estimate(256, (0.0, 4.0, 4.0), batch_size=1000)
    assert usage.seconds(5000) == pytest.approx(5 * 4)
    assert usage.seconds(5001) == pytest.approx(6 * 4)


def test_memory_grows_by_the_images_that_are_still_to_come() -> None:
    usage = estimate(1000, (0, 1, 1), side=96)
    assert usage.memory_megabytes == pytest.approx(900 + 4000 * 96 * 96 * 3 / 2**20)
    few = estimate(1000, (0, 1, 1), side=96, limits=LimitsConfig(images=10))
    assert few.memory_megabytes == 900


FITS = Usage(100, seconds_per_batch=0.1, batch_size=1, memory_megabytes=1000, zip_megabytes=10)


def test_a_usage_that_just_fits_passes_and_shows_its_margin() -> None:
    require_usage(FITS, LIMITS, views=5)
    require_size(FITS.zip_megabytes, LIMITS, float16=False)
    assert describe_usage(FITS, LIMITS) == (
        "5000 images on 2 cores: about 600 of 600 s, 1000 of 1000 MB of memory; zip 10.0 of 10 MB"
    )


@pytest.mark.parametrize(
    ("usage", "sentence"),
    [
        (
            Usage(100, 0.16, 1, 10, 1),
            r"about 900 s, over the limit of 600 s; 3 views \(--set evaluation.tta_views=3\)",
        ),
        (Usage(100, 0.6, 1, 10, 1), "not even one view would fit; a smaller network"),
        (
            Usage(1, 0.1, 1, 1001, 1),
            "1001 MB of memory, over the limit of 1000 MB; smaller batches",
        ),
    ],
)
def test_too_much_time_or_memory_is_refused_with_settings_that_would_fit(
    usage: Usage, sentence: str
) -> None:
    with pytest.raises(CheckFailedError, match=sentence):
        require_usage(usage, LIMITS, views=5)


@pytest.mark.parametrize(
    ("megabytes", "float16", "sentence"),
    [
        (19, False, r"a zip of 19.0 MB, over the limit of 10.0 MB; float16 weights .* 9.5 MB"),
        (19, True, "a smaller network"),
        (21, False, "a smaller network"),
    ],
)
def test_a_zip_that_is_too_large_is_refused_with_settings_that_would_fit(
    megabytes: float, float16: bool, sentence: str
) -> None:
    with pytest.raises(CheckFailedError, match=sentence):
        require_size(megabytes, LIMITS, float16)
