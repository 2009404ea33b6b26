"""A virtual environment with the versions of the competition's server, kept in the user's cache."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from competition.codabench.dry_run import last_line
from competition.common.console import say, timed
from competition.common.errors import NotCheckedError, UserError
from competition.common.files import mark_done, up_to_date

# With retries, pip says `Retrying` for every index that it cannot reach.
PIP_INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--retries=3")


def parse_requirements(text: str) -> tuple[str, ...]:
    """Return the requirements of `tensorflow==2.17.0,keras==3.4.1`.

    Raises UserError where a version is missing.
    """
    requirements = tuple(requirement.strip() for requirement in text.split(","))
    for requirement in requirements:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+]+", requirement):
            raise UserError(
                f"--check-server got '{requirement}', and expects exact versions, "
                "as tensorflow==2.17.0,keras==3.4.1."
            )
    return requirements


def cache_folder() -> Path:
    """Return the folder of environments: in $XDG_CACHE_HOME (XDG Base Directory) or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "blood-cell-competition" / "servers"


def server_python(requirements: tuple[str, ...], cache: Path) -> Path:
    """Return the interpreter of an environment with `requirements`, which is built where missing.

    It is kept by its versions and those of this Python. Another process that asks for the same one
    waits. Raises NotCheckedError where it cannot be built here, and UserError for versions that do
    not exist.
    """
    key = "_".join([*requirements, f"python{platform.python_version()}", platform.machine()])
    folder = cache / key
    marker = folder / "done.json"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            if not (up_to_date(marker, key) and python.is_file()):
                shutil.rmtree(folder, ignore_errors=True)  # half built, or of a Python that is gone
                _build_environment(folder, python, requirements)
                mark_done(marker, key)
    except OSError as error:
        raise NotCheckedError(f"no environment can be kept in {cache}: {error}") from error
    return python


def _build_environment(folder: Path, python: Path, requirements: tuple[str, ...]) -> None:
    say(
        f"an environment with {', '.join(requirements)} is built, once, in {folder}; "
        "TensorFlow takes 2 GB"
    )
    with timed("  pip"):
        command = [sys.executable, "-m", "venv", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode != 0:
            raise NotCheckedError(f"python -m venv fails: {last_line(made.stderr or made.stdout)}")
        kept = {key: os.environ[key] for key in os.environ.keys() - {"PYTHONPATH", "PYTHONHOME"}}
        # pip's own progress goes to standard error, its errors are kept.
        command = [str(python), *PIP_INSTALL, *requirements]
        installed = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, env=kept)
    if installed.returncode == 0:
        return
    shutil.rmtree(folder, ignore_errors=True)
    errors = [line for line in installed.stderr.splitlines() if line.startswith("ERROR")]
    reason = errors[-1] if errors else last_line(installed.stderr)
    if "Retrying" in installed.stderr:
        raise NotCheckedError("the package index cannot be reached; is this machine offline?")
    if "No matching distribution" in reason:
        raise UserError(
            f"There is no {' or no '.join(requirements)} for Python {platform.python_version()}: "
            f"{reason}; name versions that exist for it."
        )
    raise NotCheckedError(f"pip fails: {reason}")
