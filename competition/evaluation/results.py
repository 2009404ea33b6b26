"""The runs of one data set: finding them, choosing the one to package, and its worth."""

from pathlib import Path

from competition.common.errors import UserError
from competition.common.files import if_intact, read_json, write_json
from competition.data.arrays import Dataset, PreparedData
from competition.evaluation.ensemble import PREFIX
from competition.evaluation.leaderboard import read_rows
from competition.evaluation.metrics import read_metrics
from competition.metric import get_metric
from competition.paths import DATA_MARKER
from competition.training.runs import is_trained, list_runs, read_config

FORMAT = 2  # of runs and studies: raise it where an older one cannot be read on


def claim_folder(experiments: Path, dataset: Dataset, source: Path, force: bool) -> None:
    """Note that `experiments` holds results of `dataset`.

    Raises UserError where it holds those of other data or of an earlier version of this program,
    unless `force`.
    """
    marker = experiments / DATA_MARKER
    now = {"data": dataset.fingerprint, "format": FORMAT}
    cure = (
        f"it says which data set these results are of: delete it if they are of {source}, "
        "or give this one folders of its own with --name, or use --force."
    )
    shape = {"data": str, "format": int}
    known = now
    if marker.is_file():
        arguments = marker, shape, cure, ["data"]
        stored = if_intact(read_json, *arguments) if force else read_json(*arguments)
        known = {"format": 1} | (stored or now)
    if known["data"] != now["data"] and not force:
        raise UserError(
            f"{experiments} holds studies and runs of another data set than {source} "
            f"({known['data']}, now {now['data']}); give this one folders of its own with --name, "
            "or use --force."
        )
    if known["format"] != FORMAT:
        raise UserError(
            f"{experiments} holds studies and runs of an earlier version of this program, which "
            "do not compare with today's; keep them and give new ones a folder of their own with "
            "--name, or delete that folder."
        )
    write_json(marker, now)


def runs_of(runs: Path, data: PreparedData, backbone: str | None = None) -> list[Path]:
    """Return the trained runs on these splits, of one backbone or of all."""
    found = [path for path in list_runs(runs, backbone) if is_trained(path)]
    return [run for run in found if read_config(run, "splits")["splits"] == data.fingerprint]


def choose_run(
    runs: Path, data: PreparedData, select_by: str, final: str, metric: str = "accuracy"
) -> Path:
    """Return the run of the backbone `final` (`best`: of any) with the best selection score.

    Raises UserError where there is none.
    """
    table = read_rows(runs)
    table = table[(table["splits"] == data.fingerprint) & ~table["run"].str.startswith(PREFIX)]
    if table.size and metric not in set(table["metric"]):
        others = ", ".join(sorted(set(table["metric"])))
        raise UserError(
            f"No run on these data was trained by the metric {metric}; "
            f"add --metric with one of {others}, or --train."
        )
    table = table[table["metric"] == metric]
    if table.size and select_by not in set(table["select by"]):
        others = ", ".join(sorted(set(table["select by"])))
        raise UserError(
            f"No run on these data was selected by {select_by}; "
            f"add --select-by with one of {others}."
        )
    table = table[table["select by"] == select_by]
    if final != "best":
        table = table[[name.rpartition("_")[0] == final for name in table["run"]]]
    if table.empty:
        which, option = ("", "NAME") if final == "best" else (f" of '{final}'", final)
        raise UserError(
            f"No trained run{which} on these data; train one: --train --backbone {option}."
        )
    return Path(runs / table.iloc[0]["run"])


def describe_worth(run: Path) -> str:
    """Return a warning where a run is no better than naming one class always, else nothing."""
    metrics = read_metrics(run, "selection_score")
    if metrics.get("beats_chance", True):
        return ""
    metric = get_metric(metrics.get("metric", "accuracy"))
    score = metric.flip(metrics["selection_score"])
    return (
        f"{run.name} IS WORTH NOTHING: ITS SELECTION SCORE OF {score:.4f} IS "
        "NO BETTER THAN NAMING THE COMMONEST CLASS ALWAYS. Give it more time (--time-budget) or "
        "pretrained weights (--weights), or look into its history.csv."
    )
