"""A trained CNN goes in; a random seed, a pruning mask and a machine-checked error bound come out.

The public names are loaded on first use, so that the checker runs where only NumPy is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slth_compile.compare import certify as certify
    from slth_compile.compiled import Compiled as Compiled
    from slth_compile.compiler import compile as compile
    from slth_compile.compiler import dry_run as dry_run
    from slth_compile.compiler import verify as verify
    from slth_compile.domain import Balls as Balls
    from slth_compile.domain import Box as Box
    from slth_compile.domain import Points as Points
    from slth_compile.errors import ExportError as ExportError
    from slth_compile.errors import InputError as InputError
    from slth_compile.errors import SlthError as SlthError
    from slth_compile.errors import UnreachableError as UnreachableError
    from slth_compile.errors import UnsupportedModelError as UnsupportedModelError
    from slth_compile.errors import VerificationError as VerificationError
    from slth_compile.found import Found as Found
    from slth_compile.report.comparison import Comparison as Comparison
    from slth_compile.source.law import SourceLaw as SourceLaw
    from slth_compile.source.supplied import round_source as round_source
    from slth_compile.stored import load as load

__version__ = "0.1.0"

_HOMES = {
    "certify": "compare",
    "Comparison": "report.comparison",
    "compile": "compiler",
    "dry_run": "compiler",
    "load": "stored",
    "verify": "compiler",
    "Compiled": "compiled",
    "Found": "found",
    "SourceLaw": "source.law",
    "round_source": "source.supplied",
    "Box": "domain",
    "Balls": "domain",
    "Points": "domain",
    "SlthError": "errors",
    "UnreachableError": "errors",
    "InputError": "errors",
    "ExportError": "errors",
    "VerificationError": "errors",
    "UnsupportedModelError": "errors",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slth_compile' has no attribute '{name}'")
    return getattr(importlib.import_module(f"slth_compile.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
