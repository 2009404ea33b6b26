"""The stages in order: what was asked for, and what that needs that is missing or stale."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from competition.backbones import get_backbone
from competition.cleaning.clean import clean
from competition.codabench.bundle import write_bundle
from competition.codabench.dry_run import run_ingestion, show_dry_run
from competition.codabench.grade import grade
from competition.common import console
from competition.common.console import begin_part, describe_seconds, headline, say
from competition.common.devices import has_accelerator
from competition.common.errors import NotCheckedError, UserError, WorthlessError
from competition.common.files import digest, exclusive, read_json, require_disk
from competition.common.parallel import Workers, count_workers
from competition.config import with_settings
from competition.data.arrays import CleanedData, Dataset, PreparedData
from competition.data.dataset import load_dataset, load_test
from competition.data.download import fetch
from competition.data.prepare import prepare
from competition.data.splits import split
from competition.demo.make import make_demo
from competition.distortion.profiles import PROFILE
from competition.evaluation.ensemble import make_ensemble, members_of
from competition.evaluation.evaluate import evaluate_run
from competition.evaluation.leaderboard import record_public_score, write_leaderboard
from competition.evaluation.metrics import final_scores
from competition.evaluation.predict import plan_steps
from competition.evaluation.results import choose_run, claim_folder, describe_worth, runs_of
from competition.networks.weights import Weights, choose_weights, find_embedding_weights
from competition.paths import (
    FOLDS,
    HIDDEN_TEST,
    LEADERBOARD,
    LEADERBOARD_MARKDOWN,
    LOG,
    METRICS,
    PREPARED,
    TRAINING_SET,
)
from competition.request import Request
from competition.search.rounds import Search
from competition.search.search import read_best, search_backbone
from competition.search.study import open_storage
from competition.submission.package import package_run
from competition.time_budget import (
    JobClock,
    Slot,
    TrainingTime,
    Turn,
    packaging_seconds,
    plan_turns,
    share_out,
)
from competition.training.folds import train_folds
from competition.training.runs import describe_environment, train_run

# Of a backbone's slot, scoring has a share, or so many seconds if they are no more than that share.
SCORING_SHARE, SCORING_SECONDS, MOST_SCORING = 0.15, 100.0, 0.3
SHORTEST_SLOT = 30.0  # seconds in which a backbone can learn anything
FIRST_STEPS = """This was the demo competition, drawn by a program. For your own: put the file at
data/training_set.npz, or name any .npz or folder of class folders:
    python run.py --search --data FILE
