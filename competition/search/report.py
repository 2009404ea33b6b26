"""What a study found, to look at: Optuna's plots and a page of Markdown."""

import datetime
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from competition.common.console import describe_seconds
from competition.common.files import replacing, write_text
from competition.search.study import REASON, describe_trial, rank, read_metric

BEST_SHOWN = 10
FEWEST_FOR_IMPORTANCE = 20  # complete trials


def write_report(study: optuna.Study, folder: Path, stem: str) -> None:
    """Write <stem>_trials.csv, <stem>.md and, where a trial is complete, Optuna's plots of it."""
    with replacing(folder / f"{stem}_trials.csv") as temporary:
        study.trials_dataframe().to_csv(temporary, index=False)
    ranked, metric = rank(study), read_metric(study)
    plots = _draw_plots(study, folder, stem, len(ranked)) if ranked else []
    trials = study.get_trials(deepcopy=False)
    seconds = sum((trial.duration or datetime.timedelta()).total_seconds() for trial in trials)
    counts = [
        f"{sum(t.state == state for t in trials)} {state.name.lower()}" for state in TrialState
    ]
    reasons = sorted({t.user_attrs[REASON] for t in trials if REASON in t.user_attrs})
    lines = [
        f"# {stem.replace('_', ' ')}",
        f"{', '.join(counts)}; {describe_seconds(seconds)} in all.",
        *(f"- trial {t.number}: {describe_trial(t, metric)}" for t in ranked[:BEST_SHOWN]),
        *(f"- failed: {reason}" for reason in reasons),
        *(f"![{plot.stem}]({plot.name})" for plot in plots),
    ]
    write_text(folder / f"{stem}.md", "\n\n".join(lines) + "\n")


def _draw_plots(study: optuna.Study, folder: Path, stem: str, complete: int) -> list[Path]:
    import matplotlib
    from optuna.visualization import matplotlib as plots

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: dict[str, Any] = {"history": plots.plot_optimization_history, "slice": plots.plot_slice}
    if complete >= FEWEST_FOR_IMPORTANCE:
        drawn["importance"] = plots.plot_param_importances
        drawn["parallel"] = plots.plot_parallel_coordinate
    files = []
    for name, plot in drawn.items():
        # Optuna sets a style for all figures that come after its own.
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the module is marked as experimental
            plot(study)
        files.append(folder / f"{stem}_{name}.png")
        with replacing(files[-1]) as temporary:
            pyplot.gcf().savefig(temporary, dpi=100, bbox_inches="tight", facecolor="white")
        pyplot.close("all")
    return files
