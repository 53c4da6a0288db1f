"""The command line: arguments, progress and exit codes; no arithmetic."""

from slth_compile.cli.entry import main
from slth_compile.cli.frame import app

__all__ = ["app", "main"]
