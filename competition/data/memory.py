"""The memory that images need against the free memory, before any image is read."""

from contextlib import suppress
from pathlib import Path

import psutil

from competition.common.errors import UserError

CONTROL_GROUP = Path("/sys/fs/cgroup")  # of this process, where a container has limits


def require_memory(path: Path, count: int, image_bytes: int) -> None:
    """Raise UserError unless `count` images of `path`, of `image_bytes` each, fit into memory."""
    free = find_free_memory()
    needed = count * image_bytes
    if needed > free:
        fitting = int(0.8 * free / image_bytes)
        raise UserError(
            f"{path} needs {needed / 1e9:.1f} GB of memory for {count} images, and "
            f"{free / 1e9:.1f} GB are free; take fewer with --set data.limit={fitting}, "
            "or smaller images."
        )


def find_free_memory() -> int:
    """Return the bytes that this process can still take: of the machine, container and limit."""
    free = [psutil.virtual_memory().available]
    with suppress(OSError, ValueError):  # no such file, or the word 'max'
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
        facts = (CONTROL_GROUP / "memory.stat").read_text().split()
        free.append(limit - used + int(facts[facts.index("inactive_file") + 1]))
    if hasattr(psutil, "RLIMIT_AS"):  # on Linux
        process = psutil.Process()
        limit, _ = process.rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            free.append(limit - process.memory_info().vms)
    return max(0, min(free))
