"""The command in a process: signals, errors in one line, exit codes."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer

from slth_compile.cli import baselines, certify, export, inspect, laboratory, ticket
from slth_compile.cli.frame import app
from slth_compile.errors import SlthError, VerificationError
from slth_compile.interrupts import interrupts

COMMANDS = (ticket, export, inspect, certify, baselines, laboratory)
"""What the help lists, in this order; importing a module adds its commands to the application."""

_COMPLETES = "_SLTH_COMPILE_COMPLETE"  # what the scripts of --install-completion set
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's own, or the copy that typer brings


def main() -> None:
    """Runs the command line and exits: 0 done, 1 out of reach, 2 usage, 3 false, 4 unsupported, 70 bug, 130 stopped."""
    try:
        _run()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message()} (--help shows the usage)", 2)
    except SlthError as error:
        _fail(str(error), error.exit_code, "verification failed: " if isinstance(error, VerificationError) else "")
    except KeyboardInterrupt:
        resumes = sys.argv[1:2] in (["compile"], ["demo"], ["prune"], ["lottery"], ["edge-popup"])
        _fail("interrupted" + ("; what is finished is kept, continue with --resume" if resumes else ""), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("SLTH_TRACEBACK"):
            raise
        _fail(f"internal error, please report it: {error!r} (SLTH_TRACEBACK=1 shows where)", 70)


def _run() -> None:
    """What `command.main` does, without its own words and exit codes for interrupts and closed pipes."""
    command = typer.main.get_command(app)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal or pipe that lacks a character gets a question mark, not an error
            stream.reconfigure(errors="replace")
    if _COMPLETES in os.environ:
        command.main(prog_name="slth-compile")
    with interrupts(), command.make_context("slth-compile", sys.argv[1:] or ["--help"]) as context:
        command.invoke(context)
    sys.stdout.flush()


def _fail(message: str, code: int, prefix: str = "") -> None:
    if message.count("\n") == 1:
        message = " ".join(line.strip() for line in message.splitlines())
    print(f"slth-compile: {prefix}{message}", file=sys.stderr)
    sys.exit(code)
