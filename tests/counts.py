"""How many examples a property is tried on: all of them with `-m ''` or SLTH_EXAMPLES=all, a share otherwise."""

import os


def examples(count: int) -> int:
    """`count`, or a quarter of it where the default tests run alone."""
    return count if os.environ.get("SLTH_EXAMPLES") == "all" else max(count // 4, 5)
