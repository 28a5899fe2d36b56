"""Prometheus metrics of the HTTP side."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from footfall.schemas import metrics


class ApiMetrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        # These would be one more series per metric, which nothing reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = metrics.API_REQUESTS.counter(self.registry)
        self.request_seconds = metrics.API_REQUEST_SECONDS.histogram(self.registry)
        self.records_written = metrics.API_RECORDS_WRITTEN.counter(self.registry)
        self.records_waiting = metrics.API_RECORDS_WAITING.gauge(self.registry)
        self.answer_differences = metrics.API_ANSWER_DIFFERENCES.counter(self.registry)

    def totals(self) -> dict[str, int]:
        """Return what was counted so far: requests, those that failed, records written."""
        found = {"requests": 0, "failed": 0, "records": 0}
        for family in (*self.requests.collect(), *self.records_written.collect()):
            for one in family.samples:
                if one.name == metrics.API_RECORDS_WRITTEN.exposed:
                    found["records"] += int(one.value)
                elif one.name == metrics.API_REQUESTS.exposed:
                    found["requests"] += int(one.value)
                    found["failed"] += int(one.value) if one.labels["status"] >= "500" else 0
        return found

    def exposition(self) -> tuple[bytes, bytes]:
        """Return (text, content type) of all metrics."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST.encode()
