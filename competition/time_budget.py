"""The sharing of a time budget: slots of the clock, turns of backbones, and the clock of a job.

Seconds are those of time.time(), since slots cross processes.
"""

import contextlib
import json
import threading
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from competition.common.console import Status, describe_seconds
from competition.common.files import if_intact, read_json, write_json

SHORTEST_BUDGET = 60.0  # seconds, of which packaging takes 40
SHORTEST_TURN = 200.0  # seconds below which a busy machine trains a network to chance
PACKAGED_SHARE = 2.0  # the backbone that is packaged gets this many times its cost
PACKAGING_SHARE = 0.05  # of the budget, for packaging and the leaderboard ...
PACKAGING_SECONDS = (40.0, 90.0)  # ... within these bounds
TELLING_SHARE = 0.03  # of the work that is done before its rate is believed
TASKS = "tasks"  # the folder in which tasks tell their progress
STATUS_POSITION = 4  # the line of the status, below the bars


@dataclass(frozen=True)
class Slot:
    """A span of time that a loop may take: from `start` to `end`, seconds since the epoch."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds in all, at least 0."""
        return max(0.0, self.end - self.start)

    @property
    def seconds_left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self.end - time.time())

    @property
    def is_over(self) -> bool:
        """Whether the end has come."""
        return time.time() >= self.end

    @property
    def passed(self) -> float:
        """The share of the slot that has passed, 0..1."""
        if self.length == 0:
            return 1.0
        return min(1.0, max(0.0, (time.time() - self.start) / self.length))

    def next_part(self, share: float) -> "Slot":
        """Return the slot of a `share` (0..1) of the time that is left, from now on."""
        return Slot(time.time(), time.time() + share * self.seconds_left)


@dataclass(frozen=True)
class TrainingTime:
    """The time of one training: its slot, and the seconds of the budget that it is a part of.

    limit: a network that is at chance when its slot is over may train on until then. sharing: tells
    among what the budget is shared out; with another share it is another experiment.
    """

    slot: Slot
    limit: float
    budget: float
    sharing: str = ""


@dataclass(frozen=True)
class Turn:
    """The turn of one backbone among those that a worker takes one after the other.

    deadline: when the last of them must end. cost, following: relative costs of this one, and of
    all that come after it. planned_seconds: its time if all of them use just theirs.
    """

    deadline: float
    cost: float
    following: float = 0.0
    planned_seconds: float = 0.0

    def begin(self) -> Slot:
        """Return the slot from now on, with its share of the time that earlier turns left."""
        return Slot(time.time(), self.deadline).next_part(self.cost / (self.cost + self.following))

    def training_time(
        self, slot: Slot, scoring_share: float, budget: float, sharing: str = ""
    ) -> TrainingTime:
        """Return the time of a training from now on, after which scoring has a share of `slot`."""
        scoring = scoring_share * slot.length
        training = Slot(time.time(), slot.end - scoring)
        return TrainingTime(training, self.deadline - scoring, budget, sharing)


def share_out(costs: Mapping[str, float], packaged: str, workers: int) -> list[list[str]]:
    """Return the names that each worker takes, in order: the costliest go to the freest worker.

    The one that is packaged comes first, so that it is there whatever happens later.
    """
    weighted = _weigh(costs, packaged)
    queues: list[list[str]] = [[] for _ in range(min(workers, len(costs)))]
    names = sorted(costs, key=lambda name: (name != packaged, -costs[name]))
    for name in names:
        min(queues, key=lambda queue: sum(weighted[other] for other in queue)).append(name)
    return queues


def plan_turns(
    costs: Mapping[str, float],
    packaged: str,
    workers: int,
    deadline: float,
    trained: Container[str] = (),
) -> tuple[list[list[str]], dict[str, Turn]]:
    """Return the names that each worker takes, in order, and the turn of each of them.

    Backbones that would have no time to learn anything are left out, the shortest turn first, so
    that the others have theirs; never the packaged one, nor any of those that are `trained`.
    """
    costs = dict(costs)
    while True:
        queues = share_out(costs, packaged, workers)
        turns = _plan_queues(queues, _weigh(costs, packaged), deadline)
        short = [
            name
            for name, turn in turns.items()
            if turn.planned_seconds < SHORTEST_TURN and name != packaged and name not in trained
        ]
        if not short:
            return queues, turns
        del costs[min(short, key=lambda name: (turns[name].planned_seconds, name))]


