"""How much a default run tries; with `-m ''` everything."""

import os
from collections.abc import Iterable
from typing import Any

import pytest


def examples(count: int) -> int:
    """Examples of a property: `count`, or a quarter of it where the default tests run alone."""
    return count if os.environ.get("SLTH_EXAMPLES") == "all" else max(count // 4, 5)


def few(cases: Iterable[Any], *default: Any) -> list[Any]:
    """The cases to parametrise a test with, slow ones but for `default`."""
    return [pytest.param(case, marks=[] if case in default else pytest.mark.slow) for case in cases]
