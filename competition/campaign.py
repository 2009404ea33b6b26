"""Search and training of all backbones, within the time that there is."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from competition.common.console import describe_seconds, headline, say
from competition.common.files import digest, read_json, write_json
from competition.common.parallel import Workers
from competition.common.settings import flatten
from competition.config import Config, unflatten, with_settings
from competition.costs import Costs, Sizes, measure_speed, slowest
from competition.data.arrays import PreparedData
from competition.job import Job
from competition.planning import Planner, describe_plan
from competition.search.rounds import SearchJob
from competition.search.search import conclude, search
from competition.search.study import resume_study
from competition.training.runs import describe_environment, run_training

DELAY = 0.3  # of a search, as a share of its time, before no further trial begins


def _search(job: SearchJob, prepared: PreparedData, features: Path) -> None:
    """Search in any process, to which `prepared` goes as the name of its folder."""
    search(job, prepared.training, features)


def _part_deadlines(seconds: dict[str, float], end: float) -> dict[str, float]:
    """Return when each part of a search is over (time.monotonic), if it ends in `end` seconds, or a little later."""
    now, total = time.monotonic(), sum(seconds.values())
    begins, span = now + end - total, total + DELAY * end
    done = dict(zip(seconds, itertools.accumulate(seconds.values()), strict=True))
    return {part: begins + span * until / total for part, until in done.items()}


class Campaign:
    """What one job searches and trains, by `workers`."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self.job, self.paths, self.config, self.workers = job, job.paths, job.config, workers

    def run(self, prepared: PreparedData) -> list[Path]:
        """Search where asked, then train the best settings of each backbone; return the runs' folders."""
        config, planner = self.plan(prepared)
        if self.job.options.search:
            planner = self.search(prepared, config, planner)
        if self.job.deadline is not None:
            config = self._planned(
                "training", prepared, lambda: planner.plan_training(config, self.job.seconds_left)
            )
            if self.job.options.search:
                say(
                    "\nAfter the search, with what its trials took:\n"
                    + describe_plan(config, planner, search=False)
                )
        return self.train(prepared, config, planner)

    def plan(self, prepared: PreparedData) -> tuple[Config, Planner]:
        """Measure this machine and fit trials and epochs into the time budget, or say how long the settings take."""
        headline("Plan")
        pictures = prepared.training.images
        measure = partial(
            measure_speed, self.config, pictures.shape[1:], prepared.training.num_classes
        )
        measured = self.workers.run_all(
            {f"measurement {number + 1}": measure for number in range(self.workers.number)}
        )
        speed = slowest([speed for _, speed in measured])
        evaluated = len(prepared.validation.labels) + len(prepared.test.labels)
        sizes = Sizes(
            len(pictures),
            len(prepared.training.validation_labels),
            evaluated,
            max(pictures.shape[1:3]),
        )
        planner = Planner(Costs(speed, sizes, self.job.weights), self.workers.number)
        config = self.config
        if self.job.deadline is not None:
            planner = planner.keep_affordable(
                config, self.job.seconds_left, self.job.final, self.job.options.search
            )
            config = self._planned("search", prepared, partial(self._fit, planner))
            say(
                f"time budget {describe_seconds(self.job.budget or 0)}, {describe_seconds(self.job.seconds_left)} left"
            )
        say(describe_plan(config, planner, self.job.options.search))
        return config, planner

    def _fit(self, planner: Planner) -> Config:
        left = self.job.seconds_left
        if not self.job.options.search:
            return planner.plan_training(self.config, left)
        planned = planner.plan_search(self.config, left, self.job.options.trials)
        return planner.plan_training(planned, left - planner.search_span(planned))

    def _planned(self, part: str, prepared: PreparedData, make: Callable[[], Config]) -> Config:
        """Return the plan that an interrupted call of the same command made, or make it and keep it."""
        path = self.paths.experiments / f"plan_{part}.json"
        weights = [item.fingerprint for item in self.job.weights.values()]
        asked = [self.job.backbones, self.job.budget, self.job.options.search]
        key = digest(
            flatten(self.config),
            prepared.fingerprint,
            asked,
            weights,
            describe_environment()["device"],
        )
        if path.is_file() and read_json(path)["key"] == key and not self.job.options.force:
            return unflatten(read_json(path)["settings"])
        planned = make()
        write_json(path, {"key": key, "settings": flatten(planned)})
        return planned

    def search(self, prepared: PreparedData, config: Config, planner: Planner) -> Planner:
        """Search each backbone within its share of the time; return a planner that knows what trials take.

        Where there are more workers than backbones, several work on each study.
        """
        headline("Search")
        parts = planner.search_seconds(config)
        costs = self._in_order({name: sum(seconds.values()) for name, seconds in parts.items()})
        jobs = self._search_jobs(list(costs), prepared, config)
        each = max(1, self.workers.number // max(1, len(jobs)))
        tasks = {
            name if worker == 0 else f"{name}, worker {worker + 1}": dataclasses.replace(
                job, worker=worker
            )
            for worker in range(each)
            for name, job in jobs.items()
        }
        if tasks and self.job.deadline is not None:
            ends = planner.finish_times({name: costs[job.backbone] for name, job in tasks.items()})
            latest = (
                self.job.deadline
                - planner.reserve(config)
                - planner.span(planner.final_seconds(config)) / 2
            )
            tasks = {
                name: dataclasses.replace(
                    job,
                    deadlines=_part_deadlines(parts[job.backbone], ends[name]),
                    last_moment=latest,
                )
                for name, job in tasks.items()
            }
        for _ in self.workers.run_all(
            {
                name: partial(_search, job, prepared, self.paths.features)
                for name, job in tasks.items()
            }
        ):
            pass
        learnt = planner.costs
        for name, found in self.workers.run_all(
            {name: partial(conclude, job) for name, job in jobs.items()}
        ):
            if found["seconds"]:
                learnt = learnt.learn(name, config.training.batch_size, found["seconds"])
        return dataclasses.replace(planner, costs=learnt)

    def _search_jobs(
        self, names: list[str], prepared: PreparedData, config: Config
    ) -> dict[str, SearchJob]:
        """Return what there is to search for each backbone, its studies opened and mended, or refused at once."""
        jobs = {}
        for name in names:
            job = self._search_job(name, prepared, config)
            if not job.space:
                say(
                    f"{name}: nothing to search, --set says it all; its settings are trained as they are."
                )
                continue
            for part in job.parts:
                resume_study(part)
            jobs[name] = job
        return jobs

    def _in_order(self, costs: dict[str, float]) -> dict[str, float]:
        """The packaged backbone first, so that it is there whatever happens later; then the most expensive ones."""
        return dict(sorted(costs.items(), key=lambda item: (item[0] != self.job.final, -item[1])))

    def _search_job(self, name: str, prepared: PreparedData, config: Config) -> SearchJob:
        training = prepared.training
        data = {"splits": prepared.fingerprint, "training pictures": len(training.labels)}
        data |= {
            "picture": "x".join(map(str, training.images.shape[1:])),
            "classes": training.num_classes,
        }
        own, storage = with_settings(config, {"model.backbone": name}), self.job.options.storage
        backend = keras.config.backend()
        chance = float(
            np.bincount(training.validation_labels).max() / len(training.validation_labels)
        )
        job = SearchJob(
            own,
            self.job.weights[name],
            self.paths.studies,
            data,
            backend,
            max(training.images.shape[1:3]),
            storage,
            self.job.user_keys,
            chance=chance,
        )
        job.folder.mkdir(parents=True, exist_ok=True)
        if self.job.options.force and not storage:
            for file in job.folder.glob(
                f"{job.database.name}*"
            ):  # SQLite would play its journal into the next one
                file.unlink()
        return job

    def train(self, prepared: PreparedData, config: Config, planner: Planner) -> list[Path]:
        """Train the best settings known for each backbone, within its share of the time; return the runs."""
        headline("Train")
        costs = self._in_order(planner.final_seconds(config))
        deadlines: dict[str, float | None] = dict.fromkeys(costs)
        if self.job.deadline is not None:
            now, room = time.monotonic(), max(1.0, self.job.seconds_left - planner.reserve(config))
            ends = planner.finish_times(costs)
            deadlines |= {name: now + room * end / max(ends.values()) for name, end in ends.items()}
        tasks = {}
        for name in costs:
            found = self._best_settings(name, prepared)
            say(f"{name}: {'the best settings of its search' if found else 'settings as given'}")
            own, weights = (
                with_settings(config, {"model.backbone": name, **found}),
                self.job.weights[name],
            )
            force = self.job.forces("train")
            tasks[name] = partial(
                run_training, own, prepared, weights, self.paths.runs, deadlines[name], force
            )
        return [run for _, run in self.workers.run_all(tasks)]

    def _best_settings(self, name: str, prepared: PreparedData) -> dict[str, Any]:
        """What the search of a backbone found, but for what the command line says otherwise."""
        path = self.paths.studies / f"{name}_best.json"
        best: dict[str, Any] = read_json(path) if path.is_file() else {}
        weights, select_by = self.job.weights[name].fingerprint, self.config.training.select_by
        same = {"data": prepared.fingerprint, "weights": weights, "select_by": select_by}
        if not same.items() <= best.items():
            return {}
        return {
            key: value for key, value in best["settings"].items() if key not in self.job.fixed_keys
        }
