"""The levels of the package: a module imports only from lower ones, and reading it does nothing."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "competition"

# A module may import modules of lower levels; those of level 0, small and of no stage, also each other.
LEVELS = {
    "files": 0,
    "console": 0,
    "backbones": 0,
    "config": 0,
    "paths": 0,
    "metrics": 0,
    "submission_model": 0,
    "codabench.ingestion": 0,
    "codabench.scoring": 0,
    "codabench.sample_model": 0,
    "image_operations": 0,
    "rand_augment": 0,
    "corruptions": 0,
    "augmentation": 1,
    "devices": 1,
    "distortion": 1,
    "download": 1,
    "figures": 1,
    "issues": 1,
    "leaderboard": 2,
    "picture_folder": 1,
    "processes": 1,
    "archives": 1,
    "server_versions": 1,
    "smear": 1,
    "weights": 1,
    "workers": 1,
    "batches": 2,
    "callbacks": 2,
    "data": 2,
    "demo": 2,
    "embedding": 2,
    "model": 2,
    "overrides": 3,
    "copies": 3,
    "faults": 3,
    "noncells": 3,
    "oddities": 4,
    "prediction": 3,
    "report": 3,
    "splits": 3,
    "training": 3,
    "codabench.dry_run": 3,
    "descriptors": 3,
    "doubtful": 3,
    "cleaning": 5,
    "job": 4,
    "costs": 4,
    "planning": 5,
    "prepared": 4,
    "features": 4,
    "trial": 5,
    "search": 6,
    "search_job": 3,
    "storage": 1,
    "study": 4,
    "study_report": 5,
    "submission": 4,
    "budget": 4,
    "codabench.grade": 4,
    "codabench.bundle": 5,
    "experiment": 5,
    "codabench.actions": 6,
    "ensemble": 6,
    "campaign": 7,
    "packaging": 7,
    "pipeline": 8,
}
KERAS_BELOW_LEVEL_2 = {"submission_model", "augmentation", "devices", "image_operations", "rand_augment"}
SLOW = {"keras", "tensorflow", "jax", "torch", "optuna", "pandas", "matplotlib", "sklearn", "scipy"}


def parse(name: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))


def imported(nodes: list[ast.AST]) -> set[str]:
    """Return the dotted names that the import statements among `nodes` name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_anywhere(name: str) -> set[str]:
    return imported(list(ast.walk(parse(name))))


def imported_when_read(tree: ast.Module) -> set[str]:
    return imported([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)])


def ours(names: set[str]) -> set[str]:
    """Return the modules of the package among dotted names."""
    parts = [dotted.split(".")[1:] for dotted in names if dotted.startswith("competition.")]
    return {".".join(part[:2]) if ".".join(part[:2]) in LEVELS else part[0] for part in parts}


def packages(names: set[str]) -> set[str]:
    return {dotted.split(".")[0] for dotted in names}


def reach(tree: ast.Module) -> set[str]:
    """Return the packages that reading a module loads, through modules of ours too."""
    names, done, waiting = imported_when_read(tree), set[str](), ours(imported_when_read(tree))
    while waiting:
        done.add(module := waiting.pop())
        further = imported_when_read(parse(module))
        names |= further
        waiting |= ours(further) - done
    return packages(names)


def test_every_module_has_a_level_and_every_level_a_module() -> None:
    files = [file.relative_to(PACKAGE).with_suffix("") for file in PACKAGE.rglob("*.py") if file.stem != "__init__"]
    assert {".".join(file.parts) for file in files} == set(LEVELS)


@pytest.mark.parametrize("name", LEVELS)
def test_imports_point_down_the_levels(name: str) -> None:
    for other in ours(imported_anywhere(name)):
        both_at_the_bottom = LEVELS[name] == LEVELS[other] == 0
        assert LEVELS[other] < LEVELS[name] or both_at_the_bottom, f"{name} imports {other}"


def test_no_module_imports_itself_through_others() -> None:
    imports = {name: ours(imported_anywhere(name)) for name in LEVELS}
    while leaves := {name for name, others in imports.items() if not others & set(imports)}:
        imports = {name: others for name, others in imports.items() if name not in leaves}
    assert not imports, f"a cycle among {sorted(imports)}"


@pytest.mark.parametrize("name", ["__init__", "codabench.__init__"])
def test_the_package_itself_imports_nothing(name: str) -> None:
    assert not imported_anywhere(name)


@pytest.mark.parametrize("name", [name for name, level in LEVELS.items() if level < 2])
def test_low_modules_load_no_keras_when_imported(name: str) -> None:
    assert ("keras" in reach(parse(name))) == (name in KERAS_BELOW_LEVEL_2)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("submission_model", {"numpy", "keras"}),
        ("codabench.ingestion", {"numpy"}),
        ("codabench.scoring", {"numpy"}),
        ("codabench.sample_model", {"numpy"}),
    ],
)
def test_what_runs_on_the_server_needs_nothing_of_ours(name: str, allowed: set[str]) -> None:
    assert packages(imported_anywhere(name)) <= allowed | set(sys.stdlib_module_names)


def test_the_driver_answers_help_without_slow_imports() -> None:
    driver = ast.parse((PACKAGE.parent / "run.py").read_text(encoding="utf-8"))
    assert not reach(driver) & SLOW


@pytest.mark.parametrize("name", LEVELS)
def test_importing_a_module_does_nothing_but_define(name: str) -> None:
    for node in parse(name).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_text or not isinstance(node, ast.Expr | ast.For | ast.While | ast.With), f"line {node.lineno}"


@pytest.mark.parametrize("name", LEVELS)
def test_a_module_opens_by_saying_what_it_is(name: str) -> None:
    first_line = (ast.get_docstring(parse(name)) or "").split("\n")[0]
    assert first_line.endswith((".", ":"))
