"""Every metric of the product, once: its name, kind, unit, labels, help and buckets.

Names and labels are a public interface: rules and dashboards name them. No label has a value
that grows with the shop: an id is never one. ``python -m footfall.schemas.metrics`` prints
docs/metrics.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from footfall.schemas.dead_letters import Code

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper ends of the buckets of all that takes seconds."""

DEAD_CODES: tuple[str, ...] = get_args(Code)
SINK_CODES = ("connection", "timeout", "server", "refused")
"""Why a write failed: no connection, no answer in time, an error that may pass, one that will
not."""
SINK_SERVERS = ("clickhouse", "postgresql", "aerospike", "kafka", "files", "sqlite")
"""Kinds of servers that are written to; files are embedded topics."""
QUERY_OUTCOMES = ("ok", "failed", "refused", "gone")
"""Outcomes of a query of the embedded ClickHouse; refused: password, host, too many at once; gone:
its client left."""
HELD_KINDS = (
    "events", "groups", "requests", "sessions", "steps", "users", "visits", "windows",
)  # fmt: skip
"""Kinds of what a flow holds in its state; a flow has some of them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A counter's name is exposed with ``_total`` behind it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS
    """Upper bounds of a histogram's buckets."""

    @property
    def exposed(self) -> str:
        """The name as Prometheus stores it; of a histogram without ``_bucket``, ``_sum``."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """The unit, which ends the name; "" where a number is counted."""
        last = self.name.rpartition("_")[2]
        return last if last in ("seconds", "bytes") else ""

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Return the counter itself, for a process that counts by it."""
        assert self.kind == "counter"
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Return the gauge itself."""
        assert self.kind == "gauge"
        return Gauge(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """Return the histogram itself."""
        assert self.kind == "histogram"
        return Histogram(
            self.name, self.help, self.labels, buckets=self.buckets, registry=registry
        )

    def family(self) -> Any:
        """Return an empty family, for a collector that fills it when it is scraped."""
        kinds = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        return kinds[self.kind](self.name, self.help, labels=self.labels)


_PLACE = ("flow", "topic", "partition")

RECORDS_READ = Metric(
    "footfall_records_read",
    "counter",
    "Records read since the process started: used + filtered + late + dead",
    _PLACE,
)
RECORDS_USED = Metric(
    "footfall_records_used", "counter", "Records that count in the flow's rows", _PLACE
)
RECORDS_FILTERED = Metric(
    "footfall_records_filtered", "counter", "Good records that the flow does not use", _PLACE
)
RECORDS_LATE = Metric(
    "footfall_records_late", "counter", "Late events, which were kept aside", _PLACE
)
RECORDS_DEAD = Metric(
    "footfall_records_dead", "counter", "Dead letters, by reason code", (*_PLACE, "reason")
)
READ_BYTES = Metric("footfall_read_bytes", "counter", "Bytes of the records read", _PLACE)
ROWS_WRITTEN = Metric(
    "footfall_rows_written",
    "counter",
    "Rows made durable, by table; written again after a crash, they count again",
    ("flow", "table"),
)
NEXT_OFFSET = Metric(
    "footfall_next_offset", "gauge", "Offset of the record that the worker reads next", _PLACE
)
WATERMARK = Metric(
    "footfall_watermark_timestamp_seconds",
    "gauge",
    "Event time before which no event is expected, in Unix time; missing before the first event",
    _PLACE,
)
STATE_BYTES = Metric(
    "footfall_state_bytes", "gauge", "Size of the partition's state at its last snapshot", _PLACE
)
STATE_ITEMS = Metric(
    "footfall_state_items",
    "gauge",
    "Open windows, sessions, requests and the like that are held, at the last snapshot",
    (*_PLACE, "kind"),
)
BATCH_SECONDS = Metric(
    "footfall_batch_seconds",
    "histogram",
    "From the begin of decoding a poll until its rows are given to the sinks",
    ("flow", "topic"),
)
DECODE_SECONDS = Metric(
    "footfall_decode_seconds", "histogram", "Decoding of a poll", ("flow", "topic")
)
COMPUTE_SECONDS = Metric(
    "footfall_compute_seconds", "histogram", "The step of a decoded poll", ("flow", "topic")
)
SNAPSHOT_SECONDS = Metric(
    "footfall_snapshot_seconds",
    "histogram",
    "Packing of a partition's state for the recovery store",
    ("flow", "topic"),
)
WRITE_SECONDS = Metric(
    "footfall_write_seconds",
    "histogram",
    "A write of rows until they are durable, tries included",
    ("flow",),
)
SINK_ERRORS = Metric(
    "footfall_sink_errors",
    "counter",
    "Attempts to write that failed, by server and code",
    ("flow", "server", "code"),
)
SINK_RETRIES = Metric(
    "footfall_sink_retries",
    "counter",
    "Attempts to write that were made again after one that failed",
    ("flow", "server"),
)
STARTS = Metric(
    "footfall_worker_starts",
    "counter",
    "Starts of this worker on its home, which are counted through restarts",
    ("flow", "worker"),
)
START_TIME = Metric(
    "footfall_worker_start_time_seconds",
    "gauge",
    "When the process of the worker began, in Unix time",
    ("flow", "worker"),
)
CPU_SECONDS = Metric(
    "footfall_worker_cpu_seconds", "counter", "CPU time of the process", ("flow", "worker")
)
MEMORY_BYTES = Metric(
    "footfall_worker_memory_bytes", "gauge", "Resident memory of the process", ("flow", "worker")
)

WORKER = (
    RECORDS_READ, RECORDS_USED, RECORDS_FILTERED, RECORDS_LATE, RECORDS_DEAD, READ_BYTES,
    ROWS_WRITTEN, NEXT_OFFSET, WATERMARK, STATE_BYTES, STATE_ITEMS, BATCH_SECONDS,
    DECODE_SECONDS, COMPUTE_SECONDS, SNAPSHOT_SECONDS, WRITE_SECONDS, SINK_ERRORS, SINK_RETRIES,
    STARTS, START_TIME, CPU_SECONDS, MEMORY_BYTES,
)  # fmt: skip
"""Metrics of a worker process, whichever engine runs it."""

LAG_RECORDS = Metric(
    "footfall_lag_records", "gauge", "Records of the topic that the flow has not read", _PLACE
)
LAG_SECONDS = Metric(
    "footfall_lag_seconds",
    "gauge",
    "Age of the oldest record that the flow has not read, by its append time; 0 where it has "
    "read all, missing where the record has no append time",
    _PLACE,
)
LOST_RECORDS = Metric(
    "footfall_lost_records",
    "gauge",
    "Records that retention removed before the flow read them",
    _PLACE,
)
RETENTION_MARGIN = Metric(
    "footfall_retention_margin_records",
    "gauge",
    "Records between the oldest one left and the next to read: retention removes them first",
    _PLACE,
)
WORKERS = Metric(
    "footfall_workers", "gauge", "Workers of the flow whose process runs and reports", ("flow",)
)
WORKERS_WANTED = Metric(
    "footfall_workers_wanted",
    "gauge",
    "Processes that the flow was last started with; 0 where it was run to its end",
    ("flow",),
)
STARTS_OBSERVED = Metric(
    "footfall_worker_starts_observed",
    "counter",
    "Starts of the worker since the observer first saw it, also those between two scrapes; one "
    "that follows a run to its end is not counted",
    ("flow", "worker"),
)
END_OFFSET = Metric(
    "footfall_topic_end_offset",
    "gauge",
    "Offset of the record that is appended next",
    ("topic", "partition"),
)
OLDEST_OFFSET = Metric(
    "footfall_topic_oldest_offset",
    "gauge",
    "Offset of the oldest record left",
    ("topic", "partition"),
)
LETTERS = Metric(
    "footfall_letters_records",
    "gauge",
    "Records that stand in the topics dead_letters and late_events",
    ("topic",),
)
OBSERVED = Metric(
    "footfall_observed_timestamp_seconds", "gauge", "When the observer last looked, in Unix time"
)
OBSERVER_ERRORS = Metric(
    "footfall_observer_errors", "counter", "Looks that failed: topics or home did not answer"
)
HOME_FREE = Metric(
    "footfall_home_free_bytes", "gauge", "Free space of the disk on which FOOTFALL_HOME lies"
)
HOME_SIZE = Metric(
    "footfall_home_size_bytes", "gauge", "Size of the disk on which FOOTFALL_HOME lies"
)

OBSERVER = (
    LAG_RECORDS, LAG_SECONDS, LOST_RECORDS, RETENTION_MARGIN, WORKERS, WORKERS_WANTED,
    STARTS_OBSERVED, END_OFFSET, OLDEST_OFFSET, LETTERS, OBSERVED, OBSERVER_ERRORS, HOME_FREE,
    HOME_SIZE,
)  # fmt: skip
"""Metrics of `footfall observe`, and of the api beside its own."""

FRESHNESS_ENDS_S = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
FRESHNESS = Metric(
    "footfall_freshness_seconds",
    "histogram",
    "Age of the newest record in a store when a reader first sees it there, by its append time; "
    "each flow is measured every half a minute or so while it has records",
    ("flow", "server"),
    FRESHNESS_ENDS_S,
)

STORES = (FRESHNESS,)
"""Metrics of the observer, as it reads the stores."""

_RANGE = ("range",)
SERVICE_REQUESTS = Metric(
    "footfall_service_requests",
    "gauge",
    "Requests that a service of the shop was asked, of service_health",
    ("server", *_RANGE),
)
SERVICE_ERRORS = Metric(
    "footfall_service_errors", "gauge", "Those of them that failed", ("server", *_RANGE)
)
SHOP_MINUTES = Metric(
    "footfall_shop_minutes", "gauge", "Whole minutes in which the shop had tags", _RANGE
)
SHOP_VIEWS = Metric("footfall_shop_views", "gauge", "VIEW tags, of minute_buckets", _RANGE)
SHOP_BUYS = Metric("footfall_shop_buys", "gauge", "BUY tags, of minute_buckets", _RANGE)
SHOP_REVENUE = Metric(
    "footfall_shop_revenue_cents", "gauge", "Prices of the BUY tags, of minute_buckets", _RANGE
)

SHOP = (
    SERVICE_REQUESTS, SERVICE_ERRORS, SHOP_MINUTES, SHOP_VIEWS, SHOP_BUYS, SHOP_REVENUE,
)  # fmt: skip
"""Metrics of the observer, as ClickHouse tells once a minute, in event time."""
RANGES = ("last", "before")
"""The last minutes that the watermark has passed, and the hour before them."""

API_REQUESTS = Metric("footfall_api_requests", "counter", "Requests answered", ("route", "status"))
API_REQUEST_SECONDS = Metric(
    "footfall_api_request_seconds",
    "histogram",
    "From the request's head to its answer",
    ("route",),
)
API_RECORDS_WRITTEN = Metric(
    "footfall_api_records_written", "counter", "Records acknowledged to a client", ("topic",)
)
API_RECORDS_WAITING = Metric(
    "footfall_api_records_waiting", "gauge", "Records that wait for the commit that stores them"
)
API_ANSWER_DIFFERENCES = Metric(
    "footfall_api_answer_differences",
    "counter",
    "Differences between debug answers and what was expected",
    ("route",),
)

API = (
    API_REQUESTS, API_REQUEST_SECONDS, API_RECORDS_WRITTEN, API_RECORDS_WAITING,
    API_ANSWER_DIFFERENCES,
)  # fmt: skip
"""Metrics of the HTTP side."""

CLICKHOUSE_QUERIES = Metric(
    "footfall_clickhouse_queries", "counter", "Queries, by how they ended", ("outcome",)
)
CLICKHOUSE_QUERY_SECONDS = Metric(
    "footfall_clickhouse_query_seconds",
    "histogram",
    "From the head of a query that was let in to its answer, waiting for its turn included",
)
CLICKHOUSE_ROWS_INSERTED = Metric(
    "footfall_clickhouse_rows_inserted", "counter", "Rows that queries have made durable"
)
CLICKHOUSE_CONNECTIONS_REFUSED = Metric(
    "footfall_clickhouse_connections_refused",
    "counter",
    "Connections that were ended as there were too many or they were too slow",
)

CLICKHOUSE = (
    CLICKHOUSE_QUERIES, CLICKHOUSE_QUERY_SECONDS, CLICKHOUSE_ROWS_INSERTED,
    CLICKHOUSE_CONNECTIONS_REFUSED,
)  # fmt: skip
"""Metrics of the embedded ClickHouse."""

GENERATOR_RECORDS = Metric(
    "footfall_generator_records", "counter", "Records sent and acknowledged", ("topic",)
)
GENERATOR_ERRORS = Metric(
    "footfall_generator_errors", "counter", "Writes that failed for good", ("topic",)
)

GENERATOR = (GENERATOR_RECORDS, GENERATOR_ERRORS)
"""Metrics of `footfall generate` into topics."""

_VALUES = {
    "`reason`": DEAD_CODES,
    "`code`": SINK_CODES,
    "`server`": SINK_SERVERS,
    "`outcome`": QUERY_OUTCOMES,
    "`kind`": HELD_KINDS,
    "`range`": RANGES,
}
_HEAD = """# Metrics

