"""Settings as dataclass fields: bounds, choices, and how text becomes a value."""

import dataclasses
import math
from dataclasses import field
from typing import Any

from competition.common.errors import UserError


def number(default: float | None, low: float, high: float = math.inf) -> Any:
    """Return a field for a number between `low` and `high`, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def choice(default: str, *options: str) -> Any:
    """Return a field for one of `options`."""
    return field(default=default, metadata={"options": options})


def find_field(part: Any, name: str) -> dataclasses.Field[Any]:
    """Return the field of that name of a dataclass."""
    return next(item for item in dataclasses.fields(part) if item.name == name)


def convert(key: str, target: dataclasses.Field[Any], value: Any) -> Any:
    """Return `value`, which may be text, as the field `target` wants it; raises UserError where it does not fit."""
    kind: Any = target.type
    try:
        result = _CONVERTERS[kind](value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(
            f"Setting {key} got '{value}', and expects {_expectation(target, kind)}."
        ) from None
    low, high = target.metadata.get("low", -math.inf), target.metadata.get("high", math.inf)
    options = target.metadata.get("options")
    if (options and result not in options) or (kind in (int, float) and not low <= result <= high):
        raise UserError(f"Setting {key} got '{value}', and expects {_expectation(target, kind)}.")
    return result


def _expectation(target: dataclasses.Field[Any], kind: Any) -> str:
    if options := target.metadata.get("options"):
        return f"one of {', '.join(options)}"
    if kind is bool:
        return "true or false"
    names = {int: "a whole number", float: "a number"}
    low, high = target.metadata.get("low"), target.metadata.get("high", math.inf)
    bounds = (
        ""
        if low is None
        else f" of at least {low:g}"
        if high == math.inf
        else f" from {low:g} to {high:g}"
    )
    return names.get(kind, "text") + bounds


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(value)
    return int(value)


def _boolean(value: Any) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]


_CONVERTERS: dict[Any, Any] = {int: _whole, float: float, bool: _boolean, str: str}