With ImageNet weights (downloaded by Keras, or put into data/weights/) and more time the scores
rise: --time-budget 3h. Upload the zip, then  python run.py --record RUN SCORE  keeps what the
server said."""


@dataclass
class Results:
    """What did not go well; `unchecked`: why --check-server could not check."""

    failures: list[str] = field(default_factory=list)
    worthless: str = ""
    unchecked: str = ""

    def raise_for(self) -> None:
        """Raise what is to be told at the end, the gravest first."""
        if self.failures:
            raise UserError("Not all went well: " + " ".join(self.failures))
        if self.worthless:
            raise WorthlessError(self.worthless)
        if self.unchecked:
            raise NotCheckedError(self.unchecked)


def run(request: Request) -> None:
    """Do what a request asks for, and what that needs that is missing or stale.

    Raises UserError where something failed, NotCheckedError where all is done but --check-server
    could not check, and WorthlessError where what is packaged is no better than chance.
    """
    paths, config, results = request.paths, request.config, Results()
    command = digest(repr(request))
    clock = JobClock(paths.experiments, command, request.budget_seconds, request.started)
    with exclusive(paths.experiments), clock:
        console.log_to(paths.experiments / LOG)
        if request.record:
            record_public_score(paths.runs, *request.record)
        if not (request.asks_server or request.stages - {"leaderboard"}):
            show_leaderboard(request)
            return
        introduce(request)
        dataset = load(request)
        names = request.backbones if request.trains else ()
        weights = choose_weights(config.weights, names, paths.weights)
        source = request.data or paths.data / TRAINING_SET
        claim_folder(paths.experiments, dataset, source, request.force)
        headline("Clean")
        embedding = find_embedding_weights(config.weights, config.cleaning.backbone, paths.weights)
        cleaned = clean(dataset, paths.data, config, embedding, request.forces("clean"))
        if request.wants("split") or request.trains or request.asks_server:
            headline("Split")
            splits = split(cleaned, paths.data, config, request.forces("split"))
        if request.trains or request.asks_server:
            data = prepare(cleaned, splits, config, paths.data / PREPARED)
        if request.trains:
            run_backbones(request, data, weights, clock, results)
            package(request, data, results)
            cross_validate(request, data, cleaned, weights)
            show_leaderboard(request)
        if request.asks_server:
            ask_server(request, data)
        if request.is_demo and request.wants("search"):
            say("\n" + FIRST_STEPS)
        say(f"\nDone in {describe_seconds(clock.seconds_used)}.")
    results.raise_for()


# -- the stages


def introduce(request: Request) -> None:
    """Say what computes, and refuse a --storage that cannot be used before any work."""
    config = request.config
    environment = describe_environment()
    device = f"{environment['device']}, keras {environment['keras']}"
    say(f"{request.paths.name}: {device}, seed {config.seed}")
    if request.wants("search") and request.storage:
        open_storage(request.storage, config.search.heartbeat_seconds)


def load(request: Request) -> Dataset:
    """Read the data set, or draw the demo's."""
    headline("Load")
    paths, path = request.paths, request.data
    require_disk(paths.experiments, 300)
    if path is None:
        if not request.is_demo:
            raise UserError(f"--name {paths.name} needs --data, or a file data/training_set.npz.")
        say("NO DATA WAS GIVEN: this is the DEMO COMPETITION, whose blood cells a program draws.")
        make_demo(paths.data, request.config.seed)
        path = paths.data / TRAINING_SET
    if request.published:
        fetch(request.published, path)
    dataset = load_dataset(path, request.config.data)
    height, width = dataset.images.shape[1:3]
    counts = np.bincount(dataset.labels)
    classes = [f"{name} {count}" for name, count in zip(dataset.class_names, counts, strict=True)]
    say(f"{path}: {len(dataset.labels)} images of {height}x{width}\n  {', '.join(classes)}")
    return dataset


def run_backbones(
    request: Request,
    data: PreparedData,
    weights: Mapping[str, Weights],
    clock: JobClock,
    results: Results,
) -> None:
    """Search, train and evaluate each backbone in a task of its own."""
    names, paths = request.backbones, request.paths
    workers = request.workers or count_workers(len(names), has_accelerator())
    costs = {name: get_backbone(name).cost for name in names}
    first = names[0] if request.final == "best" else request.final
    order = sorted(names, key=lambda name: (name != first, -costs[name]))
    queues, turns = [order], dict[str, Turn]()
    if request.budget_seconds is not None:
        end = clock.deadline - packaging_seconds(request.budget_seconds)
        queues = share_out(costs, first, workers)
        turns = plan_turns(costs, first, workers, end)
    describe_plan(request, data, weights, turns)
    clock.watch(costs)
    if request.forces("search") and not request.storage:
        for name in names:  # with the journals, which SQLite would play into the next ones
            for file in paths.studies.glob(f"{name}.db*"):
                file.unlink()
    tasks = {}
    for name in names:
        told = clock.task_path(name)
        tasks[name] = partial(
            run_backbone, request, data, name, weights[name], turns.get(name), told
        )
    if request.wants("search"):  # workers beyond the backbones join a study
        for number in range(1, 1 + max(0, workers - len(names))):
            name = order[number % len(names)]
            helper = f"{name}, helper {number}"
            tasks[helper] = partial(
                help_search, request, data, name, weights[name], turns.get(name), number
            )
            if turns:
                queues.append([helper])
            else:  # one queue serves all workers
                order.append(helper)
    with Workers(min(workers, len(tasks))) as pool:
        for name, _ in pool.run_all(tasks, queues):
            say(f"{name}: done")
    results.failures += pool.failures


