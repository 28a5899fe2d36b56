"""``login_alerts``: a user's failed logins passed the limit."""

from __future__ import annotations

from msgspec import Struct


class LoginAlert(Struct, frozen=True):
    """One record of the topic: one a burst, raised by the failure that passed the limit."""

    user_id: str
    """Normal form: text."""
    time: str
    """Of that failure, ISO 8601 in UTC with milliseconds."""
    failures: int
    """How many there were in the window then; LOGIN_FAILURES_MAX + 1 in order of time."""
    times: list[str]
    """Of each of them, oldest first."""
