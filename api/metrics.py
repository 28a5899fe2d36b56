"""What the HTTP side counts of itself, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from schemas import api_metrics as names

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0, 60.0)


class ApiMetrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            names.REQUESTS, "Requests answered", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            names.REQUEST_SECONDS,
            "Seconds from the request's head to its answer",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.records_written = Counter(
            names.RECORDS_WRITTEN,
            "Records acknowledged to a client",
            ["topic"],
            registry=self.registry,
        )
        self.records_waiting = Gauge(
            names.RECORDS_WAITING, "Records waiting for their commit", registry=self.registry
        )
        self.answer_differences = Counter(
            names.ANSWER_DIFFERENCES,
            "Differences between debug answers and what was expected",
            ["route"],
            registry=self.registry,
        )

    def exposition(self) -> tuple[bytes, bytes]:
        """(text, content type) of all metrics."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST.encode()
