"""Plain JSON values of the expected type and range, or a `VerificationError`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from slth_compile.errors import VerificationError

MAX_JSON_BYTES = 1 << 26
"""Largest JSON file that is read, in bytes."""


def strict_json(raw: bytes, what: str) -> Any:
    """The value in `raw`: UTF-8, no repeated keys, no NaN or Infinity."""
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise VerificationError("format", f"{what} is not strict JSON ({ascii(str(error))[:200]})") from None


def record(value: Any, keys: Iterable[str], what: str) -> dict[str, Any]:
    """`value` as an object with exactly `keys`."""
    keys = set(keys)
    if not isinstance(value, dict):
        raise VerificationError("format", f"{what} is {_kind(value)}, expected an object")
    if set(value) != keys:
        missing, unknown = sorted(keys - set(value)), sorted(set(value) - keys)
        found = f"lacks {missing}" if missing else f"has unknown {ascii(unknown)[:200]}"
        raise VerificationError("format", f"{what} {found}, expected the keys {sorted(keys)}")
    return value


def sequence(value: Any, what: str, length: int | None = None) -> list[Any]:
    """`value` as a list, of `length` entries where that is given."""
    if not isinstance(value, list):
        raise VerificationError("format", f"{what} is {_kind(value)}, expected a list")
    if length is not None and len(value) != length:
        raise VerificationError("format", f"{what} has {len(value)} entries, expected {length}")
    return value


def integer(value: Any, what: str, low: int, high: int, check: str = "format") -> int:
    """`value` as an integer in `low..high`."""
    if type(value) is not int or not low <= value <= high:
        found = value if type(value) is int and abs(value) < 1 << 64 else _kind(value)
        raise VerificationError(check, f"{what} is {found}, expected an integer in {low}..{high}")
    return value


def real(value: Any, what: str, check: str = "format") -> float:
    """`value` as a finite float64."""
    if type(value) not in (int, float) or abs(value) > 1e308 or not math.isfinite(value):
        raise VerificationError(check, f"{what} is {_kind(value)}, expected a finite number")
    return float(value)


def flag(value: Any, what: str) -> bool:
    """`value` as a bool."""
    if not isinstance(value, bool):
        raise VerificationError("format", f"{what} is {_kind(value)}, expected true or false")
    return value


def text(value: Any, what: str) -> str:
    """`value` as a string."""
    if not isinstance(value, str):
        raise VerificationError("format", f"{what} is {_kind(value)}, expected a string")
    return value


def hexadecimal(value: Any, what: str) -> str:
    """`value` as the 64 lower-case digits of a SHA-256."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise VerificationError("format", f"{what} is {_kind(value)}, expected 64 hexadecimal digits")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"{value}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return f"the string {value[:80]!a}"
    names = {int: "an integer out of range", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")
