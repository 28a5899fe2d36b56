"""*Api*: how fast the HTTP side answers, what fails, and what it takes in."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board, chosen
from footfall.grafana.panels import ORANGE, RED, Panel, lines, number, rows
from footfall.grafana.queries import PromQL, quantile, rate

ROUTES = 'route=~"$route", route!~"/(metrics|healthz|readyz)"'
"""Routes without those of monitoring, which would hide the requests of clients."""
REQUESTS = f"footfall_api_requests_total{{{ROUTES}}}"
FAILED = f'footfall_api_requests_total{{{ROUTES}, status=~"5.."}}'
BUCKETS = f"footfall_api_request_seconds_bucket{{{ROUTES}}}"
WITHIN = f'footfall_api_request_seconds_bucket{{{ROUTES}, le="0.2"}}'
COUNTED = f"footfall_api_request_seconds_count{{{ROUTES}}}"


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return board(
        "footfall-api",
        "Api",
        "The HTTP side: requests, errors and durations by route, and records taken in.",
        [("", [*_totals(), *_requests()]), ("Durations", _durations()), ("Records", _records())],
        variables=[
            chosen(
                "route",
                "Route",
                PromQL("label_values(footfall_api_requests_total, route)"),
                several=True,
            )
        ],
    )


def _totals() -> list[Panel]:
    return [
        number(
            "Requests per second",
            "Answered requests of the chosen routes, without those of monitoring.",
            PromQL(rate(REQUESTS)),
            unit="reqps",
        ),
        number(
            "Errors",
            "Share of the answers that are 5xx: the api's own fault.",
            PromQL(f"({rate(FAILED)} or vector(0)) / ({rate(REQUESTS)} > 0)"),
            unit="percentunit",
            decimals=2,
            steps={0.001: ORANGE, 0.01: RED},
            runbook="ApiErrorBudgetBurn",
        ),
        number(
            "Within 200 ms",
            "Share of the requests that were answered within the budget of 200 ms.",
            PromQL(f"{rate(WITHIN)} / ({rate(COUNTED)} > 0)"),
            unit="percentunit",
            decimals=2,
            steps={0: RED, 0.95: ORANGE, 0.99: "green"},
            runbook="ApiLatencyBudgetBurn",
        ),
        number(
            "99th percentile",
            "One request in a hundred takes longer.",
            PromQL(quantile(0.99, BUCKETS)),
            unit="s",
            steps={0.2: ORANGE, 1: RED},
            runbook="ApiLatencyBudgetBurn",
        ),
        number(
            "Records acknowledged",
            "Records that the api made durable in topics.",
            PromQL(rate("footfall_api_records_written_total")),
            unit="cps",
        ),
        number(
            "Records that wait",
            "Records that wait for the commit that stores them.",
            PromQL("sum(footfall_api_records_waiting)"),
            steps={1_000: ORANGE, 10_000: RED},
        ),
    ]


def _requests() -> list[Panel]:
    return [
        lines(
            "Requests by route",
            "Answered requests per second.",
            PromQL(rate(REQUESTS, "route"), "{{route}}"),
            unit="reqps",
        ),
        lines(
            "Answers by status",
            "Answers per second. 4xx is what clients did wrong, 5xx is the api's own fault.",
            PromQL(rate(REQUESTS, "status"), "{{status}}"),
            unit="reqps",
            runbook="ApiErrorBudgetBurn",
        ),
    ]


def _durations() -> list[Panel]:
    return [
        lines(
            "Duration",
            "From a request's head to its answer: half, 95 % and 99 % took no longer.",
            PromQL(quantile(0.5, BUCKETS), "median"),
            PromQL(quantile(0.95, BUCKETS), "95 %"),
            PromQL(quantile(0.99, BUCKETS), "99 %"),
            unit="s",
            steps={0.2: RED},
            runbook="ApiLatencyBudgetBurn",
        ),
        lines(
            "Duration by route, 99th percentile",
            "One request in a hundred takes longer.",
            PromQL(quantile(0.99, BUCKETS, "route"), "{{route}}"),
            unit="s",
            steps={0.2: RED},
            runbook="ApiLatencyBudgetBurn",
        ),
        rows(
            "Routes",
            "Requests since the api began, and durations of the last minutes.",
            PromQL(f"sum by (route) ({REQUESTS})", is_table=True),
            PromQL(rate(REQUESTS, "route"), is_table=True),
            PromQL(quantile(0.5, BUCKETS, "route"), is_table=True),
            PromQL(quantile(0.99, BUCKETS, "route"), is_table=True),
            columns={
                "route": "Route", "A": "Requests", "B": "Requests/s", "C": "Median", "D": "99 %",
            },
            units={"Requests": "short", "Requests/s": "short", "Median": "s", "99 %": "s"},
            steps={"99 %": {0.2: ORANGE, 1: RED}},
            width=24,
        ),
    ]  # fmt: skip


def _records() -> list[Panel]:
    return [
        lines(
            "Records acknowledged",
            "Records per second that were made durable, by topic.",
            PromQL(
                rate("footfall_api_records_written_total", "topic"),
                "{{topic}}",
            ),
            unit="cps",
        ),
        lines(
            "Records that wait",
            "Records that wait for the commit that stores them.",
            PromQL("sum(footfall_api_records_waiting)", "waiting"),
            width=6,
        ),
        lines(
            "Answers that differ",
            "Differences between answers and what a client expected (FOOTFALL_DEBUG_ANSWERS=1).",
            PromQL(
                f"{rate('footfall_api_answer_differences_total', 'route')} or on () vector(0)",
                "{{route}}",
            ),
            unit="cps",
            width=6,
        ),
    ]
