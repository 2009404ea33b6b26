"""What a study found, to look at: a figure and a page of Markdown for each backbone."""

import datetime
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from competition.backbones import get_backbone
from competition.common.console import describe_seconds
from competition.common.figures import empty_figure, pick_colour, save_figure
from competition.common.files import write_text
from competition.search.rounds import FINALS, HEADS, TRIALS, SearchJob
from competition.search.study import SURPLUS, describe_value, failure_reason

_KINDS = {HEADS: ", the head", TRIALS: "", FINALS: ", the finals"}
BEST_SHOWN = 10
FEWEST_FOR_FANOVA, FEWEST_FOR_IMPORTANCE = 20, 5  # complete trials


def write_report(study: optuna.Study, job: SearchJob) -> None:
    """Write <backbone>.png and .md into the job's folder; needs at least one complete trial."""
    trials = [
        trial for trial in study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs
    ]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda trial: -trial.value)
    _draw(job.folder / f"{job.stem}.png", study, trials, ranked, job.space)
    write_text(job.folder / f"{job.stem}.md", _describe(job, trials, ranked))


# -- the figure


def _draw(
    path: Path,
    study: optuna.Study,
    trials: list[FrozenTrial],
    ranked: list[FrozenTrial],
    space: dict[str, Any],
) -> None:
    figure = empty_figure(14, 12)
    top, middle, bottom = figure.subfigures(3, 1)
    history, importance = top.subplots(1, 2)
    scores = np.array([trial.value for trial in ranked])
    lowest = (
        max(scores[-1], 2.5 * np.median(scores) - 1.5 * scores[0]) - 1e-3
    )  # one that failed squeezes no scale
    _draw_history(history, trials, lowest)
    _draw_importance(importance, study, scores)
    _draw_parallel(middle, ranked, space, lowest)
    for axes, (key, options) in zip(
        bottom.subplots(1, len(space), sharey=True, squeeze=False)[0], space.items(), strict=True
    ):
        places = [_place(trial.params[key], options) for trial in ranked]
        axes.scatter(places, scores.clip(lowest), s=14, color=pick_colour(0))
        axes.scatter(places[:1], scores[:1], s=90, color=pick_colour(3), marker="*")
        axes.set(
            xlabel=_title(key),
            xlim=(-0.05, 1.05),
            ylabel="selection score" if key == next(iter(space)) else "",
        )
        axes.set_xticks([0, 1], _ends(options))
    save_figure(figure, path)


def _draw_history(axes: Any, trials: list[FrozenTrial], lowest: float) -> None:
    ended = [trial for trial in trials if trial.value is not None]
    seconds = _seconds_of_work(ended)
    size, unit = (3600, "hours") if max(seconds.values()) > 7200 else (60, "minutes")
    for state, marker, colour in ((TrialState.COMPLETE, "o", 0), (TrialState.PRUNED, "x", 7)):
        shown = [trial for trial in ended if trial.state == state]
        times = [seconds[trial.number] / size for trial in shown]
        style = {
            "color": pick_colour(colour),
            "marker": marker,
            "s": 22,
            "label": f"{len(shown)} {state.name.lower()}",
        }
        axes.scatter(times, [max(trial.value, lowest) for trial in shown], **style)
    complete = sorted(
        (seconds[trial.number] / size, trial.value)
        for trial in ended
        if trial.state == TrialState.COMPLETE
    )
    best = np.maximum.accumulate([score for _, score in complete])
    axes.step(
        [time for time, _ in complete],
        best.clip(lowest),
        color=pick_colour(3),
        where="post",
        label="best so far",
    )
    axes.set(title="History", xlabel=f"{unit}, pauses left out", ylabel="selection score")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right")


def _seconds_of_work(trials: list[FrozenTrial]) -> dict[int, float]:
    """Return by number when each trial ended: seconds on the clock, without those in which no trial ran."""
    in_order = sorted(trials, key=lambda trial: trial.datetime_start)
    began = until = in_order[0].datetime_start
    ends = {}
    for trial in in_order:
        began += max(trial.datetime_start - until, datetime.timedelta())
        until = max(until, trial.datetime_complete)
        ends[trial.number] = (trial.datetime_complete - began).total_seconds()
    return ends


