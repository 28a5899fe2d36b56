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
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows import FlowContract
from flows._replay import Replayable, windows
from flows._wiring import letters, store_metrics_replay, store_metrics_table
from schemas.settings import Settings, read_settings
from schemas.store_events import StoreEvent
from schemas.tables.store_metrics import SUMS
from schemas.topics import STORE_EVENTS, STORE_METRICS_AVAILABLE
from streams.batch import Poll
from streams.columns import cents, text
from streams.decode import Records
from streams.engine import Outputs, WindowStep, dataflow
from streams.open import open_source
from streams.progress import Progress
from streams.runner import Run
from streams.tumbling import EVENTS, VERSION, WINDOW, Tumbling

CONTRACT = FlowContract(
    name="store_metrics",
    about="items viewed, put in the cart and sold, and their value, in each window",
    reads=(STORE_EVENTS.name,),
    writes=("PostgreSQL events", f"topic {STORE_METRICS_AVAILABLE.name}"),
    snapshot_every_s=1.0,
)

ROWS_OF_STORE = Records(
    StoreEvent,
    time="event_time",
    columns={
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


def build(
    source: Source[Poll],
    outputs: Outputs,
    progress: Progress | None = None,
    *,
    window_s: float = 1.0,
) -> Dataflow:
    """Wire the flow between a source and its sinks."""
    spec = windows_of(window_s)
    finish = partial(metrics, size_ms=spec.size_ms)

    def step(partition: int, snapshot: bytes | None) -> WindowStep:
        return WindowStep(CONTRACT.name, spec, finish, partition, snapshot)

    return dataflow(CONTRACT.name, source, ROWS_OF_STORE, step, outputs, progress=progress)


def wire(settings: Settings, run: Run) -> Dataflow:
    """Return the flow on the servers that the settings name."""
    source = open_source(settings, settings.kafka_topic or STORE_EVENTS.name, CONTRACT.name, run)
    outputs = Outputs(store_metrics_table(settings, run.progress), *letters(settings))
    window_s = settings.producer_data_sec_per_real_sec
    return build(source, outputs, run.progress, window_s=window_s)


def replay(settings: Settings) -> tuple[Replayable, ...]:
    """Return what replays a range of event time."""
    spec = windows_of(settings.producer_data_sec_per_real_sec)
    return windows(
        CONTRACT.name,
        settings.kafka_topic or STORE_EVENTS.name,
        ROWS_OF_STORE,
        spec,
        partial(metrics, size_ms=spec.size_ms),
        start="start_event_time",
        sums={EVENTS: SUMS[0], **{name: name for name in SUMS[1:]}},
        target=partial(store_metrics_replay, settings),
    )


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.store_metrics:main()"``."""
    return wire(read_settings(), Run())
