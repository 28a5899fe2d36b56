"""Meanings of errors of PostgreSQL or SQLite, or of the way to them: may it pass, what to do."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError

from footfall.sinks._sqlite import is_busy

REASON_CHARS_MAX = 300
INIT = "`footfall init` makes the tables"
_LOGIN = "check the user and password in POSTGRES_URL"
_RIGHTS = f"{_LOGIN}: this user lacks a right, which GRANT gives"
_NAME = "mend the host in POSTGRES_URL, or the DNS that this machine asks"

_TRANSIENT_STATES = ("08", "40001", "40P01", "53", "55P03", "57014", "57P01", "57P02", "57P03")
_TRANSIENT_FATAL = ("starting up", "shutting down", "in recovery", "too many")
_STATES = {
    "28": _LOGIN,
    "3D000": "mend the database in POSTGRES_URL, or create it",
    "42501": _RIGHTS,
    "42P01": INIT,
    "42703": "`footfall init` says which columns differ, and what to do",
    "25006": "it is a standby: name the primary in POSTGRES_URL, or all hosts with "
    "?target_session_attrs=read-write",
}
"""Remedies by SQLSTATE, or by the class of one."""

_UNRESOLVED = re.compile(r"failed to resolve host|could not translate host name")
_NEVER_CONNECTED = tuple(
    (re.compile(known), remedy)
    for known, remedy in (
        (
            r"certificate verify failed|root certificate file|server certificate for|"
            r"does not match host name|could not read certificate|certificate revocation",
            "give POSTGRES_URL the file of the CA, ?sslrootcert=/path/to/ca.pem, and the host "
            "that the certificate is for",
        ),
        (
            r"does not support SSL",
            "turn TLS on in the server, or write ?sslmode=prefer in POSTGRES_URL",
        ),
        (
            r"no pg_hba\.conf entry",
            "let pg_hba.conf of the server admit this machine, user and database; where it ends "
            'in "no encryption", POSTGRES_URL needs ?sslmode=require',
        ),
        (r'database ".*" does not exist', _STATES["3D000"]),
        (r"no password supplied|authentication failed|role \".*\" does not exist", _LOGIN),
        (
            r"invalid \w+ value|invalid (?:integer value|connection option)|unrecognized "
            r"configuration parameter|(?:certificate|private key) file",
            "mend what stands after the ? in POSTGRES_URL",
        ),
        (
            r"received invalid response|expected authentication request|unsupported frontend",
            "mend POSTGRES_URL: what answers there is not PostgreSQL",
        ),
    )
)
"""Errors of connections that the same URL gets for ever: (pattern, remedy)."""


def reason(error: BaseException) -> str:
    """Return what went wrong, in one line."""
    text = str(original(error))
    first, _, every = text.partition("Multiple connection attempts failed. All failures were:")
    found = re.findall(r"^- host: .*?hostaddr: '[^']*': (.*)$", every, re.MULTILINE) or [first]
    parts = dict.fromkeys(one.removeprefix("connection failed: ") for one in found)
    return " ".join("; ".join(parts).split())[:REASON_CHARS_MAX]


def remedy_of(error: BaseException) -> str:
    """Return what to do about an error; "" where that is not known."""
    cause = original(error)
    text = str(cause)
    if isinstance(cause, sqlite3.Error):
        return INIT if "no such table" in text else ""
    if state := str(getattr(cause, "sqlstate", None) or ""):
        return _STATES.get(state) or _STATES.get(state[:2], "")
    never = _never_connected(text)
    return never or (_NAME if is_unresolved(error) else "")


def is_unresolved(error: BaseException) -> bool:
    """Return whether no host of the server has an address."""
    return bool(_UNRESOLVED.search(str(original(error))))


def is_transient(error: BaseException) -> bool:
    """Return whether the same may succeed in a while."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = original(error)
    if isinstance(cause, sqlite3.Error):
        return is_busy(cause)
    if (state := getattr(cause, "sqlstate", None)) is not None:
        return str(state).startswith(_TRANSIENT_STATES)
    # Without a state the server was not reached, or refused the connection with a FATAL text.
    if type(cause).__name__ != "OperationalError":
        return False
    text = str(cause)
    if any(word in text for word in _TRANSIENT_FATAL):
        return True
    return "FATAL" not in text and not _never_connected(text)


def original(error: BaseException) -> BaseException:
    """Return the driver's own error."""
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _never_connected(text: str) -> str:
    return next((remedy for known, remedy in _NEVER_CONNECTED if known.search(text)), "")
