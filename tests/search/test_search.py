"""What a search tries, what it makes of the scores, and what it leaves."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import binomtest

from competition.common.errors import TrialFailedError
from competition.common.files import read_json
from competition.config import MILD_AUGMENTATION, Config, with_settings
from competition.data.arrays import TrainingData
from competition.evaluation.metrics import mcnemar
from competition.metric import METRICS
from competition.networks.weights import Weights
from competition.search import rounds
from competition.search import search as module
from competition.search.rounds import EVERYTHING, FINE_TUNING_SPACE, SCRATCH_SPACE, Search
from competition.search.search import (
    CORRECT,
    PROBABILITIES,
    compare_probabilities,
    read_best,
    search_backbone,
)
from competition.search.trial import TrialResult, TrialTrainer
from competition.time_budget import Slot
from tests.factories import draw_blobs, make_data, make_search

Train = Callable[[TrialTrainer, Config, Any], TrialResult]


def answer(score: float, number: int = 36) -> TrialResult:
    """Return a result whose first predictions are right."""
    correct = np.arange(number) < round(score * number)
    return TrialResult(float(correct.mean()), correct, np.where(correct[:, None], [0.9, 0.1], 0.5))


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Three trials, and no final."""
    return make_search(tmp_path, trials=3)


@pytest.fixture
def with_final(tmp_path: Path) -> Search:
    """Five trials, of which two go on."""
    return make_search(tmp_path, trials=5)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace training by a score that is best at the lowest dropout; return what was tried.

    Any gain counts, and nothing is drawn.
    """
    seen: list[Config] = []

    def train(self: TrialTrainer, config: Config, report: Any) -> TrialResult:
        report(1 - config.model.dropout, 1)
        seen.append(config)
        return answer(1 - config.model.dropout)

    monkeypatch.setattr(TrialTrainer, "train", train)
    monkeypatch.setattr(TrialTrainer, "train_head", train)
    monkeypatch.setattr(module, "SIGNIFICANCE", math.inf)
    monkeypatch.setattr("competition.search.report._draw_plots", lambda *_: [])
    monkeypatch.setattr("keras.utils.clear_session", lambda **_: None)  # slow for nothing here
    return seen


def replace_training(monkeypatch: pytest.MonkeyPatch, change: Callable[..., TrialResult]) -> None:
    """Let `change` be called with what trained so far, the trainer, its settings and the report."""
    train: Train = TrialTrainer.train
    monkeypatch.setattr(TrialTrainer, "train", lambda *arguments: change(train, *arguments))


def run(search: Search, data: TrainingData | None = None) -> dict[str, Any]:
    return search_backbone(search, data or make_data(), search.folder / "features")


def more_trials(search: Search, trials: int, **changes: Any) -> Search:
    settings = {"search.trials": trials} | changes
    return dataclasses.replace(search, config=with_settings(search.config, settings))


def read_trials(search: Search, round_name: str = "scratch") -> list[FrozenTrial]:
    names = optuna.get_all_study_names(search.url)
    (name,) = (name for name in names if f"-{round_name}-" in name)
    return optuna.load_study(study_name=name, storage=search.url).trials


def decide(search: Search) -> str:
    return str(read_json(search.folder / "tiny_cnn_best.json")["decision"])


# -- what is tried


def test_the_first_trial_is_the_settings_as_given(search: Search, trained: list[Config]) -> None:
    run(search)
    given, second, third = trained
    assert (given.model, given.augmentation) == (
        dataclasses.replace(search.config.model, input_size=64),
        search.config.augmentation,
    )
    assert len({config.model.dropout for config in (given, second, third)}) == 3
    assert [config.training.limit for config in trained] == [1000] * 3
    assert {config.model.input_size for config in trained} == {search.side * 2 // 3}


def test_a_preset_of_the_augmentation_and_its_numbers_are_tried_together(
    search: Search, trained: list[Config]
) -> None:
    run(more_trials(search, 12))
    mild = [config.augmentation for config in trained if config.augmentation.flips]
    mild = [augmentation for augmentation in mild if not augmentation.transposition]
    assert 0 < len(mild) < 12
    plain = [dataclasses.replace(item, num_operations=2, magnitude=0.4) for item in mild]
    assert set(plain) == {MILD_AUGMENTATION}
    assert len({item.num_operations for item in mild}) > 1


def test_one_trial_is_the_settings_as_given(search: Search, trained: list[Config]) -> None:
    run(more_trials(search, 1))
    assert [config.model.l2 for config in trained] == [search.config.model.l2]


def test_what_the_user_set_is_not_searched(search: Search, trained: list[Config]) -> None:
    config = with_settings(search.config, {"model.l2": 0.005})
    run(dataclasses.replace(search, config=config, fixed=frozenset({"model.l2"})))
    assert [config.model.l2 for config in trained] == [0.005] * 3


def test_nothing_is_tried_where_the_user_set_all(search: Search, trained: list[Config]) -> None:
    assert run(dataclasses.replace(search, fixed=frozenset(SCRATCH_SPACE))) == {}
    assert trained == []


def test_a_finished_study_goes_on_only_for_more_trials(
    search: Search, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    run(search)
    run(search)
    assert len(trained) == 3
    assert "3 are done already; --trials asks for more" in capsys.readouterr().out
    run(more_trials(search, 4))
    assert len({(config.model.dropout, config.model.l2) for config in trained}) == 4


def test_a_finished_study_computes_no_features(
    search: Search,
    trained: list[Config],
    pretrained: Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[Path] = []
    monkeypatch.setattr(module, "cache_features", lambda *arguments: computed.append(arguments[-1]))
    search = dataclasses.replace(search, weights=pretrained)
    run(search)
    assert [path.name for path in computed] == ["tiny_cnn"]
    run(search)
    assert len(computed) == 1


# -- what goes wrong


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrialFailedError("The loss became NaN.\nmore"), "The loss became NaN."),
        (MemoryError(), "MemoryError"),
        (OSError(12, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (RuntimeError("RESOURCE_EXHAUSTED"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_study_goes_on(
    error: Exception,
    reason: str,
    search: Search,
    trained: list[Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail_first(train: Train, *arguments: Any) -> TrialResult:
        result = train(*arguments)
        if len(trained) == 1:
            raise error
        return result

    replace_training(monkeypatch, fail_first)
    run(search)
    trials = read_trials(search)
    states = [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert [trial.state for trial in trials] == states
    assert trials[0].user_attrs["reason"] == reason
    assert f"failed: {reason}" in (search.folder / "tiny_cnn_scratch.md").read_text()
    run(search)
    assert len(trained) == 3, "it is not tried again"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_the_user_ends_the_search_and_the_trial_is_tried_again(
    error: BaseException,
    search: Search,
    trained: list[Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> TrialResult:
        raise error

    with monkeypatch.context() as patch:
        replace_training(patch, fail)
        with pytest.raises(type(error)):
            run(search)
    run(search)
    complete = [TrialState.COMPLETE] * 3
    assert [trial.state for trial in read_trials(search)] == [TrialState.FAIL, *complete]
    tried = [(config.model.dropout, config.model.l2) for config in trained]
    assert tried.count((search.config.model.dropout, search.config.model.l2)) == 1


def test_where_every_trial_fails_the_settings_stay_as_given(
    search: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> TrialResult:
        raise MemoryError("no room for this batch")

    replace_training(monkeypatch, fail)
    assert run(search) == {}
    assert decide(search) == "no trial was finished; the settings stay as given"
    assert "no room for this batch" in (search.folder / "tiny_cnn_scratch.md").read_text()


def test_a_hopeless_trial_is_given_up_but_never_one_that_was_queued(
    search: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    run(search)
    trials = read_trials(search)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert [trial.state for trial in trials] == states
    assert trials[2].value == 1 - trials[2].params["model.dropout"]
    run(search)
    assert len(read_trials(search)) == 3, "it counts"


# -- time


def test_a_search_without_time_changes_nothing(search: Search, trained: list[Config]) -> None:
    now = time.time()
    assert run(dataclasses.replace(search, slot=Slot(now - 1, now))) == {}
    assert trained == []


def test_a_trial_that_the_end_of_the_slot_cuts_is_tried_again_when_there_is_time(
    search: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[bool] = []

    def be_late(train: Train, *arguments: Any) -> TrialResult:
        late.extend([True] * (len(trained) == 2))
        return train(*arguments)

    with monkeypatch.context() as patch:
        replace_training(patch, be_late)
        patch.setattr(Slot, "is_over", property(lambda slot: bool(late)))
        run(dataclasses.replace(search, slot=Slot(0.0, math.inf)))
    cut = read_trials(search)[2]
    assert cut.state == TrialState.FAIL
    run(search)
    trials = read_trials(search)
    assert [trial.state for trial in trials[2:]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials[3].params == cut.params


def test_settings_that_were_not_compared_with_those_as_given_change_nothing(
    search: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        rounds, "FROM_RANDOM", (dataclasses.replace(rounds.FROM_RANDOM[0], is_small=False),)
    )

    def cut_the_first(train: Train, *arguments: Any) -> TrialResult:
        result = train(*arguments)
        if len(trained) == 1:
            raise KeyboardInterrupt
        return result

    replace_training(monkeypatch, cut_the_first)
    with pytest.raises(KeyboardInterrupt):
        run(search)
    monkeypatch.setattr("competition.search.study.RETRIES", 0)
    assert run(search) == {}
    assert "the settings as given were not finished, and stay" in decide(search)


def test_where_the_settings_as_given_fail_the_best_others_take_their_place(
    search: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        rounds, "FROM_RANDOM", (dataclasses.replace(rounds.FROM_RANDOM[0], is_small=False),)
    )
    monkeypatch.setattr(module, "SIGNIFICANCE", 0.0)

    def fail_first(train: Train, *arguments: Any) -> TrialResult:
        result = train(*arguments)
        if len(trained) == 1:
            raise MemoryError
        return result

    replace_training(monkeypatch, fail_first)
    found = run(search)
    assert found["model.dropout"] == min(config.model.dropout for config in trained[1:])
    assert "the settings as given fail" in decide(search)


# -- what is made of the scores


@pytest.mark.parametrize(
    ("gained", "lost", "same"), [(5, 0, 3), (9, 2, 25), (3, 3, 0), (1, 6, 4), (0, 0, 9)]
)
def test_two_trials_are_compared_by_mcnemars_exact_test(gained: int, lost: int, same: int) -> None:
    better = np.array([True] * gained + [False] * lost + [True] * same)
    worse = np.array([False] * gained + [True] * lost + [True] * same)
    order = np.random.default_rng(0).permutation(len(better))
    trials = [
        create_trial(
            value=0.5, user_attrs={CORRECT: np.packbits(predictions[order]).tobytes().hex()}
        )
        for predictions in (better, worse)
    ]
    count = gained + lost
    chance = binomtest(gained, count, alternative="greater").pvalue if count else 1.0
    stored = [module._read_correct(trial) for trial in trials]
    found = mcnemar(stored[0], stored[1], alternative="greater")
    assert found == pytest.approx(chance)
    ways = sum(math.comb(count, more) for more in range(gained, count + 1))
    assert found == pytest.approx(ways / 2**count)


@pytest.mark.parametrize(
    ("finalists", "gained", "changes"),
    [(2, 4, False), (2, 5, True), (3, 5, False), (3, 6, True)],  # 1/16, 1/32; 2/32, 2/64
)
def test_settings_change_only_where_chance_does_not_explain_the_gain_of_the_best_of_many(
    finalists: int,
    gained: int,
    changes: bool,
    tmp_path: Path,
    trained: list[Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SIGNIFICANCE", 0.05)
    search = make_search(tmp_path, trials=5 if finalists == 2 else 9)
    search = more_trials(search, search.config.search.trials, **{"search.finalists": finalists})
    finals: list[Config] = []

    def know(train: Train, trainer: TrialTrainer, config: Config, report: Any) -> TrialResult:
        result = train(trainer, config, report)
        if config.model.input_size:
            return result
        finals.append(config)
        return answer((20 + gained * (len(finals) == 2)) / 36)

    replace_training(monkeypatch, know)
    found = run(search)
    assert len(finals) == finalists
    assert finals[0].model.dropout == search.config.model.dropout
    if changes:
        assert found["model.dropout"] == finals[1].model.dropout
        assert "beyond chance (p = 0.0" in decide(search)
    else:
        assert found == {}
        assert f"{100 * gained / 36:.1f} points above the settings as given, within chance" in (
            decide(search)
        )


@pytest.mark.parametrize("sure", [0.9, 0.5])
def test_another_metric_is_shown_as_it_is_and_decides_by_the_bootstrap(
    sure: float, with_final: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIGNIFICANCE", 0.05)
    search = more_trials(with_final, 5, metric="log_loss", **{"search.finalists": 2})
    data, finals = make_data(), list[Config]()
    generator = np.random.default_rng(0)

    def know(train: Train, trainer: TrialTrainer, config: Config, report: Any) -> TrialResult:
        result = train(trainer, config, report)
        if not config.model.input_size:
            finals.append(config)
        share = sure if len(finals) == 2 else 0.5
        own = generator.uniform(share - 0.05, share + 0.05, 36)
        probabilities = np.tile((1 - own[:, None]) / 2, (1, 3))
        probabilities[np.arange(36), data.validation_labels] = own
        loss = -float(np.log(own).mean())
        return dataclasses.replace(
            result, score=-loss, correct=np.ones(36, bool), probabilities=probabilities
        )

    replace_training(monkeypatch, know)
    found = run(search, data)
    if sure > 0.5:
        assert found["model.dropout"] == finals[1].model.dropout
        assert "best of 2 trials 0.0997" in decide(search)  # not -0.0997
        assert "beyond chance" in decide(search)
    else:
        assert found == {}
    assert "probabilities" not in read_trials(search)[0].user_attrs, "small images decide nothing"
    assert read_best(search) == found
    accuracy = dataclasses.replace(
        search, config=with_settings(search.config, {"metric": "accuracy"})
    )
    assert read_best(accuracy) == {}
    assert "- trial 0: 0." in (search.folder / "tiny_cnn_scratch.md").read_text()


@pytest.mark.parametrize("name", ["log_loss", "auc", "quadratic_kappa"])
def test_probabilities_that_are_better_by_chance_are_told_from_better_ones(name: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3

    def draw(skill: float) -> FrozenTrial:
        predictions = generator.dirichlet(np.ones(3), 300).astype(np.float32)
        predictions[np.arange(300), labels] += skill
        predictions /= predictions.sum(axis=1, keepdims=True)
        return create_trial(value=0.5, user_attrs={PROBABILITIES: predictions.tobytes().hex()})

    good, as_good, bad = draw(0.9), draw(0.9), draw(0.2)
    metric, images = METRICS[name], np.arange(300)
    assert compare_probabilities(good, bad, labels, images, metric) < 0.001
    assert compare_probabilities(bad, good, labels, images, metric) > 0.999
    single = compare_probabilities(good, as_good, labels, images, metric)
    assert 0.05 < single < 0.95
    assert compare_probabilities(good, good, labels, images, metric) == 1.0

    def repeat(trial: FrozenTrial) -> FrozenTrial:
        return create_trial(
            value=0.5, user_attrs={PROBABILITIES: 2 * trial.user_attrs[PROBABILITIES]}
        )

    twice = np.tile(labels, 2), np.tile(images, 2)
    repeated = compare_probabilities(repeat(good), repeat(as_good), *twice, metric)
    assert repeated == pytest.approx(single), "two versions of an image are not two images"


def test_trials_that_learnt_nothing_change_no_settings(
    with_final: Search, trained: list[Config]
) -> None:
    data = make_data()
    labels = np.where(np.arange(36) < 34, 0, 1)  # naming the first class always reaches 0.94
    run(with_final, dataclasses.replace(data, validation_labels=labels))
    assert "no better than naming one class always, the settings stay as given" in (
        decide(with_final)
    )


def test_from_random_weights_trials_on_small_images_alone_decide_nothing(
    search: Search, trained: list[Config]
) -> None:
    assert run(search) == {}
    assert min(trained, key=lambda config: config.model.dropout) is not trained[0]
    assert "so small trials decide nothing, the best go on" in decide(search)


def test_trials_are_scored_on_about_twice_as_many_images_as_they_train_on(
    search: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def count(train: Train, trainer: TrialTrainer, *rest: Any) -> TrialResult:
        train(trainer, *rest)
        number = len(trainer.data.validation_labels)
        seen.append((len(trainer.data.labels), number))
        return answer(0.9, number)

    replace_training(monkeypatch, count)
    data = make_data(90)
    images, labels = draw_blobs(240, 3, seed=4)
    data = dataclasses.replace(data, validation_images=images, validation_labels=labels)
    run(more_trials(search, 5, **{"search.trial_images": 30}), data)
    assert seen == [(30, 60)] * 5 + [(45, 80)] * 2


# -- the final


def test_the_best_trials_are_tried_again_on_more_images_of_full_size(
    with_final: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def turn_round(train: Train, trainer: TrialTrainer, config: Config, report: Any) -> TrialResult:
        result = train(trainer, config, report)
        return result if config.model.input_size else answer(1.3 - result.score)

    replace_training(monkeypatch, turn_round)
    found = run(with_final)
    *trials, given, best = trained
    assert len(trials) == 5
    assert given.model.dropout == with_final.config.model.dropout
    assert best.model.dropout == min(trial.model.dropout for trial in trials)
    assert best.training.limit == given.training.limit == 1.5 * trials[0].training.limit
    assert (best.model.input_size, given.model.input_size) == (0, 0)
    assert found == {}, "what the final says counts"
    assert "these are the settings as given" in decide(with_final)


def test_the_settings_as_given_are_in_the_final_even_as_the_worst(
    with_final: Search, trained: list[Config]
) -> None:
    config = with_settings(with_final.config, {"model.dropout": 0.6})
    found = run(dataclasses.replace(with_final, config=config))
    *trials, given, best = trained
    assert given.model.dropout == 0.6
    assert found["model.dropout"] == best.model.dropout
    assert best.model.dropout == min(trial.model.dropout for trial in trials)
    assert set(found) <= set(SCRATCH_SPACE)


def test_a_finalist_is_tried_once_whatever_trials_come_after(
    with_final: Search, trained: list[Config]
) -> None:
    run(with_final)
    run(with_final)
    assert len(trained) == 7
    run(more_trials(with_final, 8))
    finals = [config.model.dropout for config in trained if config.model.input_size == 0]
    assert len(finals) == len(set(finals))
    best = min(config.model.dropout for config in trained if config.model.input_size)
    assert {best, with_final.config.model.dropout} <= set(finals)


def test_a_final_that_was_interrupted_is_tried_again(
    with_final: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_in_the_last(train: Train, *arguments: Any) -> TrialResult:
        if len(trained) == 6:
            raise KeyboardInterrupt
        return train(*arguments)

    with monkeypatch.context() as patch:
        replace_training(patch, stop_in_the_last)
        with pytest.raises(KeyboardInterrupt):
            run(with_final)
    found = run(with_final)
    assert len(trained) == 7
    assert found["model.dropout"] == trained[-1].model.dropout


def test_without_time_there_is_no_final(
    with_final: Search, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slot, "is_over", property(lambda slot: len(trained) >= 5))
    assert run(dataclasses.replace(with_final, slot=Slot(0.0, math.inf))) == {}
    assert len(trained) == 5


# -- what is left


def test_results_lie_in_files(with_final: Search, trained: list[Config]) -> None:
    found = run(with_final)
    best = read_json(with_final.folder / "tiny_cnn_best.json")
    assert best["settings"] == found != {}
    assert (best["data"], best["weights"]) == ("data-1", "random")
    assert best["select_by"] == with_final.config.training.select_by
    assert best["decision"].startswith("best of 2 trials ")
    assert len(pd.read_csv(with_final.folder / "tiny_cnn_scratch_trials.csv")) == 5
    assert len(pd.read_csv(with_final.folder / "tiny_cnn_semifinal_trials.csv")) == 2
    assert (with_final.folder / "tiny_cnn_semifinal.md").is_file()


def test_a_helper_takes_part_and_writes_no_files(with_final: Search, trained: list[Config]) -> None:
    found = run(dataclasses.replace(with_final, worker=1))
    files = [path.name for path in with_final.folder.iterdir() if path.is_file()]
    assert files == ["tiny_cnn.db"]
    assert run(with_final) == found
    assert len(trained) == 7, "the main process finds all done"


def test_the_best_settings_are_read_only_for_the_same_data_weights_and_selection(
    with_final: Search, trained: list[Config], pretrained: Weights
) -> None:
    assert read_best(with_final) == {}
    found = run(with_final)
    assert read_best(with_final) == found
    assert read_best(dataclasses.replace(with_final, data={"splits": "data-2"})) == {}
    assert read_best(dataclasses.replace(with_final, weights=pretrained)) == {}
    config = with_settings(with_final.config, {"training.select_by": "clean"})
    assert read_best(dataclasses.replace(with_final, config=config)) == {}
    fixed = dataclasses.replace(with_final, fixed=frozenset({"model.dropout"}))
    assert read_best(fixed) == {key: found[key] for key in found if key != "model.dropout"}
    config = with_settings(with_final.config, {"model.dropout": 0.55, "training.batch_size": 7})
    assert read_best(dataclasses.replace(with_final, config=config)) == {}, "found from others"
    fixed = dataclasses.replace(fixed, config=config)
    assert read_best(fixed) == {key: found[key] for key in found if key != "model.dropout"}


def test_a_search_of_heads_alone_does_not_replace_what_one_of_recipes_found(
    with_final: Search, trained: list[Config]
) -> None:
    found = run(with_final)
    before = len(trained)
    assert run(dataclasses.replace(with_final, heads_only=True)) == found
    assert len(trained) == before
    assert read_best(with_final) == found


# -- from pretrained weights


def test_heads_fine_tuning_and_a_final_search_a_pretrained_network_from_end_to_end(
    tmp_path: Path, pretrained: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "REDUCTION", 1)
    monkeypatch.setattr("keras.utils.clear_session", lambda **_: None)
    few = {"fine_tuning_trials": 2, "finalists": 2, "trial_images": 30, "cached_copies": 2}
    few |= {"trial_head_epochs": 2, "trial_epochs": 3}
    search = make_search(tmp_path, trials=3, weights=pretrained, backend="tensorflow")
    changes = {f"search.{key}": value for key, value in few.items()}
    config = with_settings(search.config, changes | {"training.batch_size": 16})
    search = dataclasses.replace(search, config=config)
    names = ["head", "fine_tuning", "semifinal", "final"]
    assert [item.name for item in search.rounds] == names
    found = run(search)
    head, fine_tuning, semifinal, final = (read_trials(search, name) for name in names)
    assert [len(trials) for trials in (head, fine_tuning, semifinal, final)] == [3, 2, 2, 2]
    every = head + fine_tuning + semifinal + final
    assert {trial.state for trial in every} == {TrialState.COMPLETE}
    assert fine_tuning[0].params["training.unfreeze"] == config.training.unfreeze
    assert head[2].params["model.dropout"] != config.model.dropout
    assert set(final[0].params) == set(EVERYTHING)
    assert final[0].params.items() >= (head[0].params | fine_tuning[0].params).items()
    assert final[1].params != final[0].params
    reported = [len(trial.intermediate_values) for trial in (head[1], fine_tuning[0], final[0])]
    assert reported == [1, 1, 2], "the last epochs"
    assert all(0 < trial.value <= 1 for trial in every)
    assert read_best(search) == found
    assert (tmp_path / "tiny_cnn_fine_tuning.md").is_file()


def test_the_best_head_is_what_fine_tuning_starts_from(
    tmp_path: Path,
    trained: list[Config],
    pretrained: Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "cache_features", lambda *_: None)
    search = make_search(tmp_path, trials=4, weights=pretrained)
    found = run(search)
    heads, fine_tuned = trained[:4], trained[4:]
    best = min(heads, key=lambda config: config.model.dropout)
    assert best.model.dropout < search.config.model.dropout
    small = dataclasses.replace(best.model, input_size=64)
    assert [config.model for config in fine_tuned[:4]] == [small] * 4
    assert found.items() >= {"model.dropout": best.model.dropout}.items()
    assert not set(found) & set(FINE_TUNING_SPACE), "nothing was better than as given"