def _plan_queues(
    queues: list[list[str]], weighted: Mapping[str, float], deadline: float
) -> dict[str, Turn]:
    turns = {}
    left = max(0.0, deadline - time.time())
    for queue in queues:
        total = sum(weighted[name] for name in queue)
        following = total
        for name in queue:
            following -= weighted[name]
            planned = left * weighted[name] / total
            turns[name] = Turn(deadline, weighted[name], following, planned)
    return turns


def _weigh(costs: Mapping[str, float], packaged: str) -> dict[str, float]:
    return {
        name: cost * (PACKAGED_SHARE if name == packaged else 1.0) for name, cost in costs.items()
    }


def packaging_seconds(budget: float) -> float:
    """Return the seconds of a budget that packaging and the leaderboard get."""
    low, high = PACKAGING_SECONDS
    return min(high, max(low, PACKAGING_SHARE * budget))


class JobClock:
    """The time that a command has used, over all its calls until it is done; a context.

    A command that was stopped after its tasks began, and is given again, goes on with the rest of
    its budget. While tasks run, the time left is shown. Without a budget it is estimated from the
    progress so far.
    """

    TICK_SECONDS = 5.0

    def __init__(
        self, folder: Path, command: str, budget: float | None, started: float | None = None
    ) -> None:
        """folder: keeps the time used and the tasks' progress. command: tells it from others.

        started: when the command began (None: now).
        """
        self.folder = folder
        self.command = command
        self.budget = budget
        self.costs: dict[str, float] = {}
        self.first: tuple[float, float] | None = None  # the time, and the share that was done then
        self.before = 0.0
        self.started = time.time() if started is None else started
        self.done = threading.Event()
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "JobClock":
        self._clear("*.json")
        if self.budget is not None:
            known: dict[str, Any] = {}
            if self._path.is_file():
                shape = {"command": str, "seconds": float}
                known = if_intact(read_json, self._path, shape) or {}
            if known.get("command") == self.command:
                self.before = float(known["seconds"])
            else:
                self._clear("*")
        self.ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.done.set()
        self.ticker.join()
        self._clear("*.json")
        if self.budget is not None and kind is None:
            self._clear("*")
            self._path.unlink(missing_ok=True)
        elif self.budget is not None and self.costs:
            self._save()

    @property
    def seconds_used(self) -> float:
        """Seconds that this command has taken, earlier calls included."""
        return self.before + time.time() - self.started

    @property
    def deadline(self) -> float:
        """When the budget is over."""
        assert self.budget is not None
        return self.started + self.budget - self.before

    @property
    def tasks_folder(self) -> Path:
        """The folder in which each task tells its progress, in <name>.json.

        Other files of tasks lie there until the command is done, however often it is stopped.
        """
        (self.folder / TASKS).mkdir(parents=True, exist_ok=True)
        return self.folder / TASKS

    def watch(self, costs: Mapping[str, float]) -> None:
        """Let the status go over the tasks of backbones with these relative costs, from now on."""
        self.costs = dict(costs)
        self.first = None

    def describe(self) -> str:
        """Return the time used, the time left, and the present step of each task."""
        told = {}
        for path in sorted((self.folder / TASKS).glob("*.json")):
            with contextlib.suppress(OSError, ValueError):  # just being replaced
                told[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        if self.budget is not None:
            left = f"{describe_seconds(max(0.0, self.deadline - time.time()))} left"
        else:
            done = sum(self.costs.get(name, 0.0) * task["share"] for name, task in told.items())
            left = self._estimate_left(done / (sum(self.costs.values()) or 1.0))
        running = {name: task["doing"] for name, task in told.items() if task["share"] < 1}
        doing = "; ".join(f"{name} {text}" for name, text in running.items())
        return (
            f"-- {describe_seconds(self.seconds_used)} gone, {left}{': ' if doing else ''}{doing}"
        )

    def _estimate_left(self, share: float) -> str:
        """Return the time left, by the rate since the first progress that was seen."""
        now = time.time()
        if self.first is None and share:
            self.first = now, share
        gained = share - self.first[1] if self.first else 0.0
        if self.first is None or gained < TELLING_SHARE:
            return "time left not known yet"
        return f"about {describe_seconds((now - self.first[0]) * (1 - share) / gained)} left"

    @property
    def _path(self) -> Path:
        return self.folder / "clock.json"

    def _clear(self, pattern: str) -> None:
        for file in (self.folder / TASKS).glob(pattern):
            file.unlink(missing_ok=True)

    def _save(self) -> None:
        write_json(self._path, {"command": self.command, "seconds": self.seconds_used})

    def _tick(self) -> None:
        status = Status(STATUS_POSITION)
        while not self.done.wait(self.TICK_SECONDS):
            if self.costs:
                if self.budget is not None:
                    self._save()
                status.show(self.describe())
        status.close()
