"""Count and revenue of every (action, origin, brand, category) in each minute.

Reads    user_tags            JSON UserTag, keyed by cookie
Writes   minute_buckets       ClickHouse, one row per (minute, group, topic partition);
                              with AEROSPIKE_AGGREGATES in Aerospike as well
Time     event time; the watermark trails by 5 s; corrected for 10 min after
Replay   rows are upserts: reading the same events again changes nothing; `footfall replay`
         writes the minutes of a range again
"""

from __future__ import annotations

from functools import partial

import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows import FlowContract
from flows._replay import Replayable, windows
from flows._wiring import letters, minute_buckets, minute_buckets_replay
from schemas.settings import Settings, read_settings
from schemas.tables.minute_buckets import ROWS
from schemas.topics import USER_TAGS
from schemas.user_tags import UserTag
from streams.batch import Poll
from streams.columns import ident, integer, text
from streams.decode import Records
from streams.engine import Outputs, WindowStep, dataflow
from streams.open import open_source
from streams.progress import Progress
from streams.runner import Run
from streams.tumbling import EVENTS, VERSION, WINDOW, Tumbling

CONTRACT = FlowContract(
    name="minute_buckets",
    about="count and revenue of every (action, origin, brand, category) in each minute",
    reads=(USER_TAGS.name,),
    writes=("ClickHouse minute_buckets",),
    tables=(ROWS,),
    sink_keeps_state=True,
    snapshot_every_s=1.0,
)

TAGS = Records(
    UserTag,
    time="time",
    columns={
        "action": text(lambda tags: [tag.action for tag in tags]),
        "origin": text(lambda tags: [tag.origin for tag in tags]),
        "brand_id": ident(lambda tags: [tag.product_info.brand_id for tag in tags]),
        "category_id": ident(lambda tags: [tag.product_info.category_id for tag in tags]),
        "price": integer(lambda tags: [tag.product_info.price for tag in tags]),
    },
    bytes_max=USER_TAGS.record_bytes_max,
)

MINUTES = Tumbling(
    size_ms=60_000,
    delay_ms=5_000,
    lateness_ms=600_000,
    by=("action", "origin", "brand_id", "category_id"),
    sums={"sum_price": pl.col("price")},
)


def buckets(found: pl.DataFrame, partition: int) -> pl.DataFrame:
    """Return rows of ``minute_buckets_rows`` from the windows of one partition."""
    return found.select(
        pl.col(WINDOW).cast(pl.Datetime("ms", "UTC")).alias("bucket"),
        *MINUTES.by,
        pl.lit(partition, dtype=pl.UInt16).alias("topic_partition"),
        pl.col(EVENTS).cast(pl.UInt64).alias("count"),
        "sum_price",
        pl.col(VERSION).cast(pl.UInt64),
    )


def build(source: Source[Poll], outputs: Outputs, progress: Progress | None = None) -> Dataflow:
    """Wire the flow between a source and its sinks."""

    def step(partition: int, snapshot: bytes | None) -> WindowStep:
        return WindowStep(CONTRACT.name, MINUTES, buckets, partition, snapshot)

    return dataflow(CONTRACT.name, source, TAGS, step, outputs, progress=progress)


def wire(settings: Settings, run: Run) -> Dataflow:
    """Return the flow on the servers that the settings name."""
    source = open_source(settings, settings.kafka_topic or USER_TAGS.name, CONTRACT.name, run)
    rows = minute_buckets(settings, run, source.list_parts)
    return build(source, Outputs(rows, *letters(settings)), run.progress)


def replay(settings: Settings) -> tuple[Replayable, ...]:
    """Return what replays a range of event time."""
    return windows(
        CONTRACT.name,
        settings.kafka_topic or USER_TAGS.name,
        TAGS,
        MINUTES,
        buckets,
        start="bucket",
        sums={EVENTS: "count", "sum_price": "sum_price"},
        target=partial(minute_buckets_replay, settings),
    )


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.minute_buckets:main()"``."""
    return wire(read_settings(), Run())
