"""The live view: each epoch's numbers in files, TensorBoard and MLflow while a run still trains."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from competition.command_line import build_parser
from competition.common.errors import UserError
from competition.common.settings_files import read_settings
from competition.config import with_settings
from competition.data.arrays import PreparedData
from competition.networks.weights import RANDOM
from competition.request import read_request
from competition.training.keepers import Checkpoint
from competition.training.live import check_live_views, open_live_views
from competition.training.runs import read_history, train_run
from tests.factories import CONFIG

QUICK = with_settings(CONFIG, {"training.frozen_epochs": 0, "training.fine_tuning_epochs": 3})


def test_the_history_grows_by_a_row_per_epoch_while_a_run_trains(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def save(self: Checkpoint, *arguments: Any) -> None:
        original(self, *arguments)
        rows.append(len(read_history(tmp_path / "tiny_cnn_001")))

    original = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", save)
    train_run(QUICK, prepared, RANDOM, tmp_path)
    assert rows == [1, 2, 3]


def test_tensorboard_gets_the_numbers_of_the_history_under_the_name_of_the_run(
    prepared: PreparedData, tmp_path: Path
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = with_settings(QUICK, {"live": "tensorboard"})
    run = train_run(shown, prepared, RANDOM, tmp_path)
    events = reader.EventAccumulator(str(run)).Reload()
    table = read_history(run)
    for name in ("loss", "val_accuracy", "learning_rate"):
        scalars = [(item.step, item.tensor_proto.float_val[0]) for item in events.Tensors(name)]
        assert [step for step, _ in scalars] == [1, 2, 3]
        assert [value for _, value in scalars] == pytest.approx(table[name].tolist(), rel=1e-6)
    again = train_run(QUICK, prepared, RANDOM, tmp_path)
    assert again == run, "how it is shown makes no other run"
    assert read_settings(run / "settings.toml")["live"] == ""


@contextmanager
def active(ended: list[str]) -> Iterator[None]:
    yield
    ended.append("run")


def test_mlflow_gets_a_run_of_the_same_name_in_the_experiment_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def start_run(run_name: str) -> Any:
        told.append(run_name)
        return active(told)

    def log_metrics(numbers: dict[str, float], step: int) -> None:
        told.append((numbers, step))

    package = SimpleNamespace(
        set_experiment=told.append,
        start_run=start_run,
        log_metrics=log_metrics,
        exceptions=SimpleNamespace(MlflowException=KeyError),
    )
    monkeypatch.setitem(sys.modules, "mlflow", package)
    with open_live_views("mlflow", tmp_path / "cells" / "runs" / "tiny_cnn_001") as show:
        show({"stage": "fine-tuning", "loss": 0.5, "val_accuracy": None}, 1)
    assert told == ["cells", "tiny_cnn_001", ({"loss": 0.5}, 1), "run"]


def test_a_training_goes_on_where_mlflow_stops_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def log_metrics(numbers: dict[str, float], step: int) -> None:
        raise KeyError("no server")

    package = SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda run_name: active([]),
        log_metrics=log_metrics,
        exceptions=SimpleNamespace(MlflowException=KeyError),
    )
    monkeypatch.setitem(sys.modules, "mlflow", package)
    with open_live_views("mlflow", tmp_path / "runs" / "tiny_cnn_001") as show:
        show({"loss": 0.5}, 1)
    assert "MLflow did not take what tiny_cnn_001 has to show" in capsys.readouterr().out


def test_a_view_that_is_unknown_or_not_installed_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_live_views("")
    with pytest.raises(UserError, match="view in the setting live 'tensorbord'; did you mean"):
        check_live_views("tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlflow, or leave out --mlflow"):
        check_live_views("mlflow")


def test_the_options_of_the_command_line_open_the_views_and_are_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--train", "--workdir", str(tmp_path), "--mlflow", "--tensorboard"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    request = read_request(build_parser().parse_args(given))
    assert request.config.live == "tensorboard+mlflow"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package tensorboard"):
        read_request(build_parser().parse_args(given))