def _draw_importance(axes: Any, study: optuna.Study, scores: np.ndarray) -> None:
    fanova = (
        len(scores) >= FEWEST_FOR_FANOVA and np.ptp(scores) > 0
    )  # it fails where all scores are equal
    shares: dict[str, float] = {}
    if len(scores) >= FEWEST_FOR_IMPORTANCE:
        evaluator = FanovaImportanceEvaluator(seed=0) if fanova else PedAnovaImportanceEvaluator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    else:
        axes.text(
            0.5,
            0.5,
            f"takes {FEWEST_FOR_IMPORTANCE} complete trials",
            ha="center",
            transform=axes.transAxes,
        )
        axes.set_yticks([])
    names, values = [_title(key) for key in reversed(shares)], list(reversed(shares.values()))
    axes.barh(names, values, color=pick_colour(0))
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.0%}", va="center")
    axes.set(
        title="Importance of the settings",
        xlim=(0, 1.05),
        xlabel="fANOVA" if fanova else "PED-ANOVA",
    )


def _draw_parallel(
    figure: Any, ranked: list[FrozenTrial], space: dict[str, Any], lowest: float
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes, colours = figure.subplots(), ScalarMappable(Normalize(lowest, ranked[0].value), "viridis")
    for trial in reversed(ranked):
        heights = [_place(trial.params[key], options) for key, options in space.items()]
        axes.plot(heights, color=colours.to_rgba(np.maximum(trial.value, lowest)), alpha=0.6)
    axes.plot(heights, color=pick_colour(3), linewidth=2.5, label="best")
    for place, options in enumerate(space.values()):
        axes.axvline(place, color="black", linewidth=0.8)
        for height, end, side in zip((-0.03, 1.03), _ends(options), ("top", "bottom"), strict=True):
            axes.text(place, height, end, ha="center", va=side)
    axes.set(
        title="Settings of the complete trials",
        ylim=(-0.12, 1.12),
        yticks=[],
        xlim=(-0.3, len(space) - 0.7),
    )
    axes.set_xticks(range(len(space)), [_title(key) for key in space])
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.03))
    figure.colorbar(colours, ax=axes, label="selection score", extend="min")


def _place(value: Any, options: tuple[Any, ...]) -> float:
    """Return where a value lies within its range or among its choices, 0 to 1."""
    if not isinstance(options[-1], bool):
        return options.index(value) / max(1, len(options) - 1)
    low, high, value = (np.log(item) if options[2] else item for item in (*options[:2], value))
    return float((value - low) / (high - low))


def _ends(options: tuple[Any, ...]) -> list[str]:
    return [
        f"{end:g}"
        for end in (options[0], options[1] if isinstance(options[-1], bool) else options[-1])
    ]


def _title(key: str) -> str:
    return key.split(".")[1].replace("fine_tuning_", "fine-tuning\n").replace("_", " ")


# -- the page


def _describe(job: SearchJob, trials: list[FrozenTrial], ranked: list[FrozenTrial]) -> str:
    best, seconds = ranked[0], [_seconds(trial) for trial in ranked]
    reasons = Counter(reason for trial in trials if (reason := failure_reason(trial)))
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    outcomes = {
        "complete": len(ranked),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
    }
    outcomes |= {f"failed: {reason}": count for reason, count in reasons.most_common()}
    outcomes["interrupted, and tried again"] = failed - reasons.total()
    rows = [
        [
            trial.number,
            f"{trial.value:.4f}",
            describe_seconds(_seconds(trial)),
            *map(describe_value, trial.params.values()),
        ]
        for trial in ranked[:BEST_SHOWN]
    ]
    total, median = (
        describe_seconds(sum(map(_seconds, trials))),
        describe_seconds(float(np.median(seconds))),
    )
    select_by = job.config.training.select_by
    return f"""# Search of {get_backbone(job.backbone).title}{_KINDS[job.part]}

Best of {len(ranked)} complete trials: number {best.number}, selection score {best.value:.4f} ({select_by}).
All trials together took {total}, a complete one {median} in the median.

![History, importance, parallel coordinates, score by setting]({job.stem}.png)

{_table(["trial", "score", "time", *(key.split(".")[1] for key in best.params)], rows)}

{_table(["outcome", "trials"], [[outcome, count] for outcome, count in outcomes.items()])}
"""


def _seconds(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else 0.0


def _table(header: list[str], rows: list[list[Any]]) -> str:
    return "\n".join(
        f"| {' | '.join(map(str, row))} |" for row in [header, ["---"] * len(header), *rows]
    )
