"""What errors of SQLite mean."""

from __future__ import annotations

import sqlite3

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_BROKEN = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM)


def is_busy(error: BaseException) -> bool:
    """Another connection holds the file for now."""
    return _code(error) in _BUSY


def is_broken(error: BaseException) -> bool:
    """The disk is full or fails: once that is mended, it works again."""
    return _code(error) in _BROKEN


def hint(error: BaseException) -> str:
    """What to look at, as the end of a message."""
    if is_broken(error):
        return ": look at its disk"
    if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return ": can its folder be written?"
    return ": move it away" if _code(error) == sqlite3.SQLITE_NOTADB else ""


def _code(error: BaseException) -> int:
    # The low byte is the error, the others say more of it.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
