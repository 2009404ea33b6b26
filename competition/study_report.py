"""What a study found, to look at: a figure and a page of Markdown for each backbone."""

import datetime
import statistics
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from competition.backbones import get_backbone
from competition.console import describe_seconds
from competition.figures import pick_colour, save_figure, start_figure
from competition.files import write_text
from competition.study import SURPLUS, SearchJob, failure_reason

BEST_SHOWN = 10
ENOUGH_FOR_FANOVA, ENOUGH_FOR_IMPORTANCE = 20, 5  # complete trials


def write_report(study: optuna.Study, job: SearchJob) -> None:
    """Write <backbone>.png and .md into the job's folder; needs at least one complete trial."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda trial: -trial.value)
    clock = _Clock(trials)
    scales = {key: _Scale(job.space[key]) for key in job.space if all(key in trial.params for trial in complete)}
    picture, page = (job.folder / f"{job.stem}.{suffix}" for suffix in ("png", "md"))
    _draw(picture, study, trials, ranked, scales, clock)
    write_text(page, _describe(job, trials, ranked, clock, picture.name))


class _Clock:
    """Seconds of work since the study began: wall-clock time without those in which no trial ran."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self.spans: list[list[datetime.datetime]] = []
        for begin, end in sorted((trial.datetime_start, _end(trial)) for trial in trials if trial.datetime_start):
            if self.spans and begin <= self.spans[-1][1]:
                self.spans[-1][1] = max(end, self.spans[-1][1])
            else:
                self.spans.append([begin, end])

    def seconds(self, moment: datetime.datetime | None = None) -> float:
        """Return the seconds until `moment` (None: in all)."""
        ends = [(begin, min(end, moment or end)) for begin, end in self.spans if moment is None or begin < moment]
        return sum((end - begin).total_seconds() for begin, end in ends)


def _end(trial: FrozenTrial) -> datetime.datetime:
    """Return when a trial ended; one that was interrupted is taken for as long as it is known to have run."""
    assert trial.datetime_start is not None
    counts = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "reason" in trial.user_attrs
    return trial.datetime_complete if counts and trial.datetime_complete else trial.datetime_start


class _Scale:
    """Where a value of a parameter lies within its range, 0 to 1."""

    def __init__(self, options: tuple[Any, ...]) -> None:
        self.is_range = isinstance(options[-1], bool)
        self.logarithmic = self.is_range and options[2]
        self.options = options
        self.ends = options[:2] if self.is_range else (options[0], options[-1])

    def __call__(self, value: Any) -> float:
        if not self.is_range:
            return self.options.index(value) / max(1, len(self.options) - 1)
        low, high, value = (np.log(item) if self.logarithmic else item for item in (*self.ends, value))
        return float((value - low) / (high - low))


def _draw(
    path: Path,
    study: optuna.Study,
    trials: list[FrozenTrial],
    ranked: list[FrozenTrial],
    scales: dict[str, _Scale],
    clock: _Clock,
) -> None:
    letters = "EFGHIJKLMNOP"[: len(scales)]
    unit = len(letters)
    figure, panels = start_figure(
        14, 12, "\n".join(["A" * unit + "B" * unit, "C" * 2 * unit, "".join(2 * letter for letter in letters)])
    )
    figure.suptitle(study.study_name)
    _draw_history(panels["A"], trials, ranked, clock)
    _draw_importance(panels["B"], study, ranked)
    _draw_parallel(figure, panels["C"], ranked, scales)
    for letter, (key, scale) in zip(letters, scales.items(), strict=True):
        _draw_slice(panels[letter], ranked, key, scale, first=letter == "E")
    save_figure(figure, path)


def _draw_history(axes: Any, trials: list[FrozenTrial], ranked: list[FrozenTrial], clock: _Clock) -> None:
    unit, name = (
        (3600, "hours") if clock.seconds() > 7200 else (60, "minutes") if clock.seconds() > 120 else (1, "seconds")
    )
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED and trial.value is not None]
    for kind, marker, colour, shown in (("complete", "o", 0, ranked), ("given up", "x", 7, pruned)):
        times = [clock.seconds(trial.datetime_complete) / unit for trial in shown]
        label = f"{kind} ({len(shown)})"
        axes.scatter(
            times, [trial.value for trial in shown], s=22, marker=marker, color=pick_colour(colour), label=label
        )
    in_time = sorted(ranked, key=lambda trial: trial.datetime_complete)
    times = [clock.seconds(trial.datetime_complete) / unit for trial in in_time]
    best = np.maximum.accumulate([trial.value for trial in in_time])
    axes.step(
        [*times, clock.seconds() / unit], [*best, best[-1]], where="post", color=pick_colour(3), label="best so far"
    )
    axes.set(title="History", xlabel=f"{name} of work, pauses left out", ylabel="selection score")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right")


