"""Training keeps its best epoch, and goes on after a crash as if it had not stopped."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.utils.class_weight import compute_class_weight

from competition.common import console
from competition.common.errors import TrialFailedError, UserError
from competition.config import Config, TrainingConfig, with_settings
from competition.data.arrays import TrainingData, one_hot
from competition.metric import get_metric
from competition.networks.layers import find_backbone, find_border
from competition.networks.weights import RANDOM, Weights
from competition.training import batches, callbacks, keepers
from competition.training import train as training
from competition.training.batches import Batches, image_batches
from competition.training.keepers import Checkpoint
from competition.training.selection import selection_score
from competition.training.stages import Stage
from competition.training.train import (
    build_network,
    count_divergences,
    fit_stage,
    has_stalled,
    plateau_factor,
    predict,
    train,
)
from tests.factories import CONFIG, make_data

# Scores change from epoch to epoch, and all that has a state is on.
LIVELY = with_settings(
    CONFIG,
    {
        "seed": 4,
        "training.batch_size": 8,
        "training.head_learning_rate": 0.03,
        "training.fine_tuning_learning_rate": 0.03,
        "training.unfreeze": 1.0,
        "training.batch_norm": "training",
        "training.average": 0.4,
        "training.start_size": 16,  # which is raised to the smallest size, 32
        "model.input_size": 48,
        "augmentation.mixup": 0.0,
    },
)
ONE_STEP = {
    "training.batch_size": 60,
    "training.frozen_epochs": 0,
    "training.fine_tuning_epochs": 1,
    "training.warm_up": 0.0,
}


class KilledError(Exception):
    """Stands for the end of the process."""


def train_in(
    folder: Path, config: Config, weights: Weights, data: TrainingData | None = None
) -> Checkpoint:
    """Train the tiny network in a folder, or go on there; return what is kept."""
    data = data or make_data()
    keras.utils.set_random_seed(config.seed)
    keeper = Checkpoint(folder, build_network(config, data, weights))
    train(config, data, weights, keeper, None)
    return keeper


def kill_after(patch: pytest.MonkeyPatch, owner: Any, method: str, calls: int) -> None:
    """Let the process die at the end of each so-many-th call of a method."""
    original = getattr(owner, method)
    made = []

    def die(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        made.append(method)
        if len(made) % calls == 0:
            raise KilledError

    patch.setattr(owner, method, die)


def train_until_done(folder: Path, config: Config, weights: Weights) -> tuple[Checkpoint, int]:
    """Start a training again whenever it is killed; return what is kept, and how often it was."""
    for deaths in range(20):
        try:
            return train_in(folder, config, weights), deaths
        except KilledError:
            continue
    raise AssertionError("It never got on.")


def assert_alike(broken: Checkpoint, whole: Checkpoint) -> None:
    columns = ["stage", "epoch", "side", "progress", "val_loss", "val_accuracy", "learning_rate"]
    mended, expected = (pd.DataFrame(keeper.history)[columns] for keeper in (broken, whole))
    pd.testing.assert_frame_equal(mended, expected, rtol=2e-3)
    for mine, other in zip(broken.network.weights, whole.network.weights, strict=True):
        if "float" in str(mine.dtype):
            values = keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(other)
            np.testing.assert_allclose(*values, rtol=2e-3, atol=1e-5)


@pytest.fixture(scope="module", autouse=True)
def frequent_average() -> Iterator[None]:
    """Let averages take in weights within the few steps of these epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "STEPS_PER_AVERAGE", 2)
        yield


