"""The one import rule, and that reading a module does nothing."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "competition"

# A package imports only what stands to its left, and inside a package there are no cycles.
ORDER = (
    "common", "paths", "backbones", "scoring", "metric", "config", "time_budget", "distortion",
    "demo", "data", "networks", "augmentation", "cleaning", "codabench", "training", "evaluation",
    "search", "submission", "request", "backbone_task", "fold_tasks", "status", "pipeline",
    "command_line", "api",
)  # fmt: skip
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if file.stem != "__init__"
)
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
    return {".".join(part[:2]) if ".".join(part[:2]) in MODULES else part[0] for part in parts}


def place(module: str) -> int:
    """Return where the package of a module, or the module at the top, stands in ORDER."""
    return ORDER.index(module.split(".")[0])


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


def test_the_folders_and_files_are_those_of_the_order() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_a_package_imports_only_what_stands_to_its_left(name: str) -> None:
    for other in ours(imported_anywhere(name)):
        inside = name.split(".")[0] == other.split(".")[0]
        assert inside or place(other) < place(name), f"{name} imports {other}"


def test_no_module_imports_itself_through_others() -> None:
    imports = {name: ours(imported_anywhere(name)) for name in MODULES}
    while leaves := {name for name, others in imports.items() if not others & set(imports)}:
        imports = {name: others for name, others in imports.items() if name not in leaves}
    assert not imports, f"a cycle among {sorted(imports)}"


@pytest.mark.parametrize(
    "folder", [path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
)
def test_a_package_itself_holds_one_docstring_and_imports_nothing(folder: Path) -> None:
    (statement,) = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr)


def test_importing_the_whole_package_loads_the_standard_library_alone() -> None:
    # The exceptions: people write `from competition import run`, and look for __version__.
    docstring, *imports = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert imported([*imports]) == {"competition.api.run", "competition.common.version.__version__"}
    assert reach(parse("api")) <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("networks.submission_model", {"numpy", "keras"}),
        ("codabench.ingestion", {"numpy"}),
        ("scoring", {"numpy"}),
        ("codabench.sample_model", {"numpy"}),
    ],
)
def test_what_runs_on_the_server_needs_nothing_of_ours(name: str, allowed: set[str]) -> None:
    assert packages(imported_anywhere(name)) <= allowed | set(sys.stdlib_module_names)


def test_the_driver_answers_help_without_slow_imports() -> None:
    driver = ast.parse((PACKAGE.parent / "run.py").read_text(encoding="utf-8"))
    assert not reach(driver) & SLOW


@pytest.mark.parametrize("name", MODULES)
def test_importing_a_module_does_nothing_but_define(name: str) -> None:
    for node in parse(name).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_text or not isinstance(node, ast.Expr | ast.For | ast.While | ast.With), (
            f"line {node.lineno}"
        )


@pytest.mark.parametrize("name", MODULES)
def test_a_module_opens_by_saying_what_it_is(name: str) -> None:
    first_line = (ast.get_docstring(parse(name)) or "").split("\n")[0]
    assert first_line.endswith((".", ":"))
