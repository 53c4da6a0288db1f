"""The model a command line names: `pkg.module:function`, imported and called."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from slth_compile.errors import InputError, suggestion


def call_factory(factory: str, model_kwargs: Mapping[str, Any] | None = None) -> Any:
    """What `function(**model_kwargs)` of `"pkg.module:function"` returns.

    Modules of the current working directory can be named too.

    Raises:
        InputError: No such module or function (close names are suggested), or one that fails.
    """
    module_name, colon, function_name = factory.partition(":")
    if not (colon and module_name and function_name):
        raise InputError(f"factory '{factory}': expected 'package.module:function'")
    with _working_directory_importable():
        module = _import(factory, module_name)
        function: Any = module
        for part in function_name.split("."):
            if not hasattr(function, part):
                close = suggestion(part, [name for name in dir(function) if not name.startswith("_")])
                raise InputError(f"factory '{factory}': module '{module_name}' has no '{function_name}'{close}")
            function = getattr(function, part)
        if not callable(function):
            raise InputError(
                f"factory '{factory}': '{function_name}' is a {type(function).__name__}, expected a function"
            )
        try:
            return function(**(model_kwargs or {}))
        except Exception as error:
            given = ", ".join(sorted(model_kwargs or {})) or "no arguments"
            raise InputError(
                f"factory '{factory}' called with {given} failed ({type(error).__name__}: {error}); "
                "check --model-kwargs"
            ) from error


def _import(factory: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise InputError(f"factory '{factory}': module '{name}' needs '{error.name}', which is missing") from error
        parent = error.name.rpartition(".")[0]
        close = suggestion(error.name, _siblings(parent))
        raise InputError(f"factory '{factory}': no module named '{error.name}'{close}") from None
    except Exception as error:
        raise InputError(f"factory '{factory}': importing '{name}' failed ({type(error).__name__}: {error})") from error


def _siblings(parent: str) -> list[str]:
    """Modules of a package, or of the working directory."""
    try:
        paths = list(importlib.import_module(parent).__path__) if parent else [os.getcwd()]
    except (ImportError, AttributeError):
        return []
    prefix = f"{parent}." if parent else ""
    return [prefix + module.name for module in pkgutil.iter_modules(paths)]


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    # a module written since the last look at the directory must be found
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
