"""Meanings of errors of ClickHouse, or of the way to it: whether it may pass, why, what to do."""

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
_RIGHTS = f"{_LOGIN}: this user lacks a right, which GRANT gives"
_NAME = "mend the host in CLICKHOUSE_URL, or the DNS that this machine asks"
_REMEDIES = {
    **dict.fromkeys((8, 10, 16, 20, 47, 60, 81), INIT),
    **dict.fromkeys((192, 193, 194, 516), _LOGIN),
    **dict.fromkeys((164, 497), _RIGHTS),
}
_NEVER_CODES = frozenset(_REMEDIES) | {
    # Values that cannot be read as the column's type, and statements that are wrong.
    *(6, 15, 25, 26, 27, 36, 38, 41, 42, 43, 44, 46, 48, 50, 53, 56, 57, 62, 63, 69, 70, 72, 73),
    *(115, 117, 128, 131, 321, 349, 390, 395, 396, 456, 457, 469),
}
"""Codes of ClickHouse that the same request gets for ever.

All others may pass: a table in a moment of too many parts (252), memory (241), time (159), a full
disk (243), replicas.
"""
_PASSING_STATUSES = frozenset({408, 425, 429})
_LOGIN_STATUSES = frozenset({401, 403, 407})

REASON_CHARS_MAX = 400
_EXCEPTION = re.compile(r"Code: (\d+)[.,] (?:e\.displayText\(\) = )?DB::Exception: ")
_REASON = re.compile(
    r"DB::Exception: (.*?)(?: \(version [^)]*\)+)?\s*(?:[0-9]* ?[a-z]{16}\s*__exception__\s*)?"
    r"(?:\(for url .*)?$",
    re.DOTALL,
)
"""Pattern of the server's text, without its version and the mark that ends an error within a
body."""
_SYSTEM_ERROR = re.compile(r"(?:\[Errno -?\d+\] |Error\(\d+, ')([^\"')]+)")
"""Pattern of a failed connection's error, deep within the client's own text."""
_STATUS = re.compile(r"HTTP status (\d{3})(?:, server response: (.*?))?(?: \(for url .*)?$", re.S)
_TIMEOUT = re.compile(r"\((connect|read) timeout=([\d.]+)\)")
_CLOSED = re.compile(r"RemoteDisconnected|Remote end closed")
_BROKEN_OFF = re.compile(
    r"IncompleteRead|InvalidChunkLength|Connection broken|headers completed|unexpected end|"
    r"Failed to read response data"
)


_UNRESOLVED = re.compile(
    r"NameResolutionError|\[Errno -\d+\] |name resolution|not known|No address associated"
)
_NEVER_CONNECTED = (
    (
        re.compile(r"certificate verify failed: (.*?)\.? \(_ssl"),
        "its certificate cannot be verified: {}",
        "give CLICKHOUSE_URL the file of the CA, https://...?ca_cert=/path/to/ca.pem, and the "
        "host that the certificate is for",
    ),
    (
        re.compile(r"\[SSL: (?:WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|HTTP_REQUEST)\]"),
        "it does not speak TLS",
        "write http:// in CLICKHOUSE_URL, or give it the port of https",
    ),
    (
        re.compile(r"\[SSL: TLSV?\w*ALERT_(\w*(?:CERTIFICATE|VERSION|HANDSHAKE|CA)\w*)\]"),
        "it refuses the TLS that this side offers: {}",
        "look at what that server wants of its clients",
    ),
)
"""Errors of connections that the same address gets for ever: (pattern, what it is, what to do)."""


def code_of(error: DatabaseError) -> int:
    """Return ClickHouse's code from its header or, where a proxy took that away, from the text; or
    0."""
    if error.code:
        return int(error.code)
    found = _EXCEPTION.search(str(error))
    return int(found.group(1)) if found else 0


def remedy_of(error: Exception) -> str:
    """Return what to do about an error; "" where that is not known."""
    text = str(error)
    code = code_of(error) if isinstance(error, DatabaseError) else 0
    if not code and _status(text) in _LOGIN_STATUSES:
        return _LOGIN
    if code or _status(text):
        return _REMEDIES.get(code, "")
    if found := _never_connected(text):
        return found[1]
    return _NAME if is_unresolved(error) else ""


def is_unresolved(error: Exception) -> bool:
    """Return whether the name of the server has no address."""
    return bool(_UNRESOLVED.search(str(error)))


def why_again(error: Exception) -> str | None:
    """Return the reason of an error that may pass; else None."""
    if not isinstance(error, DatabaseError | HTTPError | OSError) or _never_connected(str(error)):
        return None
    return None if isinstance(error, DatabaseError) and not _may_pass(error) else reason(error)


def reason(error: Exception) -> str:
    """Return what went wrong, in one line of at most about REASON_CHARS_MAX characters."""
    text = str(error)
    found = _REASON.search(text) if isinstance(error, DatabaseError) and code_of(error) else None
    if found:
        return _one_line(found.group(1))
    page = _STATUS.search(text)
    if page:
        said = _one_line(_plain(page[2] or ""))
        return f"HTTP status {page[1]}" + (f": {said}" if said else "")
    never = _never_connected(text)
    return never[0] if never else _transport(text.partition(" (for url ")[0])


def holds_error(body: bytes) -> bool:
    """Return whether an answer ends in an error, or is an error as JSON."""
    return _EXCEPTION.search(_end_of(body)) is not None


def error_in_body(body: bytes) -> DatabaseError:
    """Return the error in an answer that began as a success, and should have had no such body."""
    text = _end_of(body)
    found = _EXCEPTION.search(text)
    if found is None:
        return DatabaseError(f"it answered with {_one_line(_plain(text[:2_000]))!r}")
    return DatabaseError(text[found.start() :], code=int(found.group(1)))


def _end_of(body: bytes) -> str:
    return body[-65_536:].decode("utf-8", "replace")


def _plain(page: str) -> str:
    """Return the text of what may be a web page."""
    return re.sub(r"(?s)<(style|script|head)\b.*?</\1>|<[^>]*>", " ", page)


def _may_pass(error: DatabaseError) -> bool:
    if isinstance(error, ProgrammingError | NotSupportedError | DataError):
        return False
    code = code_of(error)
    if code:
        return code not in _NEVER_CODES
    status = _status(str(error))
    if 400 <= status < 500:
        return status in _PASSING_STATUSES
    # The client says this of a server at this address that is not ClickHouse.
    return "Unexpected response" not in str(error)


def _status(text: str) -> int:
    found = _STATUS.search(text)
    return int(found.group(1)) if found else 0


def _never_connected(text: str) -> tuple[str, str] | None:
    """Return (what is wrong with a connection that cannot be made, what to do), or None."""
    for known, what, remedy in _NEVER_CONNECTED:
        if found := known.search(text):
            said = found[1].lower().replace("_", " ") if found.groups() else ""
            return what.format(said), remedy
    return None


def _transport(text: str) -> str:
    """Return what happened to a connection, in a few words."""
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
