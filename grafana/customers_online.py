"""*Customers online*: sessions, logins, failures and bursts of them."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board, typed
from footfall.grafana.newest import newest
from footfall.grafana.panels import ORANGE, Panel, lines, number, rows
from footfall.grafana.queries import SQL

PER_MINUTE = "($__interval_s / 60)"
USER_URL = "/d/footfall-customers?${__url_time_range}&var-user=${__value.raw}"
BURSTS = """
    SELECT user_id AS user, max(within) AS "failures in 30 s",
    min(time) AS first, max(time) AS last
    FROM (
    SELECT user_id, time, count() OVER (
    PARTITION BY user_id ORDER BY toUnixTimestamp64Milli(time)
    RANGE BETWEEN 30000 PRECEDING AND CURRENT ROW) AS within
    FROM failed_login WHERE $__timeFilter(time))
    WHERE within > 3 GROUP BY user ORDER BY last DESC LIMIT 100
"""


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return board(
        "footfall-customers",
        "Customers online",
        "Who is online, for how long, and whose logins fail, by event time.",
        [
            ("", [newest("footfall-customers", "time", "failed_login_rows"), *_totals()]),
            ("By minute", _by_minute()),
            ("Sessions", _sessions()),
            ("One user", _user()),
        ],
        refresh="1m",
        variables=[typed("user", "User", "Id of a user; empty: the newest whose login failed")],
    )


def _totals() -> list[Panel]:
    def total(title: str, about: str, sql: str, unit: str = "short", **more: object) -> Panel:
        return number(title, about, SQL(sql, True), unit=unit, **more)  # type: ignore[arg-type]

    return [
        total(
            "Online",
            "Most users online in one of the range's last five minutes: the last is not whole.",
            "SELECT max(last) AS value FROM (SELECT o.online AS last FROM online_users_per_minute"
            " AS o WHERE $__timeFilter(minute) ORDER BY minute DESC LIMIT 5)",
            width=3,
        ),
        total(
            "Came online",
            "Logins in the range that brought a user online.",
            "SELECT count() AS value FROM online_user WHERE $__timeFilter(time)",
            width=3,
        ),
        total(
            "Failed logins",
            "Logins in the range that failed.",
            "SELECT count() AS value FROM failed_login WHERE $__timeFilter(time)",
            width=3,
            runbook="LoginAttack",
        ),
        total(
            "Users with a burst",
            "Users with more than 3 failed logins within 30 s, for which an alert is raised.",
            f"SELECT count() AS value FROM ({BURSTS})",
            steps={1: ORANGE},
            width=4,
            runbook="LoginAttack",
        ),
        total(
            "Session, median",
            "Half of the sessions that began in the range, and have ended, were no longer.",
            "SELECT quantile(0.5)(spent_s) AS value FROM users_spend_time_online"
            " WHERE $__timeFilter(login)",
            unit="s",
            width=5,
        ),
    ]


def _by_minute() -> list[Panel]:
    return [
        lines(
            "Users online and active",
            "Online: between login and the session's end. Active: with a record in the minute. "
            "The last minutes lack partitions that have not come so far.",
            SQL("""
                SELECT $__timeInterval(minute) AS time, max(o.online) AS online,
                max(o.active) AS active
                FROM online_users_per_minute AS o WHERE $__timeFilter(minute)
                GROUP BY time ORDER BY time
            """),
            interval="1m",
            colours={"online": "blue", "active": "green"},
        ),
        lines(
            "Logins per minute",
            "Logins that brought a user online, and logins that failed.",
            SQL(f"""
                SELECT time, sum(came) / {PER_MINUTE} AS "came online",
                sum(failed) / {PER_MINUTE} AS failed
                FROM (
                SELECT $__timeInterval(o.time) AS time, 1 AS came, 0 AS failed
                FROM online_user AS o WHERE $__timeFilter(o.time)
                UNION ALL SELECT $__timeInterval(f.time) AS time, 0 AS came, 1 AS failed
                FROM failed_login AS f WHERE $__timeFilter(f.time)
                )
                GROUP BY time ORDER BY time
            """),
            bars=True,
            stacked=True,
            interval="1m",
            colours={"came online": "green", "failed": "red"},
            runbook="LoginAttack",
        ),
        rows(
            "Bursts of failed logins",
            "Users with more than 3 failed logins within 30 s. Click one to see all steps.",
            SQL(BURSTS, True),
            links={"user": ("What the user did", USER_URL)},
            runbook="LoginAttack",
        ),
        rows(
            "Most failed logins",
            "Users whose logins failed most often in the range.",
            SQL(
                """
                SELECT user_id AS user, sum(f.failures) AS failures, count() AS minutes
                FROM failed_logins_per_minute AS f WHERE $__timeFilter(minute)
                GROUP BY user ORDER BY failures DESC, user LIMIT 20
                """,
                True,
            ),
            links={"user": ("What the user did", USER_URL)},
            bars=["failures"],
        ),
    ]


def _sessions() -> list[Panel]:
    return [
        lines(
            "Sessions by how they ended",
            "Sessions by the minute in which they began. Those that still go on are not there.",
            SQL(f"""
                SELECT $__timeInterval(login) AS time, ended_by, count() / {PER_MINUTE} AS sessions
                FROM users_spend_time_online WHERE $__timeFilter(login)
                GROUP BY time, ended_by ORDER BY time
            """),
            named="${__field.labels.ended_by}",
            bars=True,
            stacked=True,
            interval="1m",
        ),
        rows(
            "How long sessions are",
            "Of customers (platform_logs), and of their behaviour in the shop (shop_events).",
            SQL(
                """
                SELECT source, ended_by AS "ended by", count() AS sessions,
                quantile(0.5)(spent_s) AS median, quantile(0.95)(spent_s) AS p95
                FROM sessions_rows FINAL WHERE $__timeFilter(login)
                GROUP BY source, ended_by ORDER BY source, sessions DESC
                """,
                True,
            ),
            units={"median": "s", "p95": "s"},
        ),
    ]


def _user() -> list[Panel]:
    user = "${user:sqlstring}"
    return [
        rows(
            "What a user did",
            "The newest 200 steps that services logged for the user above.",
            SQL(
                f"""
                SELECT time, user_id AS user, server, log, request_id AS request
                FROM user_trace WHERE $__timeFilter(time) AND user_id = if({user} != '', {user},
                (SELECT argMax(user_id, time) FROM failed_login WHERE $__timeFilter(time)))
                ORDER BY time DESC LIMIT 200
                """,
                True,
            ),
            links={
                "request": (
                    "Its trace",
                    "/d/footfall-requests?${__url_time_range}&var-request=${__value.raw}",
                )
            },
            width=24,
            height=10,
        )
    ]
