"""Sessions, minutes and bursts of failures, from records that come in order of time per user."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

from footfall.schemas.platform_logs import LOGIN_FAILURES_MAX, LOGIN_WINDOW_S, SESSION_TIMEOUT_S

MINUTE_MS = 60_000
_TIMEOUT_MS = SESSION_TIMEOUT_S * 1000

Ended = Callable[[str, int, int, str], None]
"""Function that takes a session: (user id, login in ms, end in ms, why it ended)."""


class Sessions:
    """Sessions from a login to a logout, the next login, or a time without records."""

    def __init__(self, timeout: str, ended: Ended) -> None:
        self._timeout = timeout
        self._ended = ended
        self._open: dict[str, list[int]] = {}
        """(login, last record) of each user who is online, in ms."""

    def login(self, user_id: str, time_ms: int) -> None:
        """Begin a session."""
        session = self._at(user_id, time_ms)
        if session:
            self._ended(user_id, session[0], time_ms, "relogin")
        self._open[user_id] = [time_ms, time_ms]

    def logout(self, user_id: str, time_ms: int) -> None:
        """End the session, if there is one."""
        session = self._at(user_id, time_ms)
        if session:
            self._ended(user_id, session[0], time_ms, "logout")
            del self._open[user_id]

    def record(self, user_id: str, time_ms: int) -> None:
        """Continue the session, if there is one."""
        session = self._at(user_id, time_ms)
        if session:
            session[1] = time_ms

    def end(self) -> None:
        """End all sessions by their timeout: no more records come."""
        for user_id, (login_ms, last_ms) in self._open.items():
            self._ended(user_id, login_ms, last_ms + _TIMEOUT_MS, self._timeout)
        self._open.clear()

    def _at(self, user_id: str, time_ms: int) -> list[int] | None:
        session = self._open.get(user_id)
        if session and time_ms - session[1] >= _TIMEOUT_MS:
            self._ended(user_id, session[0], session[1] + _TIMEOUT_MS, self._timeout)
            del self._open[user_id]
            return None
        return session


class Minutes:
    """Numbers of users that were active in each minute, and online at its end."""

    def __init__(self) -> None:
        self._active: Counter[int] = Counter()
        self._online: Counter[int] = Counter()
        self._last: dict[str, int] = {}

    def active(self, user_id: str, minute_ms: int) -> None:
        """Note that the user has a record in that minute."""
        if self._last.get(user_id) != minute_ms:
            self._last[user_id] = minute_ms
            self._active[minute_ms] += 1

    def online(self, login_ms: int, end_ms: int) -> None:
        """Note a session, from its login to its end."""
        for minute_ms in range(
            login_ms // MINUTE_MS * MINUTE_MS, end_ms - MINUTE_MS + 1, MINUTE_MS
        ):
            self._online[minute_ms] += 1

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield (minute in ms, active, online) where either is above 0."""
        for minute_ms in self._active.keys() | self._online.keys():
            yield minute_ms, self._active[minute_ms], self._online[minute_ms]


class Alerts:
    """Failures of logins that pass the limit."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[int]] = {}
        self._in_burst: set[str] = set()

    def failure(self, user_id: str, time_ms: int) -> list[int]:
        """Return the times of the failures that raise an alert, this one last; [] without an
        alert."""
        times = self._recent.setdefault(user_id, deque())
        times.append(time_ms)
        while times[0] // 1000 <= time_ms // 1000 - LOGIN_WINDOW_S:
            times.popleft()
        if len(times) <= LOGIN_FAILURES_MAX:
            self._in_burst.discard(user_id)
            return []
        if user_id in self._in_burst:
            return []
        self._in_burst.add(user_id)
        return list(times)
