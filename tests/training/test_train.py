"""Training resumes as if it had not stopped, in both stages."""

import gc
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.utils.class_weight import compute_class_weight

from competition.augmentation.augment import Augmentation
from competition.common.errors import UserError
from competition.config import with_settings
from competition.data.arrays import one_hot
from competition.networks.layers import TrainingModel, create_network, network_spec
from competition.networks.weights import RANDOM, Weights
from competition.training import callbacks
from competition.training import train as training
from competition.training.train import class_weights, plan_stages, train
from tests.factories import CONFIG, draw_blobs, make_data


class KilledError(Exception):
    """Stands for the end of the process."""


def kill_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Let the process die right after the checkpoint of that many epochs."""
    original = callbacks.Checkpoint.on_epoch_end

    def on_epoch_end(self: callbacks.Checkpoint, epoch: int, logs: dict[str, float]) -> None:
        original(self, epoch, logs)
        if len(self.state["history"]) == epochs:
            raise KilledError

    monkeypatch.setattr(callbacks.Checkpoint, "on_epoch_end", on_epoch_end)


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_killed_training_repeats_what_an_unbroken_one_does(
    epochs: int, pretrained: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(CONFIG, make_data(), pretrained, tmp_path / "whole")
    kill_after(monkeypatch, epochs)
    with pytest.raises(KilledError):
        train(CONFIG, make_data(), pretrained, tmp_path / "broken")
    monkeypatch.undo()
    train(CONFIG, make_data(), pretrained, tmp_path / "broken")
    whole, broken = (pd.read_csv(tmp_path / name / "history.csv") for name in ("whole", "broken"))
    assert whole["stage"].tolist() == ["frozen"] * 2 + ["fine-tuning"] * 3
    columns = ["stage", "epoch", "val_loss", "val_accuracy", "learning_rate"]
    pd.testing.assert_frame_equal(whole[columns], broken[columns], rtol=2e-3)


def test_early_stopping_remembers_its_patience_across_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "training.fine_tuning_epochs": 8,
        "training.stopping_patience": 3,
        "training.head_learning_rate": 1e-8,
    }
    config = with_settings(CONFIG, changes)
    kill_after(monkeypatch, 3)
    with pytest.raises(KilledError):
        train(config, make_data(), RANDOM, tmp_path)
    monkeypatch.undo()
    waited = callbacks.read_state(tmp_path / "checkpoint")["callbacks"][0]["wait"]
    train(config, make_data(), RANDOM, tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert waited > 0
    assert len(history) == int(history["val_accuracy"].to_numpy().argmax()) + 1 + 3


def test_the_best_epoch_is_what_remains(tmp_path: Path) -> None:
    data = make_data()
    assert train(CONFIG, data, RANDOM, tmp_path)
    network = create_network(network_spec(CONFIG.model, (32, 32, 3), 3), RANDOM)
    network.load_weights(tmp_path / "network.weights.h5")
    hits = (
        network.predict(data.validation_images, verbose=0).argmax(axis=1) == data.validation_labels
    )
    history = pd.read_csv(tmp_path / "history.csv")
    assert hits.mean() == pytest.approx(history["val_accuracy"].max(), abs=1e-6)


def test_a_loss_that_diverges_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
        return np.full((len(labels), classes), np.nan, np.float32)

    monkeypatch.setattr(training, "one_hot", one_hot)
    with pytest.raises(UserError, match="a lower rate is needed"):
        train(CONFIG, make_data(), RANDOM, tmp_path)


def test_random_weights_train_in_one_stage_of_all_epochs() -> None:
    (stage,) = plan_stages(CONFIG, RANDOM)
    assert (stage.name, stage.epochs, stage.learning_rate) == ("from scratch", 5, 1e-3)


def test_a_limit_keeps_classes_even_and_validation_whole() -> None:
    data = make_data()
    few = data.limited(30, seed=0)
    assert np.bincount(few.labels).tolist() == [10, 10, 10]
    assert len(few.images) == 30
    assert few.validation_images is data.validation_images


def test_a_trial_is_scored_on_about_twice_as_many_pictures_as_it_trains_on() -> None:
    data = make_data(60)
    assert len(data.validation_labels) == 36
    assert [len(data.for_trial(limit, 0).validation_labels) for limit in (60, 18, 11, 9, 4)] == [
        36,
        36,
        18,
        18,
        9,
    ]
    assert len(data.for_trial(9, 0).labels) == 9


def test_what_the_time_limit_cuts_short_goes_on_with_the_next_call(tmp_path: Path) -> None:
    assert not train(CONFIG, make_data(), RANDOM, tmp_path, deadline=time.monotonic())
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1
    assert train(CONFIG, make_data(), RANDOM, tmp_path)
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2, 3, 4, 5]


def test_an_epoch_that_goes_on_too_long_is_cut_short_and_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not train(CONFIG, make_data(), RANDOM, tmp_path, deadline=time.monotonic() - 1000)
    history = pd.read_csv(tmp_path / "history.csv")
    assert len(history) == 1
    assert np.isfinite(history["val_accuracy"]).all()
    assert "ends within an epoch, after 1 of 3 steps" in capsys.readouterr().out


def test_a_share_of_the_pictures_makes_a_shorter_epoch(tmp_path: Path) -> None:
    assert train(with_settings(CONFIG, {"training.epoch_share": 0.6}), make_data(), RANDOM, tmp_path)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 5


def test_class_weights_are_scikit_learn_s_balanced_ones() -> None:
    labels = np.repeat([0, 1, 2, 3], [5, 10, 15, 30])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(labels, 4), expected)
    assert class_weights(labels, 5)[4] == 0


def test_no_epoch_at_all_is_refused(tmp_path: Path) -> None:
    config = with_settings(CONFIG, {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 0})
    with pytest.raises(UserError, match="at least one must be more"):
        train(config, make_data(), RANDOM, tmp_path)


def test_a_training_step_is_traced_once_before_it_runs() -> None:
    traced = []

    class Count(keras.layers.Layer):
        def call(self, images: object, labels: object) -> object:
            traced.append(images)
            return images, labels

    data = make_data()
    network = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model = training.compile_model(network, Count(), CONFIG.training, 1e-3, 10)
    traced.clear()
    model.fit((data.images, one_hot(data.labels, 3)), batch_size=20, epochs=2, verbose=0)
    assert len(traced) == 1


def mixing_model(smoothing: float) -> TrainingModel:
    """Return a model of which every picture is mixed in training."""
    network = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    augmentation = Augmentation(with_settings(CONFIG, {"augmentation.mixup": 1.0}).augmentation, 0)
    return training.compile_model(
        network,
        augmentation,
        with_settings(CONFIG, {"training.label_smoothing": smoothing}).training,
        1e-3,
        10,
    )


def count_graphs() -> int:
    """Return how many graphs of training steps are in memory."""
    keras.utils.clear_session(free_memory=True)
    known = [item for item in gc.get_objects() if type(item).__name__ == "FuncGraph"]
    return sum(graph.name == "one_step_on_data" for graph in known)


@pytest.mark.parametrize("optimizer", list(training.OPTIMIZERS))
def test_of_a_training_that_is_over_nothing_stays_in_memory(optimizer: str, tmp_path: Path) -> None:
    before = count_graphs()
    changes = {
        "training.optimizer": optimizer,
        "training.frozen_epochs": 0,
        "training.fine_tuning_epochs": 1,
    }
    train(with_settings(CONFIG, changes), make_data(), RANDOM, tmp_path)
    assert count_graphs() == before


def test_the_loss_is_the_cross_entropy_with_mixed_weighted_and_smoothed_labels() -> None:
    model, weights = mixing_model(smoothing=0.1), np.array([1.0, 2.0, 4.0], np.float32)
    images, targets = draw_blobs(12, 3, seed=4)[0], one_hot(np.arange(12) % 3, 3)
    probabilities, mixed = (
        np.asarray(output) for output in model((images, targets), training=True)
    )
    assert ((mixed > 0.01).sum(axis=1) == 2).any()
    model.class_weights = weights
    loss = model.compute_loss(y_pred=(probabilities, mixed))
    expected = -((0.9 * mixed + 0.1 / 3) * np.log(np.clip(probabilities, 1e-7, 1))).sum(axis=1)
    assert float(loss) == pytest.approx(float(np.mean(expected * (mixed @ weights))), rel=1e-4)
    loss = model.compute_loss(y_pred=(probabilities, mixed), training=False)
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-4)


def test_accuracy_counts_the_class_of_the_larger_part() -> None:
    model = mixing_model(smoothing=0.0)
    mixed = np.array([[0.6, 0.4, 0.0], [0.3, 0.0, 0.7]], np.float32)
    logs = model.compute_metrics(
        None, None, (np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], np.float32), mixed)
    )
    assert float(logs["accuracy"]) == 0.5


def test_a_compiled_step_trains_on_mixed_labels_and_validation_on_plain_ones() -> None:
    model = mixing_model(smoothing=0.0)
    images, targets = draw_blobs(12, 3, seed=4)[0], one_hot(np.arange(12) % 3, 3)
    (_, plain), (_, mixed) = (
        model((images, targets), training=False),
        model((images, targets), training=True),
    )
    np.testing.assert_array_equal(np.asarray(plain), targets)
    assert (np.asarray(mixed) != targets).any()
    history = model.fit(
        (images, targets), batch_size=6, epochs=2, validation_data=((images, targets),), verbose=0
    )
    assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()
