"""Count and revenue of every (action, origin, brand, category) in each minute.

Reads    user_tags            JSON UserTag, keyed by cookie
Writes   minute_buckets       ClickHouse, one row per (minute, group, topic partition);
                              with AEROSPIKE_AGGREGATES in Aerospike as well
Time     event time; the watermark trails by 5 s; corrected for 10 min after
Replay   rows are upserts: reading the same events again changes nothing; `footfall replay`
         writes the minutes of a range again
"""

from __future__ import annotations

import polars as pl

from footfall.flows import (
    EVENTS,
    VERSION,
    WINDOW,
    Flow,
    MinuteBuckets,
    Reading,
    Records,
    Tumbling,
    ident,
    integer,
    text,
    windows,
)
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.topics import USER_TAGS

TAGS = Records.of(
    USER_TAGS,
    {
        "action": text(lambda tags: [tag.action for tag in tags]),
        "origin": text(lambda tags: [tag.origin for tag in tags]),
        "brand_id": ident(lambda tags: [tag.product_info.brand_id for tag in tags]),
        "category_id": ident(lambda tags: [tag.product_info.category_id for tag in tags]),
        "price": integer(lambda tags: [tag.product_info.price for tag in tags]),
    },
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


FLOW = Flow(
    name="minute_buckets",
    about="count and revenue of every (action, origin, brand, category) in each minute",
    reads={USER_TAGS: Reading(TAGS, windows(MINUTES, buckets))},
    writes=MinuteBuckets(ROWS),
    snapshot_every_s=1.0,
)
main = FLOW.main
