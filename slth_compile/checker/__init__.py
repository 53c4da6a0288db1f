"""An independent verdict on a ticket directory, from NumPy and the standard library alone.

It shares no code with the compiler and believes nothing that the directory claims about itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slth_compile.checker.check import verify
    from slth_compile.checker.found import FoundVerdict
    from slth_compile.checker.verdict import CheckedCertificate, Verdict

__all__ = ["CheckedCertificate", "FoundVerdict", "Verdict", "verify"]


def __getattr__(name: str) -> Any:
    """The public names, on first use: the command settles NumPy's threads before NumPy is loaded."""
    if name == "verify":
        from slth_compile.checker.check import verify

        return verify
    if name == "FoundVerdict":
        from slth_compile.checker.found import FoundVerdict

        return FoundVerdict
    if name in __all__:
        from slth_compile.checker import verdict

        return getattr(verdict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
