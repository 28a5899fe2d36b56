"""Views of products by users.

``product_user_views_rows`` holds one row per (minute, source topic, product, user, topic
partition), from which both views follow.
"""

from __future__ import annotations

from footfall.schemas.tables.clickhouse import PLACE, Table, View

PRODUCT_USER_VIEWS = Table(
    name="product_user_views_rows",
    columns={
        "minute": "DateTime('UTC')",
        "source": "LowCardinality(String)",
        "product_id": "String",
        "user_id": "String",
        **PLACE,
        "views": "UInt64",
        "impressions": "UInt64",
        "version": "UInt64",
    },
    order_by=("minute", "source", "product_id", "user_id", *PLACE),
    partition_by="toYYYYMMDD(minute)",
    start="minute",
    sums=("views", "impressions"),
)


def _summed(name: str, *key: str) -> View:
    names = ", ".join(key)
    return View(
        name,
        f"""
        SELECT {names}, sum(r.views) AS views, sum(r.impressions) AS impressions
        FROM product_user_views_rows AS r FINAL
        GROUP BY {names}
        """,
    )


PRODUCT_VIEWS_VIEW = _summed("product_views_per_minute", "minute", "source", "product_id")
PRODUCT_USER_VIEWS_VIEW = _summed(
    "product_user_views_per_minute", "minute", "source", "product_id", "user_id"
)
