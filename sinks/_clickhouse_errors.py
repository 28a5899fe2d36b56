"""What an error of ClickHouse, or of the way to it, means: may it pass, why, what to do."""

from __future__ import annotations

import re

from clickhouse_connect.driver.exceptions import (
    DatabaseError,
    DataError,
    NotSupportedError,
    ProgrammingError,
)
from urllib3.exceptions import HTTPError

INIT = "run `footfall init`"
_LOGIN = "check the user and password in CLICKHOUSE_URL"
_REMEDIES = {
    **dict.fromkeys((8, 10, 16, 20, 47, 60, 81), INIT),
    **dict.fromkeys((164, 192, 193, 194, 497, 516), _LOGIN),
}
_NEVER_CODES = frozenset(_REMEDIES) | {
    # Values that cannot be read as the column's type, and statements that are wrong.
    *(6, 15, 25, 26, 27, 36, 38, 41, 42, 43, 44, 46, 48, 50, 53, 56, 57, 62, 63, 69, 70, 72, 73),
    *(115, 117, 128, 131, 321, 349, 390, 395, 396, 456, 457, 469),
}
"""Codes of ClickHouse that the same request gets for ever. All others may pass: a table in a
moment of too many parts (252), memory (241), time (159), a full disk (243), replicas."""
_PASSING_STATUSES = frozenset({408, 425, 429})
_LOGIN_STATUSES = frozenset({401, 403, 407})

REASON_CHARS_MAX = 400
_EXCEPTION = re.compile(r"Code: (\d+)[.,] (?:e\.displayText\(\) = )?DB::Exception: ")
_REASON = re.compile(
    r"DB::Exception: (.*?)(?: \(version [^)]*\)+)?\s*(?:[0-9]* ?[a-z]{16}\s*__exception__\s*)?"
    r"(?:\(for url .*)?$",
    re.DOTALL,
)
"""What the server says, without its version and the mark that ends an error within a body."""
_SYSTEM_ERROR = re.compile(r"(?:\[Errno -?\d+\] |Error\(\d+, ')([^\"')]+)")
"""Of a connection that failed, deep within what the client makes of it."""
_STATUS = re.compile(r"HTTP status (\d{3})(?:, server response: (.*?))?(?: \(for url .*)?$", re.S)
_TIMEOUT = re.compile(r"\((connect|read) timeout=([\d.]+)\)")
_CLOSED = re.compile(r"RemoteDisconnected|Remote end closed")
_BROKEN_OFF = re.compile(
    r"IncompleteRead|InvalidChunkLength|Connection broken|headers completed|unexpected end|"
    r"Failed to read response data"
)


def code_of(error: DatabaseError) -> int:
    """ClickHouse's code, from its header or, where a proxy took that away, from the text; or 0."""
    if error.code:
        return int(error.code)
    found = _EXCEPTION.search(str(error))
    return int(found.group(1)) if found else 0


def remedy_of(error: DatabaseError) -> str | None:
    """What to do about an error that does not pass, where that is known."""
    if not code_of(error) and _status(error) in _LOGIN_STATUSES:
        return _LOGIN
    return _REMEDIES.get(code_of(error))


def why_again(error: Exception) -> str | None:
    """The reason of an error that may pass, or None."""
    if isinstance(error, DatabaseError):
        return reason(error) if _may_pass(error) else None
    return _transport(str(error)) if isinstance(error, HTTPError | OSError) else None


def reason(error: DatabaseError) -> str:
    """What went wrong, in one line of at most REASON_CHARS_MAX characters and a bit."""
    text = str(error)
    found = _REASON.search(text) if code_of(error) else None
    if found:
        return _one_line(found.group(1))
    page = _STATUS.search(text)
    if page:
        said = _one_line(_plain(page[2] or ""))
        return f"HTTP status {page[1]}" + (f": {said}" if said else "")
    return _transport(text.partition(" (for url ")[0])


def holds_error(body: bytes) -> bool:
    """Whether an answer ends in an error, or is one as JSON."""
    return _EXCEPTION.search(_end_of(body)) is not None


def error_in_body(body: bytes) -> DatabaseError:
    """The error in an answer that began as a success, and should have had no such body."""
    text = _end_of(body)
    found = _EXCEPTION.search(text)
    if found is None:
        return DatabaseError(f"it answered with {_one_line(_plain(text[:2_000]))!r}")
    return DatabaseError(text[found.start() :], code=int(found.group(1)))


def _end_of(body: bytes) -> str:
    return body[-65_536:].decode("utf-8", "replace")


def _plain(page: str) -> str:
    """The text of what may be a web page."""
    return re.sub(r"(?s)<(style|script|head)\b.*?</\1>|<[^>]*>", " ", page)


def _may_pass(error: DatabaseError) -> bool:
    if isinstance(error, ProgrammingError | NotSupportedError | DataError):
        return False
    code = code_of(error)
    if code:
        return code not in _NEVER_CODES
    status = _status(error)
    if 400 <= status < 500:
        return status in _PASSING_STATUSES
    # That is said of what answers at this address and is no ClickHouse.
    return "Unexpected response" not in str(error)


def _status(error: DatabaseError) -> int:
    found = _STATUS.search(str(error))
    return int(found.group(1)) if found else 0


def _transport(text: str) -> str:
    """What happened to a connection, in a few words."""
    system, timeout = _SYSTEM_ERROR.search(text), _TIMEOUT.search(text)
    if system:
        return system.group(1).lower()
    if timeout:
        what = "connection" if timeout.group(1) == "connect" else "answer"
        return f"no {what} within {float(timeout.group(2)):g} s"
    if "TimeoutError" in text:
        return "it stopped taking what is sent"
    if _CLOSED.search(text):
        return "it closed the connection without an answer"
    if _BROKEN_OFF.search(text):
        return "its answer broke off"
    return _one_line(text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_CHARS_MAX else line[:REASON_CHARS_MAX] + " ..."
