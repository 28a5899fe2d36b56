"""Errors of commands: one line on stderr and an exit code.

UsageError      2   the command line or a setting is wrong
FailureError    1   the command was right and could not be done
"""

from __future__ import annotations

import difflib
import errno
import sqlite3
import sys
from collections.abc import Iterable

from footfall.schemas.settings import SettingError


class CommandError(Exception):
    """An error with one line for the user and the exit code of the process."""

    exit_code = 1


class UsageError(CommandError):
    """An error in the command line, in a setting or in a file named there."""

    exit_code = 2


class FailureError(CommandError):
    """A command that was right and could not be done."""


INTERRUPTED_EXIT_CODE = 130
_USAGE_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EADDRINUSE})


def line_and_code(error: BaseException) -> tuple[str, int]:
    """Return the line to print for an error that ended a command, and the exit code.

    Where an engine wraps the error of a step, the line is that of the step's own error.
    """
    if error.__cause__ is not None and not _explains_itself(error):
        return line_and_code(error.__cause__)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED_EXIT_CODE
    if isinstance(error, OSError) and error.errno is not None:
        return os_error_line(error), 2 if error.errno in _USAGE_ERRNOS else 1
    if not _explains_itself(error):
        kind = type(error).__name__
        return f"unexpected {kind}: {one_line(error)} (--debug shows where)", 1
    code = error.exit_code if isinstance(error, CommandError) else 1
    return one_line(error), 2 if isinstance(error, SettingError) else code


def os_error_line(error: OSError) -> str:
    """Return what happened to which file, and what to do where that is known."""
    name = f"{error.filename}: " if error.filename is not None else ""
    reasons = {
        errno.ENOSPC: "the disk is full: free some space and start again",
        errno.EDQUOT: "the disk quota is used up: free some space and start again",
        errno.EROFS: "the file system is read-only: set FOOTFALL_HOME to a folder that is not",
        errno.EACCES: "no permission: set FOOTFALL_HOME to a folder of your own, or mend its mode",
        errno.ENOENT: "no such file or folder",
        errno.ENOTDIR: "a part of this path is a file, not a folder",
        errno.EMFILE: "too many open files: raise the limit with `ulimit -n 4096`",
    }
    number = error.errno or 0
    return f"{name}{reasons.get(number) or error.strerror or error}"


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, at most 500 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:497] + "..."


def did_you_mean(typed: str, names: Iterable[str]) -> str:
    """Return ``; did you mean x?`` where a name is near, otherwise the names that exist."""
    known = sorted(names)
    near = difflib.get_close_matches(typed, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def say(text: str) -> None:
    """Print a line for the user that is not a result, on stderr."""
    print(f"footfall: {text}", file=sys.stderr, flush=True)


def confirmed(question: str) -> bool:
    """Ask the user at the terminal, and return whether the answer is yes."""
    print(f"{question} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _explains_itself(error: BaseException) -> bool:
    """Tell whether it is an error of the system, or one that this project defines."""
    return isinstance(error, OSError | sqlite3.Error) or any(
        kind.__module__.split(".")[0] == "footfall" for kind in type(error).__mro__
    )
