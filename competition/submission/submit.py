"""A file handed in by the service's own command, which the user has installed and logged in."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from competition.codabench.dry_run import last_line
from competition.common.console import say
from competition.common.errors import UserError
from competition.common.files import read_json
from competition.paths import list_by_age

WAIT_SECONDS = 3600  # for the score, at most
SECRETS = ("PASSWORD", "TOKEN", "KEY")  # in names of variables whose values are never printed


@dataclass(frozen=True)
class Service:
    """A service that takes submissions, and its command for the terminal.

    program: the command. install: the command that installs it. login: the step that logs in.
    words: (competition, file, path for results) -> its arguments. read_score: (output, path for
    results) -> the score, None where there is none. refused: parts of its output that mean that
    nobody is logged in. suffix: of the files that it takes.
    """

    title: str
    program: str
    install: str
    login: str
    words: Callable[[str, Path, Path], Sequence[str]]
    read_score: Callable[[str, Path], float | None]
    refused: tuple[str, ...]
    suffix: str


def _codabench_words(competition: str, file: Path, results: Path) -> Sequence[str]:
    waiting = ("--wait", "--timeout", str(WAIT_SECONDS), "--results-json", str(results))
    return ("submit", competition, "-z", str(file), *waiting)


def _codabench_score(_: str, results: Path) -> float | None:
    """Return the primary score of results as codabench-client 0.1 writes them."""
    told: dict[str, Any] = read_json(results, {"status": str})
    if told["status"] != "Finished":
        raise UserError(
            f"Codabench ended submission {told.get('submission_id')} as {told['status']}; "
            f"codabench outputs --submission {told.get('submission_id')} fetches its logs."
        )
    score = (told.get("primary") or {}).get("score")
    metrics = list((told.get("metrics") or {}).values())
    score = metrics[0] if score is None and len(metrics) == 1 else score
    return float(score) if isinstance(score, int | float) else None


def _kaggle_words(competition: str, file: Path, _: Path) -> Sequence[str]:
    waiting = ("--wait", str(WAIT_SECONDS))
    return ("competitions", "submit", competition, "-f", str(file), "-m", file.stem, *waiting)


def _kaggle_score(output: str, _: Path) -> float | None:
    found = re.search(r"Public score: ([-+.\deE]+)", output)
    return float(found[1]) if found else None


SERVICES = {
    "codabench": Service(
        "Codabench",
        "codabench",
        "pip install codabench-client",
        "set CODABENCH_USERNAME and CODABENCH_PASSWORD in the environment",
        _codabench_words,
        _codabench_score,
        ("missing credentials", "login failed", "(401)", "(403)"),
        ".zip",
    ),
    "kaggle": Service(
        "Kaggle",
        "kaggle",
        "pip install kaggle",
        "kaggle auth login",
        _kaggle_words,
        _kaggle_score,
        ("Authentication required", "401"),
        ".csv",
    ),
}


LATEST = "latest"


@dataclass(frozen=True)
class Target:
    """The file to hand in, and its competition.

    file: its path, the run that it is of, or LATEST. service: a name in SERVICES. competition: its
    name or number there.
    """

    file: str
    service: str
    competition: str


def read_target(given: str, competition: str) -> Target:
    """Return the target of --submit.

    given: a file, a run, LATEST, or the competition. competition: that of the settings. Raises
    UserError where the competition is not named, as `codabench:4430` or `kaggle:titanic`.
    """
    if given.partition(":")[0] in SERVICES and not Path(given).exists():
        given, competition = LATEST, given
    service, _, name = competition.partition(":")
    if service not in SERVICES or not name:
        raise UserError(
            f"--submit got the competition '{competition}', and expects codabench:NUMBER or "
            "kaggle:NAME: --submit codabench:NUMBER, or --set submission.competition=kaggle:NAME."
        )
    return Target(given, service, name)


def find_file(target: Target, folder: Path) -> Path:
    """Return the file that is handed in; raises UserError where there is none.

    folder: the packaged zips and the answers as CSV, named after their runs.
    """
    suffix = SERVICES[target.service].suffix
    if target.file == LATEST:
        files = list_by_age(folder, f"*{suffix}")
    else:
        places = (Path(target.file), folder / f"{target.file}{suffix}")
        files = [path for path in places if path.is_file()][:1]
    if not files:
        wanted = "" if target.file == LATEST else f" of {target.file}"
        writer = (
            "--package writes zips" if suffix == ".zip" else "--predict PATH writes predictions"
        )
        raise UserError(f"--submit finds no {suffix}{wanted} in {folder}; {writer}.")
    return files[-1]


def find_program(target: Target) -> str:
    """Return the path of the service's command; raises UserError where it is not installed."""
    service = SERVICES[target.service]
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    path = shutil.which(service.program, path=places)
    if path is None:
        raise UserError(
            f"--submit needs the command `{service.program}`, which is not installed: "
            f"{service.install}, then {service.login}."
        )
    return path


def hand_in(file: Path, target: Target) -> float | None:
    """Hand in a file, wait, and return its public score; None where the service shows none.

    Raises UserError where the command is missing, nobody is logged in, or the file is refused.
    """
    service = SERVICES[target.service]
    program = find_program(target)
    say(f"{file} is handed in to {service.title}, {target.competition}; waiting for its score ...")
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results.json"
        words = [program, *service.words(target.competition, file, results)]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        output = _without_secrets(f"{done.stdout}\n{done.stderr}")
        if done.returncode != 0:
            if any(sign in output for sign in service.refused):
                raise UserError(
                    f"{service.title} knows no user here, or none who takes part in "
                    f"{target.competition}: {service.login}, and --submit again."
                )
            reason = last_line(_without_secrets(done.stderr), last_line(output))
            raise UserError(f"`{service.program}` failed ({done.returncode}): {reason}.")
        return service.read_score(output, results)


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if len(value) > 3 and any(part in name.upper() for part in SECRETS):
            text = text.replace(value, "***")
    return text
