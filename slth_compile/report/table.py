"""A table as text, the same for HTML and for Markdown."""

from __future__ import annotations

import dataclasses

from slth_compile.report import numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: What is read.
        exact: The figure with all its digits, where `text` is rounded.
        mark: A short warning beside it, such as `"vacuous"`.
    """

    text: str
    exact: str = ""
    mark: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first column names the row, the others are right aligned unless listed in `words`.

    Attributes:
        caption: What it shows.
        head: Column titles.
        rows: As many cells each as `head`.
        words: Columns that hold words.
        total: Whether the last row sums up the others.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[int, ...] = (0,)
    total: bool = False


def facts(caption: str, rows: tuple[tuple[str, str], ...]) -> Table:
    """A table of quantities and what they are, in words."""
    cells = tuple((Cell(text=name), Cell(text=text)) for name, text in rows)
    return Table(caption=caption, head=("Quantity", "Value"), rows=cells, words=(0, 1))


def rounded_up(value: float) -> Cell:
    """An upper bound, rounded up."""
    return Cell(text=numbers.significant(value, 3, "up"), exact=repr(value))


def rounded_down(value: float) -> Cell:
    """A lower bound or a limit, rounded down."""
    return Cell(text=numbers.significant(value, 3, "down"), exact=repr(value))


def rounded(value: float) -> Cell:
    """A figure rounded to nearest."""
    return Cell(text=numbers.significant(value), exact=repr(value))
