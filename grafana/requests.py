"""*Requests*: one by its id, the slowest ones, and errors by service."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board, chosen, typed
from footfall.grafana.newest import newest
from footfall.grafana.panels import ORANGE, RED, Panel, lines, number, rows
from footfall.grafana.queries import SQL
from footfall.schemas.tables.service_health import anomalies_in

PER_MINUTE = "($__interval_s / 60)"
SHOWN = "$__timeFilter(minute) AND $__conditionalAll(server IN ($server), $server)"
TRACE_URL = "/d/footfall-requests?${__url_time_range}&var-request=${__value.raw}"
USER_URL = "/d/footfall-customers?${__url_time_range}&var-user=${__value.raw}"
RECENT = """(SELECT * FROM service_health
    WHERE minute >= $__fromTime - INTERVAL 1 HOUR AND minute <= $__toTime)"""
"""The rows that the range's anomalies depend on: the view itself reads the whole table."""
ANOMALIES = f"""
    SELECT minute, server, operation, measure, value, expected
    FROM ({anomalies_in(RECENT)})
    WHERE {SHOWN} ORDER BY minute DESC, server, operation LIMIT 1000
"""
LINKS = {"request": ("Its trace", TRACE_URL), "user": ("What the user did", USER_URL)}


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return board(
        "footfall-requests",
        "Requests",
        "What the shop's services answer: errors, durations, and single requests, by event time.",
        [
            ("", [newest("footfall-requests", "minute", "service_health_rows"), *_totals()]),
            ("By service", _by_service()),
            ("Requests that failed, and slow ones", _requests()),
            ("One request", _trace()),
        ],
        refresh="1m",
        variables=[
            chosen(
                "server",
                "Service",
                SQL("SELECT DISTINCT server FROM service_health_rows ORDER BY server"),
                several=True,
            ),
            typed("request", "Request", "Id of a request; empty: the newest that failed"),
        ],
    )


def _total(title: str, about: str, of: str, unit: str = "short", **more: object) -> Panel:
    query = SQL(f"SELECT {of} AS value FROM service_health_rows AS r FINAL WHERE {SHOWN}", True)
    return number(title, about, query, unit=unit, **more)  # type: ignore[arg-type]


def _totals() -> list[Panel]:
    return [
        _total(
            "Served",
            "Requests in the range, each once for every service that it passed.",
            "sum(r.requests)",
        ),
        _total(
            "Errors",
            "Share of them that failed at the service.",
            "sum(r.errors) / sum(r.requests)",
            unit="percentunit",
            decimals=2,
            steps={0.02: ORANGE, 0.1: RED},
            runbook="",
        ),
        _total(
            "Median",
            "Half of them took no longer at the service.",
            "quantileExactArray(0.5)(r.durations_ms)",
            unit="ms",
            width=3,
        ),
        _total(
            "99th percentile",
            "One in a hundred took longer at the service.",
            "quantileExactArray(0.99)(r.durations_ms)",
            unit="ms",
            width=3,
        ),
        number(
            "Anomalies",
            "Minutes of a service and operation that were unlike the hour before.",
            SQL(f"SELECT count() AS value FROM ({ANOMALIES})", True),
            steps={1: ORANGE},
            runbook="",
        ),
    ]