def _draw_importance(axes: Any, study: optuna.Study, ranked: list[FrozenTrial]) -> None:
    axes.set_title("Importance of the settings")
    if len(ranked) < ENOUGH_FOR_IMPORTANCE:
        axes.text(
            0.5, 0.5, f"{ENOUGH_FOR_IMPORTANCE} complete trials are needed", ha="center", transform=axes.transAxes
        )
        axes.set(xticks=[], yticks=[])
        return
    method, evaluator = _pick_evaluator(len(ranked))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # all scores are equal
        shares = {}
    names, values = list(reversed(shares)), list(reversed(shares.values()))
    axes.barh([name.split(".")[1] for name in names], values, color=pick_colour(0))
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.0%}", va="center")
    axes.set(xlim=(0, 1), xlabel=f"share of the variance of the score, {method}")


def _pick_evaluator(count: int) -> tuple[str, Any]:
    if count >= ENOUGH_FOR_FANOVA:
        return "fANOVA", FanovaImportanceEvaluator(seed=0)
    return "PED-ANOVA (few trials)", PedAnovaImportanceEvaluator()


def _draw_parallel(figure: Any, axes: Any, ranked: list[FrozenTrial], scales: dict[str, _Scale]) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [trial.value for trial in ranked]
    norm = Normalize(float(np.quantile(values, 0.1)), max(values))  # the worst would leave no colour for the rest
    for trial in reversed(ranked):
        best = trial is ranked[0]
        heights = [scale(trial.params[key]) for key, scale in scales.items()]
        style = (
            {"color": pick_colour(3), "linewidth": 2.5} if best else {"color": colormaps["viridis"](norm(trial.value))}
        )
        axes.plot(range(len(scales)), heights, alpha=1.0 if best else 0.6, **style, label="best" if best else None)
    for place, scale in enumerate(scales.values()):
        axes.axvline(place, color="black", linewidth=0.8)
        for height, end, where in ((-0.03, scale.ends[0], "top"), (1.03, scale.ends[1], "bottom")):
            axes.text(place, height, f"{end:g}", ha="center", va=where)
    axes.set(title="Settings of the complete trials\n", ylim=(-0.12, 1.12), yticks=[], xlim=(-0.3, len(scales) - 0.7))
    axes.set_xticks(range(len(scales)), [key.split(".")[1] for key in scales])
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label="selection score", extend="min")


def _draw_slice(axes: Any, ranked: list[FrozenTrial], key: str, scale: _Scale, first: bool) -> None:
    values = [trial.params[key] for trial in ranked]
    places = values if scale.is_range else [scale(value) for value in values]
    axes.scatter(places, [trial.value for trial in ranked], s=14, color=pick_colour(0))
    axes.scatter(places[:1], [ranked[0].value], s=60, color=pick_colour(3), marker="*")
    axes.set(xlabel=key.split(".")[1], ylabel="selection score" if first else "")
    if scale.logarithmic:
        axes.set_xscale("log")
    if scale.is_range:
        axes.set_xlim(*scale.ends)
    else:
        axes.set_xticks([scale(option) for option in scale.options], scale.options, rotation=45)
    if not first:
        axes.set_yticklabels([])


def _describe(job: SearchJob, trials: list[FrozenTrial], ranked: list[FrozenTrial], clock: _Clock, picture: str) -> str:
    best, keys = ranked[0], list(job.space)
    counts = Counter(trial.state for trial in trials)
    reasons = Counter(reason for trial in trials if (reason := failure_reason(trial)))
    interrupted = counts[TrialState.FAIL] - sum(reasons.values())
    took = statistics.median(_duration(trial) for trial in ranked)
    lines = [
        f"# Search of {get_backbone(job.backbone).title}{', the head' if job.head_only else ''}",
        f"The best of {len(ranked)} complete trials is number {best.number}: selection score {best.value:.4f} "
        f"({job.config.training.select_by}).",
        f"![History, importance, parallel coordinates and score by each setting]({picture})",
        "## Best trials",
        _table(
            ["trial", "score", "time", *(key.split(".")[1] for key in keys)],
            [
                [str(trial.number), f"{trial.value:.4f}", describe_seconds(_duration(trial)), *_texts(trial, keys)]
                for trial in ranked[:BEST_SHOWN]
            ],
        ),
        "## Trials",
        _table(
            ["outcome", "trials"],
            [
                ["complete", str(len(ranked))],
                ["given up as hopeless", str(counts[TrialState.PRUNED])],
                *([f"failed: {reason}", str(count)] for reason, count in reasons.most_common()),
                ["interrupted, and tried again", str(interrupted)],
            ],
        ),
        f"Time used: {describe_seconds(clock.seconds())}, pauses left out; a complete trial took "
        f"{describe_seconds(took)} in the median.",
    ]
    return "\n\n".join(lines) + "\n"


def _duration(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration else 0.0


def _texts(trial: FrozenTrial, keys: list[str]) -> list[str]:
    values = [trial.params.get(key, "") for key in keys]
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
