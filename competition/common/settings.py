"""Settings as dataclass fields: each has a line of documentation, and checks its value."""

import dataclasses
import math
import textwrap
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from competition.common.errors import UserError, unknown

Settings = TypeVar("Settings")
"""A frozen dataclass of fields that the functions below make, and of sections of such fields."""


def number(default: float, line: str, *, low: float = 0, high: float = math.inf) -> Any:
    """Return a field for a number from `low` to `high`, both included."""
    return dataclasses.field(default=default, metadata={"line": line, "low": low, "high": high})


def choice(default: str, line: str, options: tuple[str, ...]) -> Any:
    """Return a field for one of `options`."""
    return dataclasses.field(default=default, metadata={"line": line, "options": options})


def switch(default: bool, line: str) -> Any:
    """Return a field that is on or off."""
    return dataclasses.field(default=default, metadata={"line": line})


def text(default: str, line: str) -> Any:
    """Return a field for any text."""
    return dataclasses.field(default=default, metadata={"line": line})


def list_fields(settings: Any) -> dict[str, dataclasses.Field[Any]]:
    """Return every field by dotted key, as `seed`, or `training.batch_size` in a section."""
    fields: dict[str, dataclasses.Field[Any]] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            fields |= {f"{item.name}.{key}": inner for key, inner in list_fields(value).items()}
        else:
            fields[item.name] = item
    return fields


def flatten(settings: Any) -> dict[str, Any]:
    """Return every value by dotted key."""
    return {key: attrgetter(key)(settings) for key in list_fields(settings)}


def set_value(settings: Settings, key: str, value: Any) -> Settings:
    """Return `settings` with the field of a dotted key set to `value`, which may be text.

    Raises UserError for an unknown key, naming a near one, and for a value that the field forbids.
    """
    fields = list_fields(settings)
    if key not in fields:
        raise UserError(unknown("setting", key, fields))
    try:
        converted = _CONVERTERS[fields[key].type](value)
        is_plain = fields[key].type is str or str(value).isascii()  # no digits of other scripts
        fits = is_plain and _is_allowed(converted, fields[key])
    except (ValueError, KeyError, TypeError, OverflowError):
        fits = False
    if not fits:
        kinds: dict[Any, str] = {int: "a whole number ", float: "a number "}
        expected = kinds.get(fields[key].type, "") + _describe_values(fields[key])
        raise UserError(f"Setting {key} got '{value}', and expects {expected}.")
    return _replace(settings, key.split("."), converted)


def tabulate(settings: Any, columns: int = 100) -> str:
    """Return a table of all settings by section: key, value, line, and the values it takes."""
    fields = list_fields(settings)
    lines = []
    for section, keys in groupby(fields, lambda key: key.rpartition(".")[0]):
        values = {key: _as_text(attrgetter(key)(settings)) for key in keys}
        key_width = max(map(len, values))
        value_width = max(map(len, values.values()))
        title = (attrgetter(section)(settings) if section else settings).__doc__
        lines.append(f"\n{section or 'general'}: {title}")
        for key, value in values.items():
            start = f"  {key:{key_width}}  {value:{value_width}}  "
            line = fields[key].metadata["line"]
            if taken := _describe_values(fields[key]):
                line += f" [{taken}]".replace(" ", "\xa0").replace("\xa0", " ", 1)
            wrapped = textwrap.wrap(line, columns - len(start), break_on_hyphens=False)
            lines.append(start + f"\n{' ' * len(start)}".join(wrapped).replace("\xa0", " "))
    return "\n".join(lines).lstrip("\n")


def _replace(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    changed = _replace(getattr(settings, name), rest, value) if rest else value
    return dataclasses.replace(settings, **{name: changed})


def _is_allowed(value: Any, setting: dataclasses.Field[Any]) -> bool:
    facts = setting.metadata
    if "low" in facts:
        return math.isfinite(value) and bool(facts["low"] <= value <= facts["high"])
    return value in facts.get("options", (value,))


def _describe_values(setting: dataclasses.Field[Any]) -> str:
    """Return the values that a field takes, as `from 0 to 1`; nothing where it takes any text."""
    facts = setting.metadata
    if "options" in facts:
        return f"one of {', '.join(facts['options'])}"
    if "low" not in facts:
        return "true or false" if setting.type is bool else ""
    if facts["high"] == math.inf:
        return f"from {facts['low']:.10g} up"
    return f"from {facts['low']:.10g} to {facts['high']:.10g}"


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value) or '""'


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(value)
    return int(value)


def _boolean(value: Any) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]


_CONVERTERS: dict[Any, Any] = {int: _whole, float: float, bool: _boolean, str: str}
