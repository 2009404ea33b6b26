"""A budget is shared out by costs into slots; what one step saves goes to those that follow."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from competition import time_budget
from competition.backbones import BACKBONES, COMPARED
from competition.common.files import write_json
from competition.time_budget import (
    JobClock,
    Slot,
    Turn,
    packaging_seconds,
    plan_turns,
    share_out,
)

COSTS = {"small": 1.0, "large": 2.0, "custom": 4.0, "slow": 8.0}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(time=lambda: made.now))
    return made


def test_a_slot_passes_with_the_clock(clock: Clock) -> None:
    slot = Slot(1000, 1100)
    for now, passed, left in ((990, 0, 110), (1000, 0, 100), (1025, 0.25, 75), (1200, 1, 0)):
        clock.now = now
        assert slot.passed == passed
        assert slot.seconds_left == left
        assert slot.is_over == (now >= 1100)


def test_a_slot_without_length_is_over_and_passed(clock: Clock) -> None:
    for slot in (Slot(1000, 1000), Slot(1000, 900)):
        assert slot.length == 0
        assert slot.is_over
        assert slot.passed == 1


def test_a_part_of_a_slot_is_a_share_of_what_is_left(clock: Clock) -> None:
    clock.now = 1060
    part = Slot(1000, 1100).next_part(0.25)
    assert (part.start, part.end) == (1060, 1070)


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_backbones_are_shared_out_evenly_and_the_packaged_one_comes_first(workers: int) -> None:
    queues = share_out(COSTS, "small", workers)
    assert queues[0][0] == "small"
    assert sorted(name for queue in queues for name in queue) == sorted(COSTS)
    assert len(queues) == min(workers, 4)
    assert share_out(COSTS, "small", 2) == [["small", "custom", "large"], ["slow"]]


@pytest.mark.parametrize("packaged", ["mobilenetv3large", "efficientnetb0", "custom_cnn"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_turns_follow_one_another_in_the_order_in_which_a_worker_takes_the_backbones(
    clock: Clock, packaged: str, workers: int
) -> None:
    costs = {name: BACKBONES[name].cost for name in COMPARED}
    queues, turns = plan_turns(costs, packaged, workers, deadline=9000.0)
    assert queues == share_out(costs, packaged, workers)
    for queue in queues:
        for place, name in enumerate(queue):
            following = sum(turns[other].cost for other in queue[place + 1 :])
            assert turns[name].following == pytest.approx(following)


def test_the_packaged_backbone_counts_twice(clock: Clock) -> None:
    _, turns = plan_turns(COSTS, "large", 1, deadline=10_000.0)
    order = sorted(turns, key=lambda name: -turns[name].following)
    assert order == ["large", "slow", "custom", "small"]
    assert turns["large"] == Turn(10_000.0, 4.0, 13.0, 9000 * 4 / 17)
    assert turns["large"].begin().length == pytest.approx(9000 * 4 / 17)
    assert sum(turn.planned_seconds for turn in turns.values()) == pytest.approx(9000)
    assert turns["small"].following == 0


def test_turns_use_up_the_time_until_the_deadline_and_inherit_what_others_save(
    clock: Clock,
) -> None:
    _, turns = plan_turns({"a": 1.0, "b": 1.0, "c": 2.0}, "a", 1, deadline=3000.0)
    first = turns["a"].begin()
    assert first.start == 1000
    assert first.end == pytest.approx(1800)
    clock.now = 1200  # it needed a quarter of its time
    second = turns["c"].begin()
    assert second.end == pytest.approx(1200 + 1800 * 2 / 3)
    clock.now = 2900  # this one took longer than its time
    assert turns["b"].begin().end == pytest.approx(3000)


def test_a_short_budget_leaves_backbones_out_and_gives_their_time_to_the_others(
    clock: Clock,
) -> None:
    queues, turns = plan_turns(COSTS, "small", 1, deadline=1000 + 1600)
    assert queues == [["small", "slow", "custom", "large"]]
    queues, turns = plan_turns(COSTS, "small", 1, deadline=1000 + 670)
    assert queues == [["small", "slow"]]
    assert sum(turn.planned_seconds for turn in turns.values()) == pytest.approx(670)
    queues, turns = plan_turns(COSTS, "small", 1, 1000 + 670, trained=["custom"])
    assert set(turns) == {"small", "slow", "custom"}, "what is trained is still to be scored"
    assert plan_turns(COSTS, "small", 4, deadline=1010.0)[0] == [["small"]]


def test_workers_have_turns_of_their_own(clock: Clock) -> None:
    _, turns = plan_turns(COSTS, "small", 2, deadline=2120.0)
    ends = {name: turn.begin().end for name, turn in turns.items()}
    assert ends["slow"] == pytest.approx(2120)
    assert ends["small"] == pytest.approx(1000 + 1120 * 2 / (2 + 4 + 2))


@pytest.mark.parametrize(("budget", "seconds"), [(60, 40), (1200, 60), (86400, 90)])
def test_packaging_has_a_share_within_bounds(budget: float, seconds: float) -> None:
    assert packaging_seconds(budget) == pytest.approx(seconds)


def use(
    folder: Path,
    clock: Clock,
    command: str,
    seconds: float,
    error: type[BaseException] | None = None,
) -> float:
    """Let a command with a budget of 600 s take time; return what it had used at its start."""
    with JobClock(folder, command, 600.0) as job:
        job.watch({"small": 1.0})
        before = job.seconds_used
        assert job.deadline == pytest.approx(clock.now + 600 - before)
        clock.now += seconds
        if error is not None:
            raise error
    return before


def stop(folder: Path, clock: Clock, command: str, seconds: float) -> None:
    """Let a command be stopped after some time, and some more pass until anything else."""
    with pytest.raises(KeyboardInterrupt):
        use(folder, clock, command, seconds, KeyboardInterrupt)
    clock.now += 5000


def test_the_time_of_a_stopped_command_counts_when_it_is_given_again(
    clock: Clock, tmp_path: Path
) -> None:
    stop(tmp_path, clock, "search", 100)
    stop(tmp_path, clock, "search", 50)
    with JobClock(tmp_path, "leaderboard", None):
        clock.now += 10
    assert use(tmp_path, clock, "search", 100) == 150
    assert use(tmp_path, clock, "search", 100) == 0, "done: forgotten"


def test_the_time_before_the_clock_counts_where_it_is_known(clock: Clock, tmp_path: Path) -> None:
    with JobClock(tmp_path, "search", 600.0, started=980.0) as job:
        assert job.seconds_used == 20
        assert job.deadline == 1580


def test_the_time_of_another_command_does_not_count(clock: Clock, tmp_path: Path) -> None:
    stop(tmp_path, clock, "search", 100)
    assert use(tmp_path, clock, "train", 50) == 0


def test_what_was_stopped_before_its_tasks_began_begins_anew(clock: Clock, tmp_path: Path) -> None:
    job = JobClock(tmp_path, "search", 600.0)
    job.__enter__()
    clock.now += 100
    job.__exit__(KeyboardInterrupt)
    assert use(tmp_path, clock, "search", 100) == 0


def test_what_tasks_note_stays_until_the_command_is_done(clock: Clock, tmp_path: Path) -> None:
    job = JobClock(tmp_path, "search", 600.0)
    job.__enter__()
    job.watch({"small": 1.0})
    note = job.tasks_folder / "small.searched"
    note.touch()
    tell(job, "small", 0.5)
    job.__exit__(KeyboardInterrupt)
    assert list(note.parent.iterdir()) == [note]
    use(tmp_path, clock, "search", 10)
    assert not note.exists()
    note.touch()
    stop(tmp_path, clock, "train", 10)
    assert not note.exists(), "of another command"


def test_a_killed_command_has_saved_its_time_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobClock, "TICK_SECONDS", 0.02)
    job = JobClock(tmp_path, "search", 600.0)
    job.__enter__()
    job.watch({"small": 1.0})
    deadline = time.monotonic() + 20
    while not (tmp_path / "clock.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    job.done.set()
    kept = json.loads((tmp_path / "clock.json").read_text())
    assert kept["command"] == "search"
    assert 0 < kept["seconds"] < 20


def tell(job: JobClock, name: str, share: float) -> None:
    write_json(
        job.tasks_folder / f"{name}.json", {"share": share, "doing": f"trains at {share:.0%}"}
    )


def test_with_a_budget_the_time_left_is_that_of_the_budget(clock: Clock, tmp_path: Path) -> None:
    with JobClock(tmp_path, "search", 600.0) as job:
        clock.now += 90
        tell(job, "small", 0.5)
        assert job.describe() == "-- 1 min 30 s gone, 8 min 30 s left: small trains at 50%"
        clock.now += 900
        assert ", 0 s left" in job.describe()
    assert not list((tmp_path / "tasks").iterdir())


def test_without_a_budget_the_time_left_follows_from_what_is_done(
    clock: Clock, tmp_path: Path
) -> None:
    with JobClock(tmp_path, "search", None) as job:
        clock.now += 30  # cleaning tells nothing about the tasks
        job.watch({"small": 1.0, "large": 3.0})
        clock.now += 60
        assert job.describe() == "-- 1 min 30 s gone, time left not known yet"
        tell(job, "small", 0.4)  # an earlier call did this, or the start of the processes took it
        assert "time left not known yet" in job.describe()
        clock.now += 60
        tell(job, "small", 0.8)
        tell(job, "large", 0.0)
        # A tenth of all costs took a minute, and a fifth of them is done.
        assert "about 8 min 00 s left: large trains at 0%; small trains at 80%" in job.describe()


def test_a_task_that_is_just_being_told_of_hides_no_other(clock: Clock, tmp_path: Path) -> None:
    with JobClock(tmp_path, "search", 600.0) as job:
        tell(job, "small", 0.5)
        (job.tasks_folder / "large.json").write_text("{")
        assert job.describe().endswith("10 min 00 s left: small trains at 50%")


def test_the_status_is_shown_while_tasks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Told:
        def __init__(self, position: int) -> None:
            self.show: Any = shown.append

        def close(self) -> None:
            shown.append("closed")

    monkeypatch.setattr(time_budget, "Status", Told)
    monkeypatch.setattr(JobClock, "TICK_SECONDS", 0.02)
    deadline = time.monotonic() + 20
    with JobClock(tmp_path, "search", None) as job:
        time.sleep(0.1)
        assert not shown, "nothing is watched yet"
        job.watch({"small": 1.0})
        while not shown and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "gone" in shown[0]
    assert shown[-1] == "closed"
