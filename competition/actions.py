"""What the command line asks of the server at home: a dry run, the grading of a folder, the bundle."""

from pathlib import Path

import numpy as np

from competition.codabench.bundle import write_bundle
from competition.codabench.dry_run import Reference, dry_run
from competition.codabench.grade import grade
from competition.common.console import headline, say
from competition.common.files import digest, read_json, write_json, write_text
from competition.data.arrays import PreparedData
from competition.distortion.profiles import PROFILE
from competition.job import Job


def serve(job: Job, prepared: PreparedData) -> None:
    """Do what was asked for, on the distorted pictures of validation, or with --on-test of the test split."""
    options, limits = job.options, job.config.limits
    if options.bundle:
        headline("Bundle")
        path = write_bundle(
            job.paths.submissions / "bundle" / "competition.zip", prepared, job.config
        )
        say(
            f"{path}: {path.stat().st_size / 2**20:.1f} MB; upload it on Codabench: Benchmarks > Management > Upload"
        )
    if options.dry_run:
        headline(f"Dry run of {options.dry_run.name}")
        images, reference = _pictures(job, prepared, options.dry_run)
        result = dry_run(options.dry_run, images, reference, limits)
        page = job.paths.submissions / f"{options.dry_run.stem}.detailed_results.html"
        write_text(page, result.page)
        say(f"{result.output.strip()}\n")
        say("\n".join(f"  {name:12} {value:.4f}" for name, value in result.scores.items()))
        say(f"  {result.peak_megabytes:.0f} MB of memory at the peak; details: {page}")
    if options.grade:
        headline(f"Grades of {options.grade}")
        images, reference = _pictures(job, prepared, options.grade)
        results = job.paths.experiments / "grades"
        table = grade(options.grade, images, reference, limits, results, options.force)
        say(
            f"\n{table.to_string(index=False, na_rep='-', float_format='{:.4f}'.format)}\n\n{results / 'grades.csv'}"
        )


def _pictures(job: Job, prepared: PreparedData, asked: Path) -> tuple[np.ndarray, Reference]:
    """Return distorted pictures and what they are compared with; a look at the test split is counted."""
    scored = prepared.test if job.options.on_test else prepared.validation
    images = scored.versions[PROFILE]
    say(f"{len(images)} distorted pictures of the {scored.name} split")
    if job.options.on_test:
        count_look(job.paths.experiments / "test_looks.json", asked)
    shown = images if job.config.codabench.phase_over else None
    return images, Reference(scored.labels, prepared.class_names, shown)


def count_look(path: Path, asked: Path) -> None:
    """Count, and say, how often the test split was looked at with the same zip or folder."""
    looks = read_json(path) if path.is_file() else {}
    key = f"{asked.name} {digest(asked)}" if asked.is_file() else asked.name
    looks[key] = looks.get(key, 0) + 1
    write_json(path, looks)
    say(
        f"look number {looks[key]} at the test with {asked.name}; each one makes its score a little less believable"
    )