@pytest.fixture(scope="module")
def whole(pretrained: Weights, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A training that nothing interrupts."""
    return train_in(tmp_path_factory.mktemp("whole"), LIVELY, pretrained)


def test_an_unbroken_training_has_all_its_stages_and_epochs(whole: Checkpoint) -> None:
    assert [row["stage"] for row in whole.history] == ["frozen"] * 2 + ["fine-tuning"] * 3
    assert [row["epoch"] for row in whole.history] == [0, 1, 0, 1, 2]
    assert [row["side"] for row in whole.history] == [32, 48, 32, 48, 48]
    assert len({row["val_accuracy"] for row in whole.history}) > 1


def test_progress_is_that_of_all_stages_by_their_cost(
    pretrained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, str]] = []
    monkeypatch.setattr(console, "TELL_SECONDS", -1.0)
    monkeypatch.setattr(console, "_write_task", lambda share, doing: told.append((share, doing)))
    with console.task(tmp_path / "task.json"):
        train_in(tmp_path / "run", with_settings(CONFIG, {"training.frozen_epochs": 3}), pretrained)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    frozen = max(share for share, doing in told if doing.startswith("frozen"))
    epochs = CONFIG.training.fine_tuning_epochs
    assert frozen == pytest.approx(1 / (1 + epochs))  # three epochs, each a third of the cost


def test_the_metric_that_decides_chooses_the_epoch_that_is_kept(
    pretrained: Weights, tmp_path: Path
) -> None:
    config = with_settings(LIVELY, {"metric": "log_loss"})
    data, metric = make_data(), get_metric("log_loss")
    keras.utils.set_random_seed(config.seed)
    network = build_network(config, data, pretrained)
    keeper = Checkpoint(tmp_path, network, metric=metric)
    train(config, data, pretrained, keeper, None)
    losses = [row["val_log_loss"] for row in keeper.history]
    assert keeper.best_score == -min(losses)
    assert len(set(losses)) == len(losses)
    predictions = predict(network, data.validation_images)
    kept = selection_score(metric, data.validation_labels, predictions)
    assert kept == pytest.approx(-min(losses), abs=1e-5)
    assert all(0 <= row["val_accuracy"] <= 1 for row in keeper.history)
    again = Checkpoint(tmp_path, network, metric=metric)
    assert again.best_score == keeper.best_score


def test_both_stages_from_real_weights_learn(imagenet: Weights, tmp_path: Path) -> None:
    changes = {"model.backbone": "efficientnetlite0", "training.unfreeze": 0.3}
    changes |= {"augmentation.cutmix": 0.0, "augmentation.mixup": 0.0}
    changes |= {"training.head_learning_rate": 0.01, "training.frozen_epochs": 4}
    history = train_in(tmp_path, with_settings(CONFIG, changes), imagenet).history
    assert [row["stage"] for row in history] == ["frozen"] * 4 + ["fine-tuning"] * 3
    assert history[3]["val_accuracy"] > 0.9
    assert history[-1]["val_loss"] < history[3]["val_loss"]


def test_a_training_killed_after_each_epoch_repeats_what_an_unbroken_one_does(
    whole: Checkpoint, pretrained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after(monkeypatch, Checkpoint, "save", 1)
    broken, deaths = train_until_done(tmp_path, LIVELY, pretrained)
    assert deaths == 5
    assert_alike(broken, whole)


def test_a_training_killed_within_epochs_repeats_what_an_unbroken_one_does(
    whole: Checkpoint, pretrained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "SAVE_SECONDS", 0.0)
    kill_after(monkeypatch, callbacks.StepWatcher, "on_train_batch_end", 12)
    broken, deaths = train_until_done(tmp_path, LIVELY, pretrained)
    assert deaths == 2  # of 35 steps, seven per epoch
    assert_alike(broken, whole)


def test_early_stopping_ends_a_stage_after_a_crash_as_it_would_have_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.4, 0.6, 0.5, 0.6, 0.1, 0.9, 0.9])
    features = np.zeros((9, 4), np.float32)
    labels = np.arange(9) % 3
    epochs = Batches(features[None], one_hot(labels, 3)[None], batch_size=9, seed=0)
    stage = Stage("only", 1.0, "inference", epochs=8, learning_rate=0.1, l2=0.0)

    def go_on() -> list[float]:
        inputs = keras.Input((4,))
        network = keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs))
        keeper = Checkpoint(tmp_path, network)
        config = with_settings(CONFIG, {"training.stopping_patience": 3})
        fit_stage(network, epochs, (features, labels), stage, config, keeper)
        return keeper.scores(stage.name)

    def answer(network: keras.Model, inputs: np.ndarray) -> np.ndarray:
        right = np.arange(9) < 9 * next(scores)
        return np.eye(3, dtype=np.float32)[np.where(right, labels, (labels + 1) % 3)]

    monkeypatch.setattr(training, "predict", answer)
    kill_after(monkeypatch, Checkpoint, "save", 4)
    with pytest.raises(KilledError):
        go_on()
    assert go_on() == pytest.approx([4 / 9, 6 / 9, 5 / 9, 6 / 9, 1 / 9])


@pytest.mark.parametrize("seed", range(8))
def test_early_stopping_and_plateau_are_keras_own_as_functions_of_the_scores(seed: int) -> None:
    scores = (np.random.default_rng(seed).integers(0, 6, 12) / 6).tolist()
    changes = {
        "training.schedule": "plateau",
        "training.plateau_patience": 1 + seed % 3,
        "training.plateau_factor": 0.3,
        "training.stopping_patience": 2 + seed % 4,
    }
    config = with_settings(CONFIG, changes).training
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(1.0), "mse")
    model.stop_training = False
    named = {"monitor": "score", "mode": "max", "min_delta": 0}
    stopping = keras.callbacks.EarlyStopping(patience=config.stopping_patience, **named)
    plateau = keras.callbacks.ReduceLROnPlateau(
        patience=config.plateau_patience, factor=config.plateau_factor, min_lr=0, **named
    )
    for callback in (stopping, plateau):
        callback.set_model(model)
        callback.on_train_begin()
    for epoch in range(len(scores)):
        for callback in (stopping, plateau):
            callback.on_epoch_end(epoch, {"score": scores[epoch]})
        rate = float(model.optimizer.learning_rate)
        assert plateau_factor(scores[: epoch + 1], config) == pytest.approx(rate, rel=1e-5)
        assert has_stalled(scores[: epoch + 1], config) == model.stop_training
        if model.stop_training:
            break


def test_without_patience_or_plateau_scores_change_nothing() -> None:
    assert not has_stalled([0.5] * 99, CONFIG.training)
    assert plateau_factor([0.5] * 99, CONFIG.training) == 1


def test_the_best_epoch_is_what_remains(whole: Checkpoint) -> None:
    data = make_data()
    predictions = predict(whole.network, data.validation_images)
    accuracy = float(np.mean(predictions.argmax(axis=1) == data.validation_labels))
    assert accuracy == pytest.approx(whole.best_score, abs=1e-6)
    assert max(row["val_accuracy"] for row in whole.history) == whole.best_score
    np.testing.assert_allclose(np.load(whole.folder / keepers.PREDICTIONS), predictions, atol=1e-6)


def test_a_loss_that_diverges_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(labels: np.ndarray, classes: int) -> np.ndarray:
        return np.full((len(labels), classes), np.nan, np.float32)

    monkeypatch.setattr(batches, "one_hot", spoil)
    with pytest.raises(TrialFailedError, match="a lower rate is needed"):
        train_in(tmp_path, CONFIG, RANDOM)


def test_a_run_that_diverges_goes_on_from_its_best_weights_more_slowly(
    pretrained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = training.shape_rate

    def spoil(progress: float, config: TrainingConfig) -> float:
        return 1e30 if 0.4 < progress < 0.6 else plain(progress, config)  # in the third epoch

    monkeypatch.setattr(training, "shape_rate", spoil)
    config = with_settings(LIVELY, {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 5})
    kept = train_in(tmp_path / "a", config, pretrained)
    rows = [row for row in kept.history if row["stage"] == "fine-tuning"]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["val_accuracy"] is None for row in rows] == [False, False, True, False, False]
    rate = plain(rows[3]["progress"], config.training) * config.training.fine_tuning_learning_rate
    assert rows[3]["learning_rate"] == pytest.approx(rate / 3, rel=0.3)
    assert max(row["val_accuracy"] for row in rows if row["val_accuracy"]) == kept.best_score
    images = make_data().validation_images
    np.testing.assert_allclose(
        np.load(kept.folder / keepers.PREDICTIONS), predict(kept.network, images), atol=1e-6
    )
    with pytest.MonkeyPatch.context() as patch:  # killed between the divergence and the end
        kill_after(patch, Checkpoint, "save", 4)
        broken, _ = train_until_done(tmp_path / "b", config, pretrained)
    assert_alike(broken, kept)


@pytest.mark.parametrize(
    ("losses", "count"),
    [
        ([4.4, 2.6, 1.2, 0.9], 0),
        ([0.02, 0.05, 0.03], 0),
        ([1.1, 0.7, 451.4, 0.9, 2.07], 2),
        ([1.1, math.nan, 0.9, math.inf], 2),
    ],
)
def test_a_loss_diverges_where_it_knows_nothing_again(losses: list[float], count: int) -> None:
    assert count_divergences(losses, 8) == count


def test_no_epoch_at_all_is_refused(tmp_path: Path) -> None:
    config = with_settings(CONFIG, {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 0})
    with pytest.raises(UserError, match="at least one of them must be more"):
        train_in(tmp_path, config, RANDOM)


def test_class_weights_are_scikit_learns_balanced_ones() -> None:
    labels = np.repeat([0, 1, 2], [5, 10, 45])
    images, config = make_data().images, with_settings(CONFIG, {"training.class_weights": True})
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    for classes in (3, 4):
        data = TrainingData(images, labels, images, labels, classes)
        weights = image_batches(data, config).class_weights
        assert weights is not None
        np.testing.assert_allclose(weights, np.pad(3 / classes * expected, (0, classes - 3)))


@pytest.mark.parametrize(
    "changes",
    [
        {"training.label_smoothing": 0.0},
        {"training.label_smoothing": 0.2, "training.class_weights": True},
        {"augmentation.mixup": 1.0, "training.class_weights": True},
    ],
)
def test_the_loss_is_the_cross_entropy_of_smoothed_mixed_and_weighted_labels(
    changes: dict[str, Any], pretrained: Weights, tmp_path: Path
) -> None:
    frozen = {"training.frozen_epochs": 1, "training.fine_tuning_epochs": 0}
    plain = {"augmentation.mixup": 0.0, "augmentation.cutmix": 0.0}
    plain |= {"model.dropout": 0.0, "model.l2": 0.0}
    config = with_settings(CONFIG, plain | ONE_STEP | frozen | changes)
    few = make_data()
    labels = np.repeat([0, 1, 2], [5, 10, 45])
    data = TrainingData(few.images, labels, few.validation_images, few.validation_labels, 3)
    images, targets, *weights = next(image_batches(data, config).draw(0))
    assert (np.asarray(targets).max(axis=1) < 0.99).any() == ("augmentation.mixup" in changes)
    keras.utils.set_random_seed(config.seed)
    probabilities = predict(build_network(config, data, pretrained), np.asarray(images))
    smoothing = config.training.label_smoothing
    smoothed = (1 - smoothing) * np.asarray(targets) + smoothing / 3
    expected = -(smoothed * np.log(probabilities)).sum(axis=1)
    if weights:
        expected = expected * np.asarray(weights[0])
    (row,) = train_in(tmp_path, config, pretrained, data).history
    assert row["loss"] == pytest.approx(float(expected.mean()), rel=1e-4)
    hits = probabilities.argmax(axis=1) == np.asarray(targets).argmax(axis=1)
    assert row["accuracy"] == pytest.approx(float(hits.mean()), abs=1e-6)
    assert row["side"] == 32


@pytest.mark.parametrize("batch_norm", ["inference", "training"])
def test_statistics_change_only_in_the_share_that_trains_and_only_in_training_mode(
    batch_norm: str, pretrained: Weights, tmp_path: Path
) -> None:
    config = with_settings(CONFIG, ONE_STEP | {"training.batch_norm": batch_norm})
    backbone = find_backbone(build_network(config, make_data(), pretrained))
    keeper = train_in(tmp_path, config, pretrained)
    border = find_border(backbone, config.training.unfreeze)
    changed = []
    trained = find_backbone(keeper.network).layers
    for index, layer in enumerate(backbone.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            before = keras.ops.convert_to_numpy(layer.moving_mean)
            after = keras.ops.convert_to_numpy(trained[index].moving_mean)
            changed.append((index >= border, bool(np.abs(after - before).max() > 1e-4)))
    assert {is_upper for is_upper, _ in changed} == {True, False}
    for is_upper, has_changed in changed:
        assert has_changed == (is_upper and batch_norm == "training")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The input sides of the training steps that are traced."""
    sides: list[int] = []
    original: Callable[..., Any] = keras.Model.train_step

    def train_step(model: keras.Model, *arguments: Any) -> Any:
        sides.append(model.input_shape[1])
        return original(model, *arguments)

    monkeypatch.setattr(keras.Model, "train_step", train_step)
    return sides


def test_a_step_is_traced_once_per_size_and_the_size_grows_to_the_full_one(
    traced: list[int], pretrained: Weights, tmp_path: Path
) -> None:
    changes = {"training.start_size": 32, "model.input_size": 64, "training.frozen_epochs": 0}
    history = train_in(tmp_path, with_settings(CONFIG, changes), pretrained).history
    assert [row["side"] for row in history] == [32, 48, 64]
    # The full size is the backbone's; the network resizes the images of 32 pixels itself.
    assert traced == [32, 48, 32]


def test_a_step_is_traced_once_per_stage(
    traced: list[int], pretrained: Weights, tmp_path: Path
) -> None:
    train_in(tmp_path, CONFIG, pretrained)
    assert traced == [32, 32]


def test_in_mixed_precision_weights_are_float32_and_give_the_same_answers_without_it() -> None:
    data = make_data()
    config = with_settings(CONFIG, {"training.precision": "mixed_bfloat16"})
    network = build_network(config, data, RANDOM)
    assert keras.config.dtype_policy().name == "float32", "others are built as before"
    assert {layer.compute_dtype for layer in find_backbone(network).layers[1:]} == {"bfloat16"}
    assert network.layers[-1].compute_dtype == "float32"
    keeper = keepers.Keeper()
    stage = Stage("fine-tuning", 1.0, "training", 2, 0.01, 1e-5)
    stage.prepare(network, 0.9)
    validation = data.validation_images, data.validation_labels
    fit_stage(network, image_batches(data, config), validation, stage, config, keeper)
    assert {str(weight.dtype) for weight in network.trainable_weights} == {"float32"}
    whole = build_network(CONFIG, data, RANDOM)
    whole.set_weights(network.get_weights())
    predictions = predict(network, data.validation_images)
    assert predictions.dtype == np.float32
    np.testing.assert_allclose(predict(whole, data.validation_images), predictions, atol=0.05)
    assert np.ptp(predictions) > 0.1
