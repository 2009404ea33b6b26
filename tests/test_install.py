"""The installed package: all its files, its command, and dependencies that allow what is pinned."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import competition

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed a copy of the project, without its dependencies."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "competition", source / "competition", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    target = folder / "site"
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(source)],
        check=True,
        timeout=120,
    )
    return target


def test_every_file_of_the_package_is_installed(installed: Path) -> None:
    def list_files(folder: Path) -> set[str]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {path.relative_to(folder).as_posix() for path in files}

    assert list_files(installed / "competition") == list_files(ROOT / "competition")
    assert {path.name for path in installed.iterdir() if "dist-info" not in path.name} == {
        "bin",
        "competition",
    }


def test_the_command_and_the_function_work_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def call(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    command = str(installed / "bin" / "blood-cells")
    assert call(sys.executable, command, "--help").startswith("usage: blood-cells")
    program = (
        "import sys, competition; print(competition.__file__, competition.run.__name__, "
        "sorted({'numpy', 'keras', 'pandas'} & set(sys.modules)))"
    )
    file = installed / "competition" / "__init__.py"
    assert call(sys.executable, "-c", program).strip() == f"{file} run []"


def test_the_pinned_versions_lie_in_the_ranges_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {item.name: item.specifier for item in map(Requirement, project["dependencies"])}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {name: version for name, _, version in (line.partition("==") for line in lines)}
    assert ranges.keys() == pins.keys()
    assert all(ranges[name].contains(version) for name, version in pins.items())


def test_the_version_stands_in_one_place(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert f"\nVersion: {competition.__version__}\n" in metadata.read_text(encoding="utf-8")
