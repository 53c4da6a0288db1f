"""How the stages report where they are."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with a stage's name, what is done and what there is to do; several times a stage, in order."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows, or ignores, that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
