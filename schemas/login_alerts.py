"""``login_alerts``: a user's failed logins passed the limit."""

from __future__ import annotations

from msgspec import Struct


class LoginAlert(Struct, frozen=True):
    """One record of the topic, one per burst, raised by the failure that passed the limit."""

    user_id: str
    """Normal form of the id: text."""
    time: str
    """Time of that failure, ISO 8601 in UTC with milliseconds."""
    failures: int
    """Number of failures in the window then; LOGIN_FAILURES_MAX + 1 in order of time."""
    times: list[str]
    """Times of these failures, oldest first."""
