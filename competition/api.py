"""The harness in Python: `from competition import run` does the same as the command line."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded where they are used, so that importing the package stays cheap
    import numpy as np
    import pandas as pd

    from competition.networks.submission_model import Model
    from competition.paths import Paths


def run(
    data: "str | Path | None" = None,
    *,
    search: bool = False,
    time_budget: str | None = None,
    **options: Any,
) -> "Result":
    """Do the same as `python run.py` with these options, and return the results.

    data: an .npz, a folder of class folders, a CSV of labels, or nothing for the demo.
    search: do everything, from cleaning to the leaderboard. time_budget: as '30m'.
    options: any other option of the command line by its name with underscores, as
    `backbone=["mobilenetv3small"]`, `workdir="drive"` or `set={"training.batch_size": 16}`.
    Raises UserError for what the command line refuses. A network that is no better than chance, and
    a check that could not be made, are warnings. A script calls this below
    `if __name__ == "__main__":`, since backbones train in processes of their own.
    """
    from competition.command_line import ACTIONS, build_parser
    from competition.common.console import quiet_import
    from competition.common.errors import NotCheckedError, UserError, WorthlessError
    from competition.request import read_request

    given = {"data": data, "search": search, "time_budget": time_budget, **options}
    if not any(given.get(name) for name in ACTIONS):
        raise UserError(
            "run() names nothing to do; add search=True, or another of " + ", ".join(ACTIONS) + "."
        )
    request = read_request(_parse(build_parser(), given))
    with quiet_import():
        from competition.pipeline import run as run_stages
    try:
        run_stages(request)
    except (WorthlessError, NotCheckedError) as error:
        warnings.warn(str(error), stacklevel=2)
    return Result(request.paths)


class Report(type(Path())):  # type: ignore[misc]  # the class of this system's paths
    """The path of a page, which a notebook shows."""

    def _repr_html_(self) -> str:
        page = escape(self.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="700"></iframe>'


@dataclass(frozen=True)
class Result:
    """The results of one data set; `paths` names its folders."""

    paths: "Paths"

    @property
    def leaderboard(self) -> "pd.DataFrame":
        """A row per run, best first of those that compare; empty where no run is scored."""
        import pandas as pd

        from competition.paths import LEADERBOARD

        file = self.paths.experiments / LEADERBOARD
        return pd.read_csv(file) if file.is_file() else pd.DataFrame()

    @property
    def report(self) -> Report:
        """The report of the runs, or that of cleaning where there is none."""
        from competition.paths import REPORT

        of_runs = self.paths.experiments / REPORT
        return Report(of_runs if of_runs.is_file() else self.paths.data / REPORT)

    @property
    def submission(self) -> Path | None:
        """The zip that was packaged last, or None."""
        return next(reversed(self.paths.packaged), None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the labels."""
        return tuple(self._model.config["class_names"])

    def predict(self, images: "np.ndarray") -> "np.ndarray":
        """Return the labels (n,) int64 of images (n, h, w, 3) uint8, by the submission."""
        return self._model.predict(images)

    def predict_proba(self, images: "np.ndarray") -> "np.ndarray":
        """Return the probabilities (n, classes) of images, by the submission."""
        return self._model.predict_proba(images)

    @cached_property
    def _model(self) -> "Model":
        from competition.common.errors import UserError
        from competition.networks.submission_model import Model

        if self.submission is None:
            raise UserError(f"{self.paths.submissions} has no submission yet; add package=True.")
        return Model(self.submission.with_suffix(""))

    def _repr_html_(self) -> str:
        return (
            f"{self.leaderboard.to_html()}<p>report: {self.report}, submission: {self.submission}"
        )


def _parse(parser: Any, given: Mapping[str, Any]) -> Any:
    """Return the parsed command line of options by name."""
    import argparse

    from competition.common.errors import UserError, unknown

    actions = {
        action.dest: action for action in parser._actions if action.dest not in ("help", "version")
    }
    words = []
    for name, value in given.items():
        if name not in actions:
            raise UserError(unknown("option", name, actions))
        flag = actions[name].option_strings[-1]
        if value is None or value is False:
            continue
        if isinstance(value, Mapping):
            value = [f"{key}={item}" for key, item in value.items()]
        values = list(value) if isinstance(value, list | tuple) else [value]
        if actions[name].nargs == 0 or value is True:
            words.append(flag)
        elif actions[name].nargs is not None:
            words += [flag, *map(str, values)]
        else:
            words += [f"{flag}={item}" for item in values]
    parser.exit_on_error = False
    try:
        return parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}.") from error
