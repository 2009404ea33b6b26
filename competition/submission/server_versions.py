"""A virtual environment with the versions of the competition's server, built once and kept in the user's cache."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from competition.common.console import say, timed
from competition.common.errors import NotCheckedError, UserError
from competition.common.files import mark_done, up_to_date

# What pip says when it could not ask the index, after which 'no matching distribution' means nothing.
UNREACHABLE = re.compile(
    r"connection broken|Max retries exceeded|name resolution|Network is unreachable", re.IGNORECASE
)


def parse_requirements(text: str) -> tuple[str, ...]:
    """Return the requirements of `tensorflow==2.17.0,keras==3.4.1`; raises UserError where a version is missing."""
    requirements = tuple(part.strip() for part in text.split(","))
    for part in requirements:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+]+", part):
            raise UserError(
                f"--check-server got '{part}', and expects exact versions, as tensorflow==2.17.0,keras==3.4.1."
            )
    return requirements


def cache_folder() -> Path:
    """Return where environments are kept (XDG Base Directory Specification): $XDG_CACHE_HOME, else ~/.cache."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "blood-cell-competition"
        / "servers"
    )


def server_python(requirements: tuple[str, ...], cache: Path) -> Path:
    """Return the interpreter of an environment with `requirements` and what they need, building it where it is missing.

    It is kept by its versions and those of this Python; another process that asks for the same one waits. Raises
    NotCheckedError where it cannot be built here, and UserError for versions that do not exist.
    """
    key = "_".join([*requirements, f"python{platform.python_version()}", platform.machine()])
    folder, marker = cache / key, cache / key / "done.json"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            if not (up_to_date(marker, key) and python.is_file()):
                shutil.rmtree(folder, ignore_errors=True)  # half built, or of a Python that is gone
                _build(folder, python, requirements)
                mark_done(marker, key)
    except OSError as error:
        raise NotCheckedError(f"no environment can be kept in {cache}: {error}") from error
    return python


def _build(folder: Path, python: Path, requirements: tuple[str, ...]) -> None:
    say(
        f"an environment with {', '.join(requirements)} is built, once, in {folder}; TensorFlow takes 2 GB"
    )
    with timed("  pip"):
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True
        )
        if made.returncode != 0:
            raise NotCheckedError(f"python -m venv fails: {_last_line(made.stderr or made.stdout)}")
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            *requirements,
        ]
        # pip's own progress goes to the terminal; its errors are kept.
        installed = subprocess.run(
            command, stderr=subprocess.PIPE, text=True, env=_clean_environment()
        )
    if installed.returncode == 0:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if UNREACHABLE.search(installed.stderr):
        raise NotCheckedError("the package index cannot be reached; is this machine offline?")
    if "No matching distribution" in installed.stderr:
        raise UserError(
            f"There is no {' or no '.join(requirements)} for Python {platform.python_version()}: "
            f"{_last_line(installed.stderr)}; name versions that exist for it."
        )
    raise NotCheckedError(f"pip fails: {_last_line(installed.stderr)}")


def _clean_environment() -> dict[str, str]:
    return {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")
    }


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no output"])[-1]
