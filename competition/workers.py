"""Tasks side by side in processes of their own, each with its share of the processor."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import psutil
from tqdm import tqdm

from competition import console
from competition.files import InputError

Result = TypeVar("Result")
GIGABYTES_EACH = 2.5  # what a worker takes while it trains, and what it leaves to the rest of the machine


def count_workers(tasks: int, accelerated: bool) -> int:
    """Return how many processes serve `tasks` best: one with an accelerator, else one a core as far as memory goes.

    Two networks trained on one core each take far less time than one after the other on both.
    """
    fitting = int(psutil.virtual_memory().available / 2**30 / GIGABYTES_EACH)
    return 1 if accelerated else max(1, min(tasks, _count_cores(), fitting))


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A context of `number` processes that run tasks; with one, this process does it.

    failures: what went wrong, a sentence each.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.failures: list[str] = []
        self.pool = self._start(number) if number > 1 else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.pool is None:
            return
        if kind is not None:  # nobody waits for the tasks any more; each can go on from its last checkpoint
            for child in multiprocessing.active_children():
                child.kill()
        self.pool.shutdown(cancel_futures=True)

    def run(self, tasks: Mapping[str, Callable[[], Result]]) -> Iterator[tuple[str, Result | InputError]]:
        """Yield the name of each task and its result, or the InputError that it raised, in the order in which they end.

        tasks: picklable, begun in their order. Where a process dies, the tasks that it takes along are run again, one
        at a time; one that dies alone gives an InputError. Any other error ends the iteration.
        """
        if self.pool is None or len(tasks) == 1:  # one alone is faster with all cores, in this process
            yield from ((name, _attempt(task)) for name, task in tasks.items())
            return
        futures = {self.pool.submit(_attempt, task): name for name, task in tasks.items()}
        lost = []
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                lost.append(futures[future])
        if lost:
            console.say(f"A worker process died, often for want of memory; again, one at a time: {', '.join(lost)}")
            yield from ((name, self._run_alone(name, tasks[name])) for name in lost)
            self.pool = self._start(self.number)

    def run_all(self, tasks: Mapping[str, Callable[[], Result]]) -> Iterator[tuple[str, Result]]:
        """Yield what the tasks give; what goes wrong in one is told, and ends the job only when all is over."""
        for name, result in self.run(tasks):
            if isinstance(result, InputError):
                self.tell_failure(name, result)
            else:
                yield name, result

    def tell_failure(self, name: str, error: InputError) -> None:
        """Say what went wrong, and remember it."""
        console.say(f"{name} FAILED: {error}")
        self.failures.append(f"{name}: {error}")

    def _run_alone(self, name: str, task: Callable[[], Result]) -> Result | InputError:
        with self._start(1) as pool:
            try:
                return pool.submit(_attempt, task).result()
            except BrokenProcessPool:
                return InputError(
                    f"The process of {name} died, killed from outside or for want of memory; close other programs, "
                    "or lower training.batch_size, and give the same command again."
                )

    def _start(self, number: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        slots = context.Queue()
        for slot in range(number):
            slots.put(slot)
        arguments = slots, max(1, _count_cores() // self.number), context.RLock()
        return ProcessPoolExecutor(number, context, initializer=_prepare_process, initargs=arguments)


def _attempt(task: Callable[[], Result]) -> Result | InputError:
    try:
        return task()
    except InputError as error:
        return error


def _prepare_process(slots: Any, threads: int, lock: Any) -> None:
    """Limit the threads before any library starts them, find a line for the progress bars, and end with the parent."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to stop
    tqdm.set_lock(lock)
    console.set_bar_position(slots.get())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with console.quiet_import():
        import keras  # noqa: F401  # loads the backend while standard error is quiet


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
