"""How much a default run tries; with `-m ''` everything."""

import os
from collections.abc import Iterable
from typing import Any

import pytest


def examples(count: int, default: int | None = None) -> int:
    """Examples of a property: `count`; where the default tests run alone `default`, or a quarter of them."""
    if os.environ.get("SLTH_EXAMPLES") == "all":
        return count
    return max(count // 4, 5) if default is None else default


def few(cases: Iterable[Any], *default: Any) -> list[Any]:
    """The cases to parametrise a test with, slow ones but for `default`."""
    return [pytest.param(case, marks=[] if case in default else pytest.mark.slow) for case in cases]
