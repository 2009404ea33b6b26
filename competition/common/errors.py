"""Errors by kind: every message is one sentence for the user, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's; the message names the received value, the expected one, the cure."""


class DamagedFileError(UserError):
    """A damaged file of ours; its arguments: the finding, with the file's name, and the cure."""

    def __str__(self) -> str:
        return "; ".join(self.args)


class TrialFailedError(UserError):
    """A training that fails by its own settings: its loss diverged, or it needs too much memory."""


class CheckFailedError(UserError):
    """A submission that fails a check: it does not run, answers otherwise, or exceeds a limit."""


class WorthlessError(Exception):
    """All is done, but the packaged network is no better than always naming one class."""


class NotCheckedError(Exception):
    """A check that could not be made on this machine; the message says why."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for an unknown name, with the nearest known one or the first dozen."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    near = near or [item for item in names if item.endswith(f".{name}")]
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names[:12])}."
    return f"Unknown {kind} '{name}'; {hint}"
