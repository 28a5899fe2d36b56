"""Views and impressions of each product in each minute, by user.

Reads    platform_logs        CatalogProductReq is a view, what a CatalogDbRep lists impressions
         store_events         event_type view is a view
         user_tags            action VIEW is a view, by cookie
Writes   product_views_per_minute, product_user_views_per_minute   ClickHouse; from one row per
         (minute, source topic, product, user, topic partition)
Time     event time; the watermark trails by 5 s; corrected for 10 min after
Replay   rows are upserts: reading the same events again changes nothing
"""

from __future__ import annotations

from functools import partial
from typing import Any

import polars as pl

from footfall.flows import (
    ROW,
    TIME_MS,
    VERSION,
    WINDOW,
    Choose,
    ClickHouse,
    Flow,
    Parts,
    Reading,
    Records,
    Tumbling,
    ident,
    integer,
    moment,
    text,
    windows,
)
from footfall.flows._logs import USER, event_times, listed_in, product_of
from footfall.schemas.tables.product_views import PRODUCT_USER_VIEWS
from footfall.schemas.topics import PLATFORM_LOGS, STORE_EVENTS, USER_TAGS, Topic

VIEW, LISTING = "CatalogProductReq", "CatalogDbRep"
"""Actions of platform_logs."""


def _looks(logs: list[Any]) -> list[int]:
    """Return the positions of the records that are views or listings."""
    return [
        place
        for place, log in enumerate(logs)
        if (action := log.action) == VIEW or action == LISTING
    ]


def _looked_at(logs: list[Any]) -> list[Any]:
    """Return the products that each of these records shows."""
    return [
        listed_in(log) or ()
        if log.action == LISTING
        else ()
        if (product := product_of(log)) is None
        else (product,)
        for log in logs
    ]


LOGS = Records.of(
    PLATFORM_LOGS,
    {},
    times=event_times,
    parts=Parts(
        of=_looks,
        columns={
            "user_id": USER,
            "views": integer(lambda logs: [int(log.action == VIEW) for log in logs]),
        },
        each="product_id",
        values=ident(_looked_at),
    ),
)
STORE = Records.of(
    STORE_EVENTS,
    {
        "event_type": text(lambda events: [event.event_type for event in events]),
        "product_id": ident(lambda events: [event.product_id for event in events]),
        "user_id": ident(lambda events: [event.user_id for event in events]),
    },
)
TAGS = Records.of(
    USER_TAGS,
    {
        "action": text(lambda tags: [tag.action for tag in tags]),
        "product_id": ident(lambda tags: [tag.product_info.product_id for tag in tags]),
        "user_id": text(lambda tags: [tag.cookie for tag in tags]),
    },
)

MINUTES = Tumbling(
    size_ms=60_000,
    delay_ms=5_000,
    lateness_ms=600_000,
    by=("product_id", "user_id"),
    sums={"views": pl.col("views"), "impressions": pl.col("impressions")},
)


def in_logs(looks: pl.DataFrame) -> pl.DataFrame:
    """Return views and impressions of platform_logs: each look is one of them."""
    return looks.hstack([(1 - looks["views"]).alias("impressions")])


def views(events: pl.DataFrame, kind: str, value: str) -> pl.DataFrame:
    """Return the events of a topic whose column ``kind`` has ``value``, each as one view."""
    viewed = events.with_row_index(ROW).filter(pl.col(kind) == value)
    return viewed.select(
        TIME_MS,
        ROW,
        "product_id",
        "user_id",
        pl.lit(1, dtype=pl.Int64).alias("views"),
        pl.lit(0, dtype=pl.Int64).alias("impressions"),
    )


def rows_of(found: pl.DataFrame, partition: int, source: str) -> pl.DataFrame:
    """Return rows of ``product_user_views_rows`` from the windows of one partition."""
    return found.select(
        moment(WINDOW, "minute"),
        pl.lit(source).alias("source"),
        *MINUTES.by,
        pl.lit(partition, dtype=pl.UInt16).alias("topic_partition"),
        pl.col("views", "impressions").cast(pl.UInt64),
        pl.col(VERSION).cast(pl.UInt64),
    )


def reading(topic: Topic, records: Records, choose: Choose) -> Reading:
    """Return what the flow does with a topic, of which ``choose`` gives the views."""
    return Reading(records, windows(MINUTES, partial(rows_of, source=topic.name), choose=choose))


FLOW = Flow(
    name="product_views",
    about="views and impressions of each product in each minute, by user",
    reads={
        PLATFORM_LOGS: reading(PLATFORM_LOGS, LOGS, in_logs),
        STORE_EVENTS: reading(
            STORE_EVENTS, STORE, partial(views, kind="event_type", value="view")
        ),
        USER_TAGS: reading(USER_TAGS, TAGS, partial(views, kind="action", value="VIEW")),
    },
    writes=ClickHouse(
        PRODUCT_USER_VIEWS, views=("product_views_per_minute", "product_user_views_per_minute")
    ),
)
main = FLOW.main
