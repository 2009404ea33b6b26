"""Settings in files: TOML to write and to read."""

import json
import tomllib
from itertools import groupby
from pathlib import Path
from typing import Any

from competition.common.errors import UserError
from competition.common.files import write_text
from competition.common.settings import flatten


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file by dotted key.

    Raises UserError where the file is missing or holds anything else. Names and values are not
    checked.
    """
    expected = "expected lines as  batch_size = 16  below [training], in TOML"
    if not path.is_file():
        raise UserError(f"There is no {path}; {expected}.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of the TOML, or of its encoding
        raise UserError(f"{path} cannot be read ({error}); {expected}.") from error
    settings = _flatten_tables(table)
    for key, value in settings.items():
        if not isinstance(value, bool | int | float | str):
            raise UserError(
                f"{path} sets {key} to {value}; expected a number, true, false or a text in quotes."
            )
    return settings


def write_settings(path: Path, settings: Any) -> None:
    """Write all values of a settings dataclass as TOML, a table per section."""
    lines = []
    for section, items in groupby(
        flatten(settings).items(), lambda item: item[0].rpartition(".")[0]
    ):
        if section:
            lines.append(f"\n[{section}]")
        for key, value in items:  # JSON writes numbers, truth values and texts as TOML does
            lines.append(f"{key.rpartition('.')[2]} = {json.dumps(value, ensure_ascii=False)}")
    write_text(path, "\n".join(lines) + "\n")


def _flatten_tables(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten_tables(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
