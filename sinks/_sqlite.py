"""Files of SQLite, and the meanings of its errors."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_BROKEN = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM)


def make_own(file: Path) -> None:
    """Make a missing file and its folder for their user alone. Raises OSError.

    SQLite gives the files beside it the same mode.
    """
    file.parent.mkdir(0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def is_busy(error: BaseException) -> bool:
    """Return whether another connection holds the file for now."""
    return _code(error) in _BUSY


def is_broken(error: BaseException) -> bool:
    """Return whether the disk is full or fails: once that is mended, it works again."""
    return _code(error) in _BROKEN


def hint(error: BaseException) -> str:
    """Return what to look at, as the end of a message."""
    if is_broken(error):
        return ": look at its disk"
    if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return ": can its folder be written?"
    return ": move it away" if _code(error) == sqlite3.SQLITE_NOTADB else ""


def _code(error: BaseException) -> int:
    # The low byte is the error; the other bytes say more about it.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
