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

from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl
from bytewax.dataflow import Dataflow

from flows import FlowContract, _flow, _replay
from flows._flow import Reading
from flows._logs import USER, listed_in, product_of, records
from flows._rows import moment
from schemas.settings import read_settings
from schemas.store_events import StoreEvent
from schemas.tables.product_views import PRODUCT_USER_VIEWS
from schemas.topics import PLATFORM_LOGS, STORE_EVENTS, USER_TAGS
from schemas.user_tags import UserTag
from streams.batch import ROW, TIME_MS
from streams.columns import ident, integer, text
from streams.decode import Records
from streams.engine import Choose, MakeStep, WindowStep
from streams.parts import Parts
from streams.runner import Run
from streams.tumbling import VERSION, WINDOW, Tumbling

CONTRACT = FlowContract(
    name="product_views",
    about="views and impressions of each product in each minute, by user",
    reads=(PLATFORM_LOGS.name, STORE_EVENTS.name, USER_TAGS.name),
    writes=("ClickHouse product_views_per_minute", "ClickHouse product_user_views_per_minute"),
    tables=(PRODUCT_USER_VIEWS,),
)

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


LOGS = replace(
    records(),
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
STORE = Records(
    StoreEvent,
    time="event_time",
    columns={
        "event_type": text(lambda events: [event.event_type for event in events]),
        "product_id": ident(lambda events: [event.product_id for event in events]),
        "user_id": ident(lambda events: [event.user_id for event in events]),
    },
)
TAGS = Records(
    UserTag,
    time="time",
    columns={
        "action": text(lambda tags: [tag.action for tag in tags]),
        "product_id": ident(lambda tags: [tag.product_info.product_id for tag in tags]),
        "user_id": text(lambda tags: [tag.cookie for tag in tags]),
    },
    bytes_max=USER_TAGS.record_bytes_max,
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


def rows(found: pl.DataFrame, partition: int, source: str) -> pl.DataFrame:
    """Return rows of ``product_user_views_rows`` from the windows of one partition."""
    return found.select(
        moment(WINDOW, "minute"),
        pl.lit(source).alias("source"),
        *MINUTES.by,
        pl.lit(partition, dtype=pl.UInt16).alias("topic_partition"),
        pl.col("views", "impressions").cast(pl.UInt64),
        pl.col(VERSION).cast(pl.UInt64),
    )


def step_of(source: str, choose: Choose) -> MakeStep:
    """Return what makes the step of a partition of the topic ``source``."""
    finish = partial(rows, source=source)
    return lambda partition, snapshot: WindowStep(
        CONTRACT.name, MINUTES, finish, partition, snapshot, choose=choose
    )


READS = {
    topic: Reading(read, step_of(topic, choose))
    for topic, read, choose in (
        (PLATFORM_LOGS.name, LOGS, in_logs),
        (STORE_EVENTS.name, STORE, partial(views, kind="event_type", value="view")),
        (USER_TAGS.name, TAGS, partial(views, kind="action", value="VIEW")),
    )
}
build = partial(_flow.build, CONTRACT, READS)
wire = partial(_flow.wire, CONTRACT, READS)
replay = partial(_replay.replay, CONTRACT, READS)


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.product_views:main()"``."""
    return wire(read_settings(), Run())