Written by `python -m footfall.schemas.metrics` from `schemas/metrics.py`; a test keeps it so.

Every process serves `/metrics`. Counters of a worker begin at 0 when its process starts, and read
= used + filtered + late + dead holds for them at every scrape. A target has the name of the worker
as its `instance`, whatever port it has, so that `rate()` sees a restart as a reset.
"""


def page() -> str:
    """Return the reference page."""
    parts = [_HEAD]
    for title, metrics in (
        ("A worker", WORKER),
        ("The observer (`footfall observe`, and the api)", OBSERVER),
        ("The stores, as the observer reads them", STORES),
        ("The shop, asked of ClickHouse by the observer", SHOP),
        ("The api", API),
        ("The embedded ClickHouse", CLICKHOUSE),
        ("The generator (`footfall generate` into topics)", GENERATOR),
    ):
        parts += [f"## {title}\n", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for one in metrics:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            parts.append(f"| `{one.exposed}` | {one.kind} | {labels} | {one.help} |")
        parts.append("")
    parts.append("## Values of labels\n")
    for label, values in _VALUES.items():
        parts.append(f"- {label}: {', '.join(f'`{value}`' for value in values)}")
    for of, ends in (("other histograms", SECONDS), (f"`{FRESHNESS.name}`", FRESHNESS_ENDS_S)):
        told = ", ".join(f"{end:g}" for end in ends)
        parts.append(f"- `le` of {of}: {told}, +Inf (seconds)")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