def run_backbone(
    request: Request,
    data: PreparedData,
    name: str,
    weights: Weights,
    turn: Turn | None,
    told: Path,
) -> None:
    """Search, train and evaluate one backbone, as far as that is asked for and not done.

    turn: its place in the time budget (None: the settings' numbers hold). told: the file in which
    it tells its progress.
    """
    console.begin_task(told)
    paths, config = request.paths, request.config
    slot = turn.begin() if turn else None
    if slot is not None and slot.length < SHORTEST_SLOT and not runs_of(paths.runs, data, name):
        say(f"{name}: NOT TRAINED, for want of time; give more with --time-budget.")
        return
    search = make_search(request, data, name, weights)
    search_share, train_share = plan_shares(request, data, search, slot.length if slot else None)
    search = replace(search, slot=slot and slot.next_part(search_share))
    if request.wants("search"):
        begin_part(0.0, search_share)
        search_backbone(search, data.training, paths.features)
    if request.wants("train") or not runs_of(paths.runs, data, name):
        begin_part(search_share, search_share + train_share)
        found = read_best(search)
        say(f"{name}: {'the best settings of its search' if found else 'settings as given'}")
        own = with_settings(config, {"model.backbone": name, **found})
        time_for = None
        if slot is not None and turn is not None and request.budget_seconds is not None:
            scoring = (1 - search_share - train_share) * slot.length
            training = Slot(time.time(), slot.end - scoring)
            time_for = TrainingTime(training, turn.deadline - scoring, request.budget_seconds)
        train_run(own, data, weights, paths.runs, time_for, request.forces("train"))
    begin_part(search_share + train_share, 1.0)
    for run in runs_of(paths.runs, data, name):
        evaluate_run(config, data, run, slot, request.forces("evaluate"))
    console.end_task()


def help_search(
    request: Request,
    data: PreparedData,
    name: str,
    weights: Weights,
    turn: Turn | None,
    number: int,
) -> None:
    """Take part in the search of a backbone that another process runs."""
    slot = turn.begin() if turn else None
    search = make_search(request, data, name, weights)
    share = plan_shares(request, data, search, slot.length if slot else None)[0]
    search = replace(search, slot=slot and slot.next_part(share), worker=number)
    search_backbone(search, data.training, request.paths.features)


def package(request: Request, data: PreparedData, results: Results) -> None:
    """Package the best run or the ensemble, prove the zip, and say what it is worth."""
    if not request.wants("package"):
        return
    headline("Package")
    paths, config = request.paths, request.config
    try:
        if request.ensemble:
            run = make_ensemble(paths.runs, request.ensemble, data.fingerprint, config.seed)
        else:
            run = choose_run(paths.runs, data, config.training.select_by, request.final)
        images = data.test.versions[PROFILE]
        zip_path = paths.submissions / f"{run.name}.zip"
        packaged = package_run(run, members_of(run), images, config, zip_path, request.server)
        results.unchecked = packaged.unchecked
        results.worthless = describe_worth(run)
        if request.is_demo:
            score_hidden_test(request, data, run)
    except UserError as error:
        results.failures.append(f"packaging: {error}")
        say(f"packaging FAILED: {error}")


def score_hidden_test(request: Request, data: PreparedData, run: Path) -> None:
    """Say what the packaged zip reaches on the demo's hidden test, beside what was expected."""
    paths, config = request.paths, request.config
    images, labels = load_test(paths.data / HIDDEN_TEST, config.data, data.class_names)
    answers = run_ingestion(paths.submissions / f"{run.name}.zip", images, config.limits)
    expected = final_scores(read_json(run / METRICS)["test"][PROFILE])
    low, high = expected["interval"]
    say(
        f"The demo's hidden test ({len(images)} images, distorted): "
        f"{100 * np.mean(answers.labels == labels):.1f} %; expected "
        f"{100 * expected['accuracy']:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
    )


def cross_validate(
    request: Request, data: PreparedData, cleaned: CleanedData, weights: Mapping[str, Weights]
) -> None:
    """Train the packaged run's settings on each fold, beside the time budget."""
    if not request.folds:
        return
    headline("Folds")
    paths, select_by = request.paths, request.config.training.select_by
    run = choose_run(paths.runs, data, select_by, request.final)
    own = weights[run.name.rpartition("_")[0]]
    folder = paths.experiments / FOLDS
    train_folds(run, cleaned, own, request.folds, folder, request.forces("train"))


