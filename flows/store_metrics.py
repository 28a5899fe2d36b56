"""Items that a shop's customers view, put in the cart and buy, in windows of a few seconds.

Reads    store_events         JSON StoreEvent, keyed by user_id
Writes   events               PostgreSQL, one row per window, corrected in place
         store_metrics_available   a notice after each row that was written
Time     event time; windows of PRODUCER_DATA_SEC_PER_REAL_SEC seconds, so that a replay at
         that speed gives one row per real second; the watermark trails by 5 s (or a window);
         corrected for 10 min (or 10 windows) after
Replay   rows are upserts: reading the same events again changes nothing; `footfall replay`
         writes the windows of a range again
"""

from __future__ import annotations

from functools import partial

import polars as pl

from footfall.flows import (
    EVENTS,
    VERSION,
    WINDOW,
    Flow,
    Messages,
    Reading,
    Records,
    Settings,
    SqlRollup,
    Tumbling,
    cents,
    text,
    windows,
)
from footfall.schemas.dead_letters import StoreMetricsAvailable
from footfall.schemas.tables.store_metrics import ROLLUP, SUMS
from footfall.schemas.topics import STORE_EVENTS, STORE_METRICS_AVAILABLE

ROWS_OF_STORE = Records.of(
    STORE_EVENTS,
    {
        "event_type": text(lambda events: [event.event_type for event in events]),
        "price_cents": cents(lambda events: [event.price for event in events]),
    },
)

_is_sale = pl.col("event_type") == "purchase"

_SUMS = {
    "nr_items_viewed": pl.col("event_type") == "view",
    "nr_items_put_in_cart": pl.col("event_type") == "cart",
    "nr_items_sold": _is_sale,
    "value_items_sold_in_cent": pl.col("price_cents") * _is_sale,
}


def windows_of(size_s: float) -> Tumbling:
    """Return windows of ``size_s`` seconds of event time."""
    size_ms = max(1, round(size_s * 1000))
    return Tumbling(
        size_ms=size_ms,
        delay_ms=max(5_000, size_ms),
        lateness_ms=max(600_000, 10 * size_ms),
        by=(),
        sums=_SUMS,
    )


def metrics(found: pl.DataFrame, partition: int, size_ms: int) -> pl.DataFrame:
    """Return rows of ``events_by_partition`` from the windows of one partition."""
    moment = pl.Datetime("ms", "UTC")
    return found.select(
        pl.col(WINDOW).cast(moment).alias("start_event_time"),
        (pl.col(WINDOW) + size_ms).cast(moment).alias("end_event_time"),
        pl.lit(partition, dtype=pl.Int64).alias("topic_partition"),
        pl.col(EVENTS).alias("nr_of_events"),
        *SUMS[1:],
        VERSION,
    )


def reading(settings: Settings) -> Reading:
    """Return what the flow does with store events: windows of the length that is set."""
    spec = windows_of(settings.producer_data_sec_per_real_sec)
    return Reading(ROWS_OF_STORE, windows(spec, partial(metrics, size_ms=spec.size_ms)))


FLOW = Flow(
    name="store_metrics",
    about="items viewed, put in the cart and sold, and their value, in each window",
    reads={STORE_EVENTS: reading},
    writes=SqlRollup(ROLLUP, notices=Messages(STORE_METRICS_AVAILABLE, StoreMetricsAvailable.of)),
    snapshot_every_s=1.0,
)
main = FLOW.main
