"""Prometheus metrics of the embedded ClickHouse."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect

from footfall.infra._clickhouse_errors import Code, EngineError
from footfall.schemas import metrics

_REFUSED = {
    Code.AUTHENTICATION_FAILED,
    Code.TOO_MANY_SIMULTANEOUS_QUERIES,
}
"""Codes of queries that were not let in."""


class ClickHouseMetrics(Collector):
    """One server's metrics, collected as they are at that moment."""

    def __init__(self) -> None:
        # These would be one more series per metric, which nothing reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._queries = metrics.CLICKHOUSE_QUERIES.counter(self._registry)
        self._seconds = metrics.CLICKHOUSE_QUERY_SECONDS.histogram(self._registry)
        self._rows = metrics.CLICKHOUSE_ROWS_INSERTED.counter(self._registry)
        self._connections = metrics.CLICKHOUSE_CONNECTIONS_REFUSED.counter(self._registry)
        # Every outcome from the first scrape on: a counter that comes with a value has no rate.
        for outcome in metrics.QUERY_OUTCOMES:
            self._queries.labels(outcome)

    def collect(self) -> Iterable[Any]:
        """Return the metrics as they are now."""
        return self._registry.collect()

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query, by how it ends."""
        began_s, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "ok"
        except ClientDisconnect:
            outcome = "gone"
            raise
        except EngineError as error:
            outcome = "refused" if error.code in _REFUSED else "failed"
            raise
        finally:
            self._queries.labels(outcome).inc()
            if outcome != "refused":
                self._seconds.observe(time.perf_counter() - began_s)

    def turned_away(self) -> None:
        """Count a query that was refused at the door."""
        self._queries.labels("refused").inc()

    def inserted(self, rows: int) -> None:
        """Count rows that are durable."""
        self._rows.inc(rows)

    def refused(self) -> None:
        """Count a connection that was refused, or ended to make room for others."""
        self._connections.inc()
