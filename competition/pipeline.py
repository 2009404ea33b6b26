"""The stages in order: those that were requested, and those that these need and lack."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from competition.backbone_task import BackboneTask, plan_tasks
from competition.backbones import get_backbone
from competition.cleaning.clean import clean
from competition.codabench.bundle import write_bundle
from competition.codabench.dry_run import run_ingestion, show_dry_run
from competition.codabench.grade import grade
from competition.common import console
from competition.common.console import describe_seconds, headline, say
from competition.common.devices import has_accelerator
from competition.common.errors import CheckFailedError, UserError
from competition.common.files import (
    digest,
    exclusive,
    if_intact,
    read_json,
    require_disk,
    write_json,
)
from competition.common.parallel import Workers, count_workers
from competition.config import with_settings
from competition.data.arrays import Dataset, PreparedData
from competition.data.dataset import load_dataset, load_test
from competition.data.download import fetch
from competition.data.prepare import prepare
from competition.data.splits import read_splits, split
from competition.demo.make import make_demo
from competition.distortion.profiles import PROFILE
from competition.evaluation.compare import compare_runs
from competition.evaluation.ensemble import (
    ROUNDS,
    make_best_ensemble,
    make_ensemble,
    make_fold_ensemble,
    members_of,
)
from competition.evaluation.gap import explain_gap
from competition.evaluation.leaderboard import record_public_score
from competition.evaluation.results import choose_run, claim_folder, describe_worth, runs_of
from competition.fold_tasks import cross_validate, folds_share, require_folds
from competition.metric import get_metric, require_classes
from competition.networks.weights import Weights, choose_embedding, choose_weights
from competition.paths import DESCRIBER, FOLDS, HIDDEN_TEST, LOG, PREPARED, SPLITS, TRAINING_SET
from competition.request import Request, with_final
from competition.search.study import open_storage
from competition.status import Results, show_results
from competition.submission.package import package_run
from competition.submission.predict_csv import predict_csv, read_sample
from competition.submission.submit import find_file, hand_in
from competition.time_budget import JobClock, Turn, packaging_seconds, plan_turns
from competition.training.runs import describe_environment, read_config

DEMO_MINUTES = 6  # measured with one pretrained backbone of five; docs/results.md


def run(request: Request) -> None:
    """Run the stages of a request, and those before them that are missing or stale.

    Raises UserError where a stage failed. With all done, it raises NotCheckedError where
    --check-server could not check, and WorthlessError where the network is no better than chance.
    """
    paths, config, results = request.paths, request.config, Results()
    if request.from_zip is not None:
        console.log_to(None, request.quiet or request.as_json)
        predictions = str(predict_images(request, request.from_zip))
        if request.as_json:
            print(json.dumps({"name": paths.name, "predictions": predictions}))
        elif request.quiet:
            say(predictions, always=True)
        return
    if request.compare:
        say(compare_runs(paths, request.compare), always=True)
    if request.explain_gap:
        say(explain_gap(paths, request.explain_gap), always=True)
    changes_nothing = not (request.stages or request.asks_server or request.record)
    if (request.compare or request.explain_gap) and changes_nothing and not request.submit:
        return
    command = digest(request.identity)
    clock = JobClock(paths.experiments, command, request.budget_seconds, request.started)
    with exclusive(paths.experiments), clock:
        console.log_to(paths.experiments / LOG, request.quiet or request.as_json)
        if clock.before:
            say(f"This command goes on: {describe_seconds(clock.before)} of its budget are used.")
            request = replace(request, force=False)  # what it has redone so far
        if request.record:
            record_public_score(paths.runs, *request.record)
        if not (request.asks_server or request.stages - {"leaderboard"}):
            submit(request, results)
            show_results(request, results, clock)
            results.raise_for()
            return
        introduce(request)
        dataset = load(request)
        names = request.backbones if request.trains else ()
        weights = choose_weights(config.weights, names, paths.weights)
        request = with_final(request, {name for name in names if weights[name].is_pretrained})
        source = request.data or paths.data / TRAINING_SET
        if request.sample is not None:
            read_sample(request.sample, dataset.class_names)  # a mistake is told before the work
        claim_folder(paths.experiments, dataset, source, request.force)
        headline("Clean")
        describer, embedding = choose_describer(request)
        config = with_settings(config, {"cleaning.backbone": describer})
        cleaned = clean(dataset, paths.data, config, embedding, request.forces("clean"))
        if request.wants("split") or request.trains or request.asks_server:
            headline("Split")
            splits = split(cleaned, paths.data, config, request.forces("split"))
        if request.trains or request.asks_server:
            data = prepare(cleaned, splits, config, paths.data / PREPARED)
            for scored in (data.validation, data.test):
                where = f"the {scored.name} split"
                require_classes(get_metric(config.metric), scored.labels, data.class_names, where)
        if request.trains:
            require_folds(request, cleaned)
            run_backbones(request, data, weights, clock, results)
            results.failures += cross_validate(request, data, cleaned, clock)
            package(request, data, results)
            if request.predict and results.packaged:
                try:
                    results.predictions = predict_images(request, results.packaged[1])
                except UserError as error:
                    results.failures.append(f"predictions: {error}")
        if request.asks_server:
            ask_server(request, data)
        submit(request, results)
        show_results(request, results, clock)
    results.raise_for()


# -- the stages


def introduce(request: Request) -> None:
    """Say which device computes, and refuse a --storage that cannot be used, before any work."""
    config = request.config
    environment = describe_environment()
    device = f"{environment['device']}, keras {environment['keras']}"
    say(f"{request.paths.name}: {device}, seed {config.seed}")
    if config.metric != "accuracy":
        say(f"decided by {get_metric(config.metric).description}")
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
    classes = [f"{label} {name}: {counts[label]}" for label, name in enumerate(dataset.class_names)]
    say(
        f"{path}: {len(dataset.labels)} images of {height}x{width}, in the classes that a "
        f"submission answers by number:\n  {', '.join(classes)}"
    )
    return dataset


def choose_describer(request: Request) -> tuple[str, Path | None]:
    """Return the backbone that describes the images in cleaning, and its weights or None.

    It stays the one that it was, as long as its weights are there and cleaning is not forced: with
    another one, or with pixels, the same images would be cleaned and split in another way.
    """
    paths, asked = request.paths, request.config.cleaning.backbone
    file, shape = paths.data / DESCRIBER, {"asked": str, "name": str, "weights": str}
    if file.is_file() and not request.forces("clean"):
        known = if_intact(read_json, file, shape)
        if known and known["asked"] == asked and Path(known["weights"]).is_file():
            return known["name"], Path(known["weights"])
    name, weights = choose_embedding(request.config.weights, asked, paths.weights)
    kept = str(weights.resolve()) if weights else ""
    write_json(file, {"asked": asked, "name": name, "weights": kept})
    return name, weights


def run_backbones(
    request: Request,
    data: PreparedData,
    weights: Mapping[str, Weights],
    clock: JobClock,
    results: Results,
) -> None:
    """Search, train and evaluate each backbone in a task of its own, side by side."""
    workers = request.workers or count_workers(len(request.backbones), has_accelerator())
    costs = {name: get_backbone(name).cost for name in request.backbones}
    first = request.final
    if first == "best":  # the most likely one
        first = max(costs, key=lambda name: (weights[name].is_pretrained, costs[name]))
    queues = [sorted(costs, key=lambda name: (name != first, -costs[name]))]
    turns: dict[str, Turn] = {}
    if request.budget_seconds is not None:
        end = clock.deadline - packaging_seconds(request.budget_seconds)
        end -= folds_share(costs, first, request.folds) * max(0.0, end - time.time())
        trained = [name for name in costs if _has_run(request, data, name)]
        queues, turns = plan_turns(costs, first, workers, end, trained)
    tasks = plan_tasks(request, data, weights, turns, clock.tasks_folder)
    describe_plan(request, tasks)
    clock.watch({name: task.estimate_work() for name, task in tasks.items()})
    if request.forces("search") and not request.storage:
        for name in tasks:  # with the journals, which SQLite would play into the next ones
            for file in request.paths.studies.glob(f"{name}[._]*"):
                file.unlink()
    elif request.forces("search"):
        say("The trials in --storage stay, since others may share them; --force redoes the rest.")
    calls = {name: task.run for name, task in tasks.items()}
    if request.wants("search"):  # workers beyond the backbones join a study
        order = [name for queue in queues for name in queue]
        for number in range(1, 1 + max(0, workers - len(tasks))):
            name = order[(number - 1) % len(order)]
            helper = f"{name}, helper {number}"
            calls[helper] = partial(tasks[name].help_search, number)
            if turns:
                queues.append([helper])
            else:  # one queue serves all workers
                queues[0].append(helper)
    with Workers(min(workers, len(calls))) as pool:
        for name, _ in pool.run_all(calls, queues):
            say(f"{name}: done")
    if request.budget_seconds is None:
        clock.watch({})  # what is left cannot be told from their progress
    results.failures += pool.failures


def _has_run(request: Request, data: PreparedData, name: str) -> bool:
    """Tell whether a backbone has a run that this command does not train anew."""
    runs, budget = runs_of(request.paths.runs, data, name), request.budget_seconds
    if request.wants("train"):
        runs = [run for run in runs if read_config(run).get("time_budget_seconds") == budget]
    return bool(runs)


def describe_plan(request: Request, tasks: Mapping[str, BackboneTask]) -> None:
    """Say the steps of each backbone in their order, and their time."""
    headline("Plan")
    for task in tasks.values():
        say(task.describe())
    for name in request.backbones:
        if name not in tasks:
            say(f"{name}: NOT TRAINED, for want of time; give more with --time-budget.")
    if request.budget_seconds is not None:
        say(
            f"Time budget {describe_seconds(request.budget_seconds)}: packaging has "
            f"{describe_seconds(packaging_seconds(request.budget_seconds))}, "
            "and what one step does not use goes to the next."
        )
    elif request.is_demo and sum(task.weights.is_pretrained for task in tasks.values()) == 1:
        say(f"The demo takes some {DEMO_MINUTES} minutes on two quiet cores.")
    if request.wants("package") and len(request.backbones) > 1 and not request.ensemble:
        packaged = "the best of them" if request.final == "best" else request.final
        say(f"Packaged in the end is {packaged}; --final NAME or --final best decides otherwise.")


def package(request: Request, data: PreparedData, results: Results) -> None:
    """Package the best run or the ensemble, verify the zip, and estimate its score."""
    if not request.wants("package"):
        return
    headline("Package")
    try:
        most = ROUNDS if request.ensemble == ("best",) else 0
        run, zip_path, results.unchecked = package_fitting(request, data, most)
        results.worthless = describe_worth(run)
        results.packaged = run, zip_path
        if request.is_demo:
            results.hidden_test = score_hidden_test(request, data, zip_path)
    except UserError as error:
        results.failures.append(f"packaging: {error}")
        say(f"packaging FAILED: {error}")


def package_fitting(request: Request, data: PreparedData, most: int) -> tuple[Path, Path, str]:
    """Package the run or the ensemble that was asked for.

    Returns the run, its zip, and why the server's versions could not be checked, or nothing.
    most: networks of the best ensemble, at most. It has one less where their zip fails a check.
    """
    paths, config = request.paths, request.config
    if request.ensemble == ("folds",):
        splits = read_splits(paths.data / SPLITS)
        run = make_fold_ensemble(paths.runs, paths.experiments / FOLDS, splits, data, config.seed)
    elif most:
        run = make_best_ensemble(paths.runs, data.fingerprint, config, most)
    elif request.ensemble:
        run = make_ensemble(paths.runs, request.ensemble, data.fingerprint, config.seed)
    else:
        select_by = config.training.select_by
        run = choose_run(paths.runs, data, select_by, request.final, config.metric)
    members, images = members_of(run), data.test.versions[PROFILE]
    zip_path = paths.submissions / f"{run.name}.zip"
    try:
        unchecked = package_run(run, members, images, config, zip_path, request.server)
        return run, zip_path, unchecked
    except CheckFailedError as error:
        fewer = len(set(members)) - 1
        if not (most and fewer):
            raise
        say(f"{run.name}: {error} An ensemble of at most {fewer} networks follows.")
        return package_fitting(request, data, fewer)


def predict_images(request: Request, zip_path: Path) -> Path:
    """Write the predictions of a packaged zip for the images of --predict as a CSV; return it."""
    assert request.predict is not None
    headline("Predict")
    target = request.paths.submissions / f"{zip_path.stem}.csv"
    predict_csv(
        zip_path,
        request.predict,
        request.sample,
        target,
        request.config,
        request.skip_unreadable,
        request.paths.runs,
    )
    return target


def submit(request: Request, results: Results) -> None:
    """Hand in what --submit names, and keep its score."""
    if request.submit is None or results.failures:
        return
    headline("Submit")
    paths = request.paths
    try:
        file = find_file(request.submit, paths.submissions)
        score = hand_in(file, request.submit)
    except UserError as error:
        results.failures.append(f"submitting: {error}")
        say(f"submitting FAILED: {error}")
        return
    say(f"{file.name}: public score {'not shown' if score is None else f'{score:.6g}'}")
    if score is not None:
        try:
            record_public_score(paths.runs, file.stem, score)
        except UserError as error:  # it is handed in all the same
            say(f"The score is not kept: {error}")


def score_hidden_test(request: Request, data: PreparedData, zip_path: Path) -> float:
    """Return the value of the metric of the packaged zip on the demo's hidden test."""
    paths, config = request.paths, request.config
    images, labels = load_test(paths.data / HIDDEN_TEST, config.data, data.class_names)
    assert labels is not None  # the demo's
    metric = get_metric(config.metric)
    predictions = run_ingestion(zip_path, images, config.limits, metric=metric)
    return metric.compute(labels, predictions.as_probabilities(len(data.class_names)))


def ask_server(request: Request, data: PreparedData) -> None:
    """Run the actions of the server at home, on distorted validation images or --on-test."""
    paths, config = request.paths, request.config
    if request.bundle:
        write_bundle(paths.bundle, data, config)
    if request.dry_run is not None:
        show_dry_run(request.dry_run, data, config, paths, request.on_test)
    if request.grade is not None:
        grade(request.grade, data, config, paths, request.on_test, request.force)
