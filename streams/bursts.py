"""Bursts of a user's failed logins: a pure decision, one failure at a time. Knows no engine.

In order of time a failure raises an alert if it finds more than LOGIN_FAILURES_MAX failures of the
user, itself included, in the LOGIN_WINDOW_S whole seconds that end with its own second, and the
failure before it did not find as many: one alert per burst.

Where each failure is answered at once, failures may come out of order. Then the window that counts
is always the one that ends with the newest failure.

- A failure that comes late joins that window or, if it is too old for it, changes nothing. If it
  fills the window, the alert is raised then. The newest failure's time is the alert's identity.
- Between two alerts of a user there is a failure newer than all before it that finds no more than
  the limit: as long as a burst goes on, by the known failures, no alert is raised again. A failure
  that comes after such a one cannot join the two bursts any more.
- The same failures in the same order give the same alerts, wherever counting begins, once the
  failures before are older than the window.
"""

from __future__ import annotations

from bisect import insort

from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.platform_logs import LOGIN_FAILURES_MAX, LOGIN_WINDOW_S
from footfall.schemas.times import iso_ms

Failures = tuple[int, ...]
"""Known failures of a user: the newest KEPT_MAX of the window that ends with the newest one, in
order of time, in milliseconds since 1970 UTC."""

NONE: Failures = ()
KEPT_MAX = LOGIN_FAILURES_MAX + 1
"""Most failures that can matter. The window holds more than the limit exactly if the newest
KEPT_MAX are in it, and this is checked after each failure."""


def decide(known: Failures, time_ms: int) -> tuple[Failures, Failures | None]:
    """Return (the known failures with this one, the failures that raise an alert if it is due)."""
    newest_ms = max(known[-1], time_ms) if known else time_ms
    times = list(known)
    insort(times, time_ms)
    opens_s = newest_ms // 1000 - LOGIN_WINDOW_S
    found = tuple(at for at in times if at // 1000 > opens_s)[-KEPT_MAX:]
    is_raised = in_burst(found) and not in_burst(known)
    return found, found if is_raised else None


def in_burst(known: Failures) -> bool:
    """Return whether the newest failure found more than the limit."""
    return len(known) > LOGIN_FAILURES_MAX


def is_over(known: Failures, time_ms: int) -> bool:
    """Return True if no failure at ``time_ms`` or later can find any of these: forget them."""
    return not known or time_ms // 1000 - known[-1] // 1000 >= LOGIN_WINDOW_S


def alert_of(user_id: str, raised_by: Failures) -> LoginAlert:
    """Return the alert that failures raise."""
    times = [iso_ms(at) for at in raised_by]
    return LoginAlert(user_id=user_id, time=times[-1], failures=len(times), times=times)