def _by_service() -> list[Panel]:
    def of(figure: str) -> SQL:
        return SQL(f"""
            SELECT $__timeInterval(minute) AS time, server, {figure} AS figure
            FROM service_health_rows AS r FINAL WHERE {SHOWN}
            GROUP BY time, server ORDER BY time
        """)

    named = "${__field.labels.server}"
    return [
        lines(
            "Errors per minute",
            "Requests that failed at each service.",
            of(f"sum(r.errors) / {PER_MINUTE}"),
            named=named,
            bars=True,
            stacked=True,
            interval="1m",
            runbook="",
        ),
        lines(
            "Share of errors",
            "Of the requests of each service.",
            of("sum(r.errors) / sum(r.requests)"),
            named=named,
            unit="percentunit",
            interval="1m",
            runbook="PaymentDegraded",
        ),
        lines(
            "Requests per minute",
            "Requests that each service answered.",
            of(f"sum(r.requests) / {PER_MINUTE}"),
            named=named,
            interval="1m",
        ),
        lines(
            "Duration, 95th percentile",
            "One in twenty took longer at the service.",
            of("quantileExactArray(0.95)(r.durations_ms)"),
            named=named,
            unit="ms",
            interval="1m",
            runbook="",
        ),
        rows(
            "Operations",
            "Requests, errors and durations of each operation at each service.",
            SQL(
                f"""
                SELECT server, operation, sum(r.requests) AS served,
                sum(r.errors) / sum(r.requests) AS errors,
                quantileExactArray(0.5)(r.durations_ms) AS median,
                quantileExactArray(0.95)(r.durations_ms) AS p95,
                quantileExactArray(0.99)(r.durations_ms) AS p99
                FROM service_health_rows AS r FINAL WHERE {SHOWN}
                GROUP BY server, operation ORDER BY served DESC
                """,
                True,
            ),
            units={"errors": "percentunit", "median": "ms", "p95": "ms", "p99": "ms"},
            steps={"errors": {0.02: ORANGE, 0.1: RED}},
        ),
        rows(
            "Anomalies",
            "Minutes whose share of errors, or median duration in ms, is far from that of the "
            "hour before.",
            SQL(ANOMALIES, True),
            widths={"minute": 150, "server": 80, "measure": 70},
            runbook="PaymentDegraded",
        ),
    ]


def _requests() -> list[Panel]:
    # The table is sorted by request: the few that matter are found without FINAL, which is fast,
    # and their outcomes are read with it.
    def of(condition: str, order: str) -> SQL:
        return SQL(
            f"""
            SELECT started, request_id AS request, user_id AS user, operation, outcome, missing,
            duration_ms AS took, hops, arrayStringConcat(servers, ' > ') AS servers
            FROM request_summary WHERE $__timeFilter(started) AND {condition} AND request_id IN (
            SELECT request_id FROM request_summary_rows
            WHERE $__timeFilter(started) AND {condition} ORDER BY {order} DESC LIMIT 200)
            ORDER BY {order.replace("duration_ms", "took")} DESC LIMIT 50
            """,
            True,
        )

    return [
        rows(
            "Failed and incomplete requests",
            "The newest ones. An incomplete one lacks a step, which is named. Click a request to "
            "see its steps below.",
            of("outcome != 'ok'", "started"),
            units={"took": "ms"},
            links=LINKS,
            widths={"started": 170, "took": 80, "hops": 60, "outcome": 100, "user": 90},
            runbook="",
            width=24,
            height=10,
        ),
        rows(
            "Slowest requests",
            "From the first step to the last one. Click a request to see its steps below.",
            of("duration_ms > 0", "duration_ms"),
            units={"took": "ms"},
            links=LINKS,
            widths={"started": 170, "took": 80, "hops": 60, "outcome": 100, "user": 90},
            width=24,
            height=10,
        ),
    ]


def _trace() -> list[Panel]:
    request = "${request:sqlstring}"
    newest = """
        SELECT argMax(request_id, started) FROM request_summary WHERE outcome != 'ok'
        AND request_id IN (SELECT request_id FROM request_summary_rows
        WHERE $__timeFilter(started) AND outcome != 'ok' ORDER BY started DESC LIMIT 100)
    """
    return [
        rows(
            "Steps of a request",
            "Every step that services logged of the request above.",
            SQL(
                f"""
                SELECT request_id AS request,
                dateDiff('millisecond', min(time) OVER (), time) AS "after", server, log,
                status, error,
                toUInt8(failed) AS failed, user_id AS user, time
                FROM request_trace
                WHERE request_id = if({request} != '', {request}, ({newest}))
                ORDER BY time LIMIT 500
                """,
                True,
            ),
            units={"after": "ms", "failed": "bool_yes_no"},
            steps={"failed": {1: RED}},
            links={"user": LINKS["user"]},
            widths={"after": 90, "failed": 80, "time": 190},
            width=24,
            height=12,
        )
    ]