def ask_server(request: Request, data: PreparedData) -> None:
    """Do what was asked of the server at home, on distorted validation images or --on-test."""
    paths, config = request.paths, request.config
    if request.bundle:
        write_bundle(paths.bundle, data, config)
    if request.dry_run is not None:
        show_dry_run(request.dry_run, data, config, paths, request.on_test)
    if request.grade is not None:
        grade(request.grade, data, config, paths, request.on_test, request.force)


def show_leaderboard(request: Request) -> None:
    """Write and print the leaderboard."""
    headline("Leaderboard (accuracies in percent)")
    folder = request.paths.experiments
    say(write_leaderboard(request.paths.runs, folder, with_references=True))
    say(f"\nall columns: {folder / LEADERBOARD} and {LEADERBOARD_MARKDOWN}")


# -- parts of them


def make_search(request: Request, data: PreparedData, name: str, weights: Weights) -> Search:
    """Return the search of a backbone, without a slot."""
    training, folder = data.training, request.paths.studies
    folder.mkdir(parents=True, exist_ok=True)
    return Search(
        config=with_settings(request.config, {"model.backbone": name}),
        weights=weights,
        folder=folder,
        data={"splits": data.fingerprint, "training images": len(training.labels)},
        backend=keras.config.backend(),
        side=max(training.images.shape[1:3]),
        storage=request.storage,
        fixed=request.fixed_keys,
    )


def plan_shares(
    request: Request, data: PreparedData, search: Search, seconds: float | None
) -> tuple[float, float]:
    """Return the shares of a backbone's time for searching and training; scoring has the rest.

    seconds: the length of its slot. Without one the shares only serve the status line, and are
    estimated from how many images pass the network: all of it with gradients 1, a third without.
    """
    config = request.config
    if seconds is not None:
        scoring = min(MOST_SCORING, max(SCORING_SHARE, SCORING_SECONDS / max(1.0, seconds)))
        searching = (1 - scoring) * config.search.share if request.wants("search") else 0.0
        return searching, 1 - scoring - searching
    searching = sum(map(search.count_passes, search.rounds)) if request.wants("search") else 0.0
    epochs = config.training.fine_tuning_epochs + config.training.frozen_epochs / 3
    training = epochs * len(data.training.labels)
    steps = plan_steps(config.training.select_by, config.evaluation.tta_views)
    scoring = sum(step.views for step in steps) * len(data.test.labels) / 3
    total = searching + training + scoring
    return searching / total, training / total


def describe_plan(
    request: Request,
    data: PreparedData,
    weights: Mapping[str, Weights],
    turns: Mapping[str, Turn],
) -> None:
    """Say what will happen, in which order, and the time that each backbone has."""
    headline("Plan")
    training = request.config.training
    for name in request.backbones:
        search = make_search(request, data, name, weights[name])
        parts = []
        if request.wants("search") and search.rounds:
            rounds = [f"{search.count_trials(item)} {item.name}" for item in search.rounds]
            parts.append(f"search of {', '.join(rounds)} trials")
        elif request.wants("search"):
            parts.append("nothing to search, --set says it all")
        if name in turns:
            search_share, train_share = plan_shares(
                request, data, search, turns[name].planned_seconds
            )
            times = {"searching": search_share, "training": train_share}
            times["scoring"] = 1 - search_share - train_share
            planned = turns[name].planned_seconds
            parts += [
                f"{describe_seconds(share * planned)} of {what}"
                for what, share in times.items()
                if share
            ]
        elif weights[name].is_pretrained:
            parts.append(f"{training.frozen_epochs} epochs with a frozen backbone")
            parts.append(f"{training.fine_tuning_epochs} of fine-tuning")
        else:
            parts.append(f"{training.frozen_epochs + training.fine_tuning_epochs} epochs")
        say(f"{get_backbone(name).title}, {weights[name].origin} weights: {', '.join(parts)}")
    if request.budget_seconds is not None:
        packaging = describe_seconds(packaging_seconds(request.budget_seconds))
        say(
            f"Time budget {describe_seconds(request.budget_seconds)}: packaging has {packaging}, "
            "and what one step does not use goes to the next."
        )
