"""What can go wrong, as one exception per exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SlthError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 70


class UnreachableError(SlthError):
    """The requested `eps` or `delta` cannot be reached, or a drawn source missed its planned tolerance."""

    exit_code = 1


class InputError(SlthError):
    """An argument, file or array that cannot be used as given."""

    exit_code = 2


class VerificationError(SlthError):
    """Something inside a ticket directory is damaged, missing, unknown or false.

    Args:
        check: Short name of the check that failed, such as `"digest"` or `"bound"`.
        message: One sentence: what was found, what was expected.
    """

    exit_code = 3

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check


class UnsupportedModelError(SlthError):
    """A model that has no graph here: operations, modes or shapes outside what is compiled."""

    exit_code = 4


class ExportError(SlthError):
    """An exported file, loaded back, does not compute what the ticket computes: a defect here or of what runs it."""


class Note(UserWarning):
    """What was done is not all that was asked for; one sentence says what is different."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'close'?`, or nothing where no known name is close; upper and lower case are the same."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""
