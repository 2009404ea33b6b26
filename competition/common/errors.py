"""What goes wrong, by kind: every message is one sentence for the user."""

import difflib
from typing import Any


class NotCheckedError(Exception):
    """The server's versions could not be tried here; the message says why."""


class UserError(ValueError):
    """A mistake of the user's: its message is one sentence that says what came, what was expected and how to fix it."""


def unknown(what: str, name: str, known: Any) -> str:
    """Return the sentence for an unknown name: the nearest known one, or all where none is near and they are few."""
    near = difflib.get_close_matches(name, list(known), n=1) or [
        item for item in known if item.endswith(f".{name}")
    ]
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(list(known)[:12])}."
    return f"Unknown {what} '{name}'; {hint}"
