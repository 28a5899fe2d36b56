"""Metrics of the generator for Prometheus: records that topics have acknowledged, and errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.registry import Collector

from footfall.generator.sources import Record, TopicWriter
from footfall.schemas import metrics


class CountedWriter(Collector):
    """A TopicWriter that counts what goes through it, by topic."""

    def __init__(self, writer: TopicWriter) -> None:
        # The library would add a series of creation times for each counter, which nothing reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._writer = writer
        self._registry = CollectorRegistry()
        self._records = metrics.GENERATOR_RECORDS.counter(self._registry)
        self._errors = metrics.GENERATOR_ERRORS.counter(self._registry)

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Write records; raises what the writer raises."""
        # The series is there from the first write: an error that comes with its series has no
        # rate.
        errors = self._errors.labels(topic)
        try:
            self._writer.write(topic, records)
        except Exception:
            errors.inc()
            raise
        self._records.labels(topic).inc(len(records))

    def collect(self) -> Iterable[Any]:
        """Return the metrics as they are now."""
        return self._registry.collect()
