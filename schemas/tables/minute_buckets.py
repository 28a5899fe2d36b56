"""``minute_buckets``: count and revenue of every group in each minute, in ClickHouse.

``minute_buckets_rows`` holds one row per (minute, group, topic partition); the view
``minute_buckets`` sums the partitions and gives each row once.
"""

from __future__ import annotations

from footfall.schemas.tables.clickhouse import PLACE, Table, View

ROWS = Table(
    name="minute_buckets_rows",
    columns={
        "bucket": "DateTime('UTC')",
        "action": "LowCardinality(String)",
        "origin": "LowCardinality(String)",
        "brand_id": "LowCardinality(String)",
        "category_id": "LowCardinality(String)",
        **PLACE,
        "count": "UInt64",
        "sum_price": "Int64",
        "version": "UInt64",
    },
    order_by=("bucket", "action", "origin", "brand_id", "category_id", *PLACE),
    partition_by="toYYYYMMDD(bucket)",
    start="bucket",
    sums=("count", "sum_price"),
)

VIEW = View(
    name="minute_buckets",
    select="""
        SELECT bucket, action, origin, brand_id, category_id,
               sum(r.count) AS count, sum(r.sum_price) AS sum_price
        FROM minute_buckets_rows AS r FINAL
        GROUP BY bucket, action, origin, brand_id, category_id
    """,
)
