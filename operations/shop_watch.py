"""Asks ClickHouse about the shop itself, for alerts: failures of services, revenue, conversion.

Both ranges are of event time and end at the flow's watermark, so that a minute that is not over is
in neither, whatever the clocks of a few users say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.registry import Collector

from footfall.operations.looking import Looking
from footfall.operations.positions import read_statuses
from footfall.schemas import metrics
from footfall.schemas.metrics import Metric
from footfall.schemas.settings import Settings
from footfall.sinks import SinkError
from footfall.sinks.clickhouse import ClickHouseReader

ASK_EVERY_S = 30.0
ANSWER_WITHIN_S = 10
KEPT_S = 120.0
"""Seconds for which the last answer is kept where a busy server does not answer in time."""
LAST_S, BEFORE_S = 300, 3_600
MINUTE_S = 60
_BOUNDS = """
    {0} >= toDateTime({{from_s:UInt32}}, 'UTC') AND {0} < toDateTime({{to_s:UInt32}}, 'UTC')
    GROUP BY {1} SETTINGS max_execution_time = 8, max_threads = 1
""".format
_RANGE = "if({} >= toDateTime({{last_s:UInt32}}, 'UTC'), 'last', 'before') AS range".format
SERVICES = (
    f"SELECT server, {_RANGE('minute')}, sum(requests), sum(errors) FROM service_health"
    f" WHERE {_BOUNDS('minute', 'server, range')}"
)
SALES = (
    f"SELECT {_RANGE('bucket')}, uniqExact(bucket), sumIf(count, action = 'VIEW'),"
    " sumIf(count, action = 'BUY'), sumIf(sum_price, action = 'BUY') FROM minute_buckets"
    f" WHERE {_BOUNDS('bucket', 'range')}"
)
ASKED: Mapping[str, tuple[str, tuple[Metric, ...]]] = {
    "service_health": (SERVICES, (metrics.SERVICE_REQUESTS, metrics.SERVICE_ERRORS)),
    "minute_buckets": (
        SALES,
        (metrics.SHOP_MINUTES, metrics.SHOP_VIEWS, metrics.SHOP_BUYS, metrics.SHOP_REVENUE),
    ),
}
"""The query and its metrics, by the flow that writes the table."""

Rows = list[list[Any]]


Figures = Mapping[Metric, list[tuple[tuple[str, ...], float]]]
"""The labels and values of the series of each metric."""


def figures(
    watermarks_ms: Mapping[str, int], ask: Callable[[str, Mapping[str, int]], Rows]
) -> Figures:
    """Return the figures of both ranges for each flow that has a watermark."""
    found: dict[Metric, list[tuple[tuple[str, ...], float]]] = {}
    for flow, (query, of_columns) in ASKED.items():
        if flow not in watermarks_ms:
            continue
        to_s = watermarks_ms[flow] // 1000 // MINUTE_S * MINUTE_S
        bounds = {"to_s": to_s, "last_s": max(0, to_s - LAST_S)}
        for row in ask(query, {**bounds, "from_s": max(0, to_s - LAST_S - BEFORE_S)}):
            labels, values = row[: -len(of_columns)], row[-len(of_columns) :]
            for metric, value in zip(of_columns, values, strict=True):
                found.setdefault(metric, []).append((tuple(labels), value))
    return found


class ShopWatch(Collector):
    """A collector of ClickHouse's last answers; it gives nothing where the last one is too old."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.footfall_home
        self._reader = ClickHouseReader(
            settings.clickhouse_url, home=self._home, answer_timeout_s=ANSWER_WITHIN_S
        )
        self._answered_s = 0.0
        self.looking = Looking("shop", self._ask, ASK_EVERY_S)

    def _ask(self) -> Figures:
        marks: dict[str, list[int]] = {}
        for status in read_statuses(self._home):
            of_flow = marks.setdefault(status.flow, [])
            of_flow += [part.watermark_ms for part in status.partitions if part.watermark_ms >= 0]
        lowest = {flow: min(of_flow) for flow, of_flow in marks.items() if of_flow}
        try:
            found = figures(lowest, lambda query, bounds: self._reader.rows(query, bounds)[1])
        except SinkError:
            # A server that is away is reported by the workers' metrics.
            is_news = time.monotonic() - self._answered_s < KEPT_S
            return self.looking.last or {} if is_news else {}
        self._answered_s = time.monotonic()
        return found

    def collect(self) -> Iterator[Any]:
        told = self.looking.last or {}
        for metric in metrics.SHOP:
            family = metric.family()
            for labels, value in told.get(metric, ()):
                family.add_metric(labels, value)
            yield family
