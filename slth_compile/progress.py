"""How the stages report where they are."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with a stage's name, what is done and what there is to do; several times a stage, in order."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows, or ignores, that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


def share_of(progress: Progress, stage: str, before: int, parts: int, beside: tuple[str, ...] = ()) -> Progress:
    """Advances `stage`, of `parts` equal parts of which `before` are done, by hundredths of a part.

    Args:
        progress: Called with the whole.
        stage: Its name, whatever the part calls itself.
        before: Parts done when this one begins.
        parts: How many there are.
        beside: Names of the part's stages that are shown as they are.
    """

    def show(stage: str, done: int, total: int) -> None:
        if stage in beside:
            progress(stage, done, total)
        else:
            progress(whole[0], 100 * before + 100 * done // total, whole[1])

    whole = stage, 100 * parts
    return show


def part_of(progress: Progress, stage: str, before: int, total: int, beside: tuple[str, ...] = ()) -> Progress:
    """Advances `stage`, of `total` steps of which `before` are done, by whatever a part of it reports.

    Args:
        progress: Called with the whole.
        stage: Its name, whatever the part calls itself.
        before: Steps done when the part begins.
        total: Steps of the whole.
        beside: Names of the part's stages that are shown as they are.
    """

    def show(stage: str, done: int, total: int) -> None:
        if stage in beside:
            progress(stage, done, total)
        else:
            progress(whole[0], before + done, whole[1])

    whole = stage, total
    return show
