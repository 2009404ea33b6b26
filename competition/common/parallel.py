"""Tasks side by side in processes of their own, each with its share of the processor."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import psutil
from tqdm import tqdm

from competition.common import console
from competition.common.errors import UserError

Result = TypeVar("Result")
Tasks = Mapping[str, Callable[[], Result]]
GIGABYTES_EACH = 2.5  # a worker while it trains, with what it leaves to the rest of the machine


def count_workers(tasks: int, accelerated: bool) -> int:
    """Return how many processes serve `tasks` best.

    One with an accelerator, else one per core as far as memory goes: two networks trained on one
    core each take far less time than one after the other on both.
    """
    fitting = int(psutil.virtual_memory().available / 2**30 / GIGABYTES_EACH)
    return 1 if accelerated else max(1, min(tasks, count_cores(), fitting))


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A context of `number` processes that run tasks; where it is 1, this process runs them.

    failures: a sentence per task that failed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.stopped = False
        self.failures: list[str] = []
        self.context = multiprocessing.get_context("spawn")
        self.lock = self.context.RLock()  # of the progress bars
        self.pools = [self._start(slot) for slot in range(number)] if number > 1 else []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.stopped = True
        if kind is not None:  # nobody waits for the tasks; each can go on from what it saved last
            for child in multiprocessing.active_children():
                child.kill()
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def run_all(
        self, tasks: Tasks[Result], queues: Sequence[Sequence[str]] | None = None
    ) -> Iterator[tuple[str, Result]]:
        """Yield the name and the result of each task, as soon as it ends.

        tasks: picklable. queues: the names that each process takes, in order; None: each takes the
        next one in their order. A task that raises a UserError is told, remembered, and gives
        nothing. One whose process dies is run again when the others are over, at most once. Any
        other error ends the iteration.
        """
        for name, result in self._run(tasks, queues or [list(tasks)]):
            if isinstance(result, BrokenProcessPool):
                result = UserError(
                    f"The process of {name} died, killed from outside or for want of memory; close "
                    "other programs, or lower training.batch_size, and give the same command again."
                )
            if isinstance(result, UserError):
                console.say(f"{name} FAILED: {result}")
                self.failures.append(f"{name}: {result}")
            elif isinstance(result, Exception):
                raise result
            else:
                yield name, result

    def _run(
        self, tasks: Tasks[Result], queues: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, Result | Exception]]:
        if not self.pools or len(tasks) == 1:  # one alone is faster with all cores, in this process
            yield from ((name, _attempt(tasks[name])) for names in queues for name in names)
            return
        waiting: list[queue.SimpleQueue[str]] = [queue.SimpleQueue() for _ in queues]
        for names, line in zip(queues, waiting, strict=True):
            for name in names:
                line.put(name)
        ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        for slot in range(self.number):
            serve = (slot, tasks, waiting[slot % len(waiting)], ended)
            threading.Thread(target=self._serve, args=serve, daemon=True).start()
        lost = []
        for _ in tasks:
            name, result = ended.get()
            if isinstance(result, BrokenProcessPool):
                lost.append(name)
            else:
                yield name, result
        if lost:
            names = ", ".join(lost)
            console.say(f"A process died, often for want of memory; again, one at a time: {names}")
        yield from ((name, self._run_in(0, tasks[name])) for name in lost)

    def _serve(self, slot: int, tasks: Tasks[Any], waiting: Any, ended: Any) -> None:
        """Run the waiting tasks in one of the processes."""
        with contextlib.suppress(queue.Empty):
            while not self.stopped:
                name = waiting.get_nowait()
                try:
                    ended.put((name, self._run_in(slot, tasks[name])))
                except Exception as error:  # of starting a process; nobody else would hear of it
                    ended.put((name, error))

    def _run_in(self, slot: int, task: Callable[[], Any]) -> Any:
        """Return a task's result, or the exception that it raised or its process left."""
        try:
            return self.pools[slot].submit(_attempt, task).result()
        except BrokenProcessPool as error:
            if not self.stopped:
                self.pools[slot].shutdown()
                self.pools[slot] = self._start(slot)
            return error
        except Exception as error:
            return error

    def _start(self, slot: int) -> ProcessPoolExecutor:
        arguments = slot, max(1, count_cores() // self.number), self.lock, console.log_settings()
        return ProcessPoolExecutor(
            1, self.context, initializer=_prepare_process, initargs=arguments
        )


def _attempt(task: Callable[[], Result]) -> Result | UserError:
    try:
        return task()
    except UserError as error:
        return error


def _prepare_process(slot: int, threads: int, lock: Any, log: tuple[Path | None, bool]) -> None:
    """Limit the threads before any library starts them, and end with the parent."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to stop
    tqdm.set_lock(lock)
    console.escape_output()
    console.set_bar_position(slot)
    console.log_to(*log)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with console.quiet_import():
        import keras  # noqa: F401  # loads the backend while standard error is quiet


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
