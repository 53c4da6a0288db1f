"""Where in the model an equation comes from, for names and messages."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import flax
import jax

_JAX = str(pathlib.Path(jax.__file__).parent)
_FLAX = str(pathlib.Path(flax.__file__).parent)
_LIBRARIES = (_JAX, _FLAX, str(pathlib.Path(__file__).parent))
_PUBLIC = tuple(f"{_JAX}/_src/{part}/" for part in ("nn", "numpy", "lax", "scipy"))
_PLUMBING = ("array_methods.py", "indexing.py")
_LAYER = re.compile(r"^(\w+)\.__call__$")
_CONTAINERS = {"Sequential", "Module"}


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in the model.

    Attributes:
        scope: The name stack, `"Block_0/Conv_1"`; empty where the model gives no names.
        location: The innermost line that is the model's own, `"model.py:12"`; empty where unknown.
        operation: The library function called there, `"gelu"`, or the primitive.
    """

    scope: str = ""
    location: str = ""
    operation: str = ""

    def __str__(self) -> str:
        """Scope and line, as messages show them."""
        place = f"'{self.scope}'" if self.scope else ""
        line = f"({self.location})" if self.location else ""
        return " ".join(part for part in (place, line) if part) or "an unknown place"


def site_of(equation: Any, outer: Site | None, scopes: tuple[str, ...], called: str = "") -> Site:
    """The site of an equation.

    Args:
        equation: A jaxpr equation.
        outer: The site of the library call it was inlined from; None for an equation of the model itself. A library
            function is traced once and cached, its equations remember only the first caller.
        scopes: Name stacks of the calls around it.
        called: Name of the function it calls, where it is a call.
    """
    if outer is not None:
        return outer
    name = called.lstrip("_") or equation.primitive.name
    frames = getattr(equation.source_info.traceback, "frames", None) or []
    location, layer, function = "", "", ""
    for frame in frames:
        if not frame.file_name.startswith(_LIBRARIES):
            location = f"{pathlib.Path(frame.file_name).name}:{frame.line_num}"
            break
        if frame.file_name.startswith(_PUBLIC):
            short = frame.function_name.rpartition(".")[2]
            if not layer and not short.startswith("_") and not frame.file_name.endswith(_PLUMBING):
                function = short
        elif (
            frame.file_name.startswith(_FLAX)
            and not layer
            and (found := _LAYER.match(frame.function_name))
            and found[1] not in _CONTAINERS
        ):
            layer = found[1]
    scope = "/".join(part for part in (*scopes, str(equation.source_info.name_stack)) if part)
    return Site(scope, location, layer or function or name)


def called_function(debug_info: Any) -> tuple[str, bool]:
    """The name of an inlined function and whether it belongs to JAX or Flax, by what its jaxpr remembers of it."""
    name, _, place = (getattr(debug_info, "func_src_info", None) or "").partition(" at ")
    return name, place.startswith(_LIBRARIES)
