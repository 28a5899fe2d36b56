"""Counts of this process's failed attempts to write, by server and a bounded code."""

from __future__ import annotations

import threading
from collections import Counter

from footfall.schemas.metrics import SINK_CODES, SINK_SERVERS

_SIGNS = {
    "timeout": ("timeout", "timed out", "timedout"),
    "connection": ("connect", "refused", "reset by peer", "broken pipe", "unreachable"),
}


class Attempts:
    """Counts of attempts that failed, and of those that were made again; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: Counter[tuple[str, str]] = Counter()
        self._again: Counter[str] = Counter()

    def failed(self, target: str, error: Exception, *, is_passing: bool) -> None:
        """Count an attempt that failed; one that may pass is made again."""
        server, code = server_of(target), code_of(error) if is_passing else "refused"
        with self._lock:
            self._failed[server, code] += 1

    def again(self, target: str) -> None:
        """Count an attempt that is made again."""
        with self._lock:
            self._again[server_of(target)] += 1

    def read(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Return (failures by server and code, retries by server)."""
        with self._lock:
            return dict(self._failed), dict(self._again)


ATTEMPTS = Attempts()
"""Counts of this process."""


def server_of(target: str) -> str:
    """Return the kind of server that a write's target belongs to."""
    lower = target.lower()
    # The address names the server. A target that is a file's path is SQLite.
    return next((name for name in SINK_SERVERS if lower.startswith(name)), "sqlite")


def code_of(error: Exception) -> str:
    """Return why an attempt that may pass failed, as one of SINK_CODES."""
    said = f"{type(error).__name__} {error}".lower()
    found = next((code for code, signs in _SIGNS.items() if any(one in said for one in signs)), "")
    if not found and isinstance(error, ConnectionError):
        found = "connection"
    return found or SINK_CODES[2]
