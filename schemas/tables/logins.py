"""``failed_login``: each failed login, and the number of a user's in each minute."""

from __future__ import annotations

from footfall.schemas.tables.clickhouse import View
from footfall.schemas.tables.raw import raw_table, raw_view

FAILED_LOGIN = raw_table(
    "failed_login",
    {"user_id": "String", "time": "DateTime64(3, 'UTC')", "request_id": "String"},
    by=("time", "user_id"),
    time="time",
)
FAILED_LOGIN_VIEW = raw_view(FAILED_LOGIN)

# Failures are few: counting them at a query is cheaper than keeping counts, and no failure is too
# late for it.
FAILED_PER_MINUTE_VIEW = View(
    name="failed_logins_per_minute",
    select="""
        SELECT toStartOfMinute(r.time) AS minute, user_id, count() AS failures
        FROM failed_login_rows AS r FINAL
        GROUP BY minute, user_id
    """,
)
