"""The gap of a run between clean and distorted images, by kind of distortion and by class."""

import numpy as np

from competition.common.errors import UserError
from competition.common.files import write_text
from competition.data.arrays import ScoredSet, find_prepared
from competition.distortion.profiles import PROFILE, PROFILES, TABLES
from competition.evaluation.compare import ScoredRun, read_run, tabulate
from competition.paths import COMPARISONS, PREPARED, Paths

# Kind of distortion -> the setting that practises it. Those of `unseen` have none, on purpose.
PRACTICE = {
    "noise": "augmentation.noise (more noise)",
    "defocus_blur": "augmentation.blur (a larger sigma)",
    "motion_blur": "augmentation.blur (a larger sigma)",
    "pixelate": "augmentation.resize (loss of resolution)",
    "jpeg_compression": "augmentation.resize (loss of resolution)",
    "bubble": "augmentation.cutout and augmentation.grid_mask (hidden parts)",
    "stain_deposit": "augmentation.cutout and augmentation.grid_mask (hidden parts)",
    "brightness_up": "augmentation.magnitude (stronger RandAugment)",
    "brightness_down": "augmentation.magnitude (stronger RandAugment)",
    "contrast_up": "augmentation.magnitude (stronger RandAugment)",
    "contrast_down": "augmentation.magnitude (stronger RandAugment)",
    "saturate": "augmentation.hue and augmentation.channel_shift (other colours)",
    PROFILE: "augmentation.magnitude, augmentation.num_operations and augmentation.black_shift",
}
ANYTHING = "augmentation.rate and augmentation.occasional_rate (more of all distortions)"


def explain_gap(paths: Paths, name: str) -> str:
    """Return a text on the gap of a run; write it beside the results.

    Raises UserError where there is no such run, or the data were prepared anew since its scoring.
    """
    run = read_run(paths, name)
    scored = _find_scored_set(paths, run)
    right = {
        version: run.predictions[version][0].argmax(axis=1) == scored.labels
        for version in scored.versions
        if version in run.predictions
    }
    missing = [version for version in ("clean", PROFILE) if version not in right]
    if missing:
        raise UserError(f"{name} was not scored on {' and '.join(missing)}; --evaluate does that.")
    families = _cost_of_families(right, scored)
    classes = _cost_of_classes(run, right, scored.labels)
    text = _describe(run, right, families, classes)
    page = paths.experiments / COMPARISONS / f"{name}_gap.md"
    write_text(page, f"```\n{text}\n```\n")
    return f"{text}\n\npage         {page}"


def _find_scored_set(paths: Paths, run: ScoredRun) -> ScoredSet:
    """Return the test images that a run was scored on."""
    data = find_prepared(paths.data / PREPARED)
    known = run.config["splits"], run.metrics["distortion"]
    if data is not None and known == (data.fingerprint, data.distortion_hash):
        return data.test
    raise UserError(
        f"{run.name} was scored on other images than {paths.data / PREPARED} holds; "
        "--evaluate with the settings of that run prepares them again."
    )


Family = tuple[str, int, float, float, float]
"""Kind of distortion, images, accuracy on them when clean and when distorted, points lost."""


def _cost_of_families(right: dict[str, np.ndarray], scored: ScoredSet) -> list[Family]:
    """Return the kinds of distortion, the dearest first."""
    rows = []
    for profile in (name for name in PROFILES if name in right):
        met = scored.families.get(profile, np.full(len(scored.labels), profile))
        for family in TABLES.get(profile, [profile]):
            if (mask := met == family).any():
                clean, now = right["clean"][mask].mean(), right[profile][mask].mean()
                rows.append((family, int(mask.sum()), clean, now, 100 * float(clean - now)))
    return sorted(rows, key=lambda row: -row[4])


def _cost_of_classes(
    run: ScoredRun, right: dict[str, np.ndarray], labels: np.ndarray
) -> list[tuple[str, int, float, float, float, str]]:
    """Return the classes, the dearest first.

    Each has its name, its number of images, its recall when clean and under PROFILE, and the points
    that it adds to the gap. Last is the class that its lost images are most often taken for.
    """
    names = run.config["class_names"]
    predictions = run.predictions[PROFILE][0].argmax(axis=1)
    rows = []
    for label in np.unique(labels):
        of_class = labels == label
        lost = of_class & right["clean"] & ~right[PROFILE]
        clean, now = right["clean"][of_class], right[PROFILE][of_class]
        points = 100 * (int(clean.sum()) - int(now.sum())) / len(labels)
        taken = names[np.bincount(predictions[lost]).argmax()] if lost.any() else "-"
        rows.append((names[label], len(clean), clean.mean(), now.mean(), points, taken))
    return sorted(rows, key=lambda row: -row[4])


def _describe(
    run: ScoredRun,
    right: dict[str, np.ndarray],
    families: list[Family],
    classes: list[tuple[str, int, float, float, float, str]],
) -> str:
    def format_row(row: tuple[str, int, float, float, float]) -> list[str]:
        name, images, clean, now, lost = row
        shares = [f"{100 * clean:.1f}", f"{100 * now:.1f}", f"{lost:+.1f}"]
        return [name.replace("_", " "), str(images), *shares]

    clean, now = 100 * right["clean"].mean(), 100 * right[PROFILE].mean()
    family_rows = [format_row(row) for row in families]
    class_rows = [[*format_row(row[:5]), row[5]] for row in classes]
    return "\n".join(
        [
            f"== {run.name}: {clean:.1f} % on clean, {now:.1f} % on {PROFILE} test images, "
            f"a gap of {clean - now:.1f} points (one view)",
            "",
            "Kinds of distortion, the dearest first; lost: points on the images that meet it:",
            tabulate(family_rows, ["", "images", "clean", "distorted", "lost"]),
            "",
            f"Classes under {PROFILE}; lost: the points that each adds to the gap:",
            tabulate(class_rows, ["", "images", "clean", "distorted", "lost", "taken for"]),
            "",
            *_advise(run, families, classes),
        ]
    )


def _advise(
    run: ScoredRun,
    families: list[Family],
    classes: list[tuple[str, int, float, float, float, str]],
) -> list[str]:
    """Return settings to try, one sentence per line."""
    lost_to = {family: lost for family, _, _, _, lost in families if lost > 1}
    dearest = [PROFILE, *(family for family in lost_to if family != PROFILE)][:4]
    causes: dict[str, list[str]] = {}
    for family in (family for family in dearest if family in lost_to):
        cause = f"{family.replace('_', ' ')} costs {lost_to[family]:.1f} points"
        causes.setdefault(PRACTICE.get(family, ANYTHING), []).append(cause)
    lines = ["What to try, one change per run, then --compare:"]
    if run.config.get("settings", {}).get("augmentation.num_operations") == 0:
        lines.append("- it trained without RandAugment: --set augmentation=strong comes first.")
    lines += [f"- {', '.join(known)}: raise {setting}." for setting, known in causes.items()]
    name, _, _, _, points, taken = classes[0]
    if points > 0 and taken != "-":
        lines.append(
            f"- {name} adds {points:.1f} points, most often taken for {taken}: look at both in the "
            "report's mistakes; --set training.class_weights=true where the class is rare."
        )
    if len(lines) == 1:
        return [
            "Distortion costs this run next to nothing; only its clean accuracy can still rise."
        ]
    return lines
