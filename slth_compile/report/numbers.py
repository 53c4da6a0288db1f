"""Numbers as a reader wants them: two or three digits, never rounded to the flattering side."""

from __future__ import annotations

import decimal
import math
from typing import Literal

Rounding = Literal["nearest", "up", "down"]

_MODES = {"nearest": decimal.ROUND_HALF_EVEN, "up": decimal.ROUND_CEILING, "down": decimal.ROUND_FLOOR}
_MISSING = "–"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BYTE_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def significant(value: float, digits: int = 3, rounding: Rounding = "nearest") -> str:
    """`value` with `digits` significant digits, rounded from the shortest decimal that stands for it.

    Upper bounds are shown rounded up and lower bounds rounded down, so that what is read is still true.

    Args:
        value: Any float; infinities read `∞`, NaN reads as a dash.
        digits: Significant digits, >= 1.
        rounding: Direction of the rounding.

    Returns:
        Plain notation with thousands separators in [0.1, 1e6), `8.13e-3` elsewhere.
    """
    if math.isnan(value):
        return _MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    context = decimal.Context(prec=digits, rounding=_MODES[rounding])
    rounded = context.plus(decimal.Decimal(repr(value)))
    exponent = rounded.adjusted()
    if not -1 <= exponent < 6:
        # Asking for every digit keeps the trailing zeros: 1.00e-2 is a rounded figure, 1e-2 a given one.
        return f"{rounded.scaleb(-exponent):.{digits - 1}f}e{exponent}".replace("-", "−" if value < 0 else "-", 1)
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")


def method(name: str, splits: int | None) -> str:
    """How a bound was found, in words."""
    return name if splits is None else f"{name}, {splits} split{'' if splits == 1 else 's'} a bound"


def given(value: float) -> str:
    """A number somebody typed, such as `1e-2`: its digits up to six, without padding; more are rounded up."""
    for digits in range(1, 6):
        if math.isfinite(value) and float(f"{value:.{digits - 1}e}") == value:
            return significant(value, digits)
    return significant(value, 6, "up")


def upper_bound(value: float, limit: float, digits: int = 3) -> str:
    """`value` rounded up, with as many digits as it takes not to be shown above a `limit` it is below."""
    if value > limit or not math.isfinite(value):
        return significant(value, digits, "up")
    for enough in range(digits, 17):
        context = decimal.Context(prec=enough, rounding=decimal.ROUND_CEILING)
        if context.plus(decimal.Decimal(repr(value))) <= decimal.Decimal(repr(limit)):
            return significant(value, enough, "up")
    return repr(value)


def power_of_two(exponent: int) -> str:
    """`2` with a raised exponent: `2⁻³`."""
    return "2" + str(exponent).translate(_RAISED)


def count(value: int) -> str:
    """`value` with thousands separators."""
    return f"{value:,}"


def percent(value: float) -> str:
    """A fraction as per cent, two decimals: `97.22 %`."""
    return f"{100 * value:.2f} %" if math.isfinite(value) else significant(value)


def points(difference: float) -> str:
    """A difference of two fractions in percentage points, with its sign: `−0.28 points`."""
    if not math.isfinite(difference):
        return significant(difference)
    return signed(f"{100 * difference:+.2f}") + " points"


def signed(text: str) -> str:
    """`text` of a signed number with a real minus sign, and without a sign where it reads zero."""
    is_zero = not text.strip("+-0.,")
    return text.lstrip("+-") if is_zero else text.replace("-", "−", 1)


def size(value: int) -> str:
    """A number of bytes in the largest binary unit below it: `10.5 KiB`."""
    for unit, name in _BYTE_UNITS:
        if value >= unit:
            return f"{significant(value / unit)} {name}"
    return f"{value:,} B"


def duration(seconds: float) -> str:
    """A wall time: `21 ms`, `0.42 s`, `3 min 5 s`, `2 h 10 min`."""
    if 0 < seconds < 0.1:
        return f"{significant(1000 * seconds, 2)} ms"
    if not math.isfinite(seconds) or seconds < 60:
        return f"{significant(seconds, 2 if seconds < 10 else 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def ratio(upper: float, lower: float) -> str:
    """`upper / lower` as `1.3×`; a dash where `lower` is zero or one of them is not finite."""
    if lower == 0 or not (math.isfinite(upper) and math.isfinite(lower)):
        return _MISSING
    quotient = upper / lower
    return f"{significant(quotient, 3 if quotient < 10 else 2)}×"


def per(total: float, parts: float) -> str:
    """`total / parts` with three digits; a dash where there are no parts."""
    return significant(total / parts) if parts else _MISSING
