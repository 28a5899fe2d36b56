"""``events``: the metrics of a shop in each window, in PostgreSQL (or SQLite).

``events_by_partition`` holds each topic partition's part of a window; the sink sums it into
``events`` (one row per window, corrected in place) within the transaction that wrote it.
``events_to_announce`` names the rows of ``events`` whose notice was not sent yet: it is written
in that transaction too, so that a crash between the row and its notice loses neither.
``events_newest`` says by topic partition how new the records in these tables are.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table

from footfall.schemas.tables.rollup import Rollup
from footfall.schemas.tables.sql_types import UtcTime
from footfall.schemas.topics import APPENDED, PARTITION, TOPIC

METADATA = MetaData()

SUMS = (
    "nr_of_events",
    "nr_items_viewed",
    "nr_items_put_in_cart",
    "nr_items_sold",
    "value_items_sold_in_cent",
)
KEY = ("start_event_time", "end_event_time")


def _sums() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in SUMS]


EVENTS_BY_PARTITION = Table(
    "events_by_partition",
    METADATA,
    Column("start_event_time", UtcTime(), primary_key=True),
    Column("end_event_time", UtcTime(), primary_key=True),
    Column(TOPIC, String, primary_key=True),
    Column(PARTITION, Integer, primary_key=True, autoincrement=False),
    *_sums(),
    Column("version", BigInteger, nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("start_event_time", UtcTime(), primary_key=True),
    Column("end_event_time", UtcTime(), primary_key=True),
    *_sums(),
    Column("version", BigInteger, nullable=False),
)

EVENTS_TO_ANNOUNCE = Table(
    "events_to_announce",
    METADATA,
    Column("start_event_time", UtcTime(), primary_key=True),
    Column("end_event_time", UtcTime(), primary_key=True),
    Column("write_id", BigInteger, nullable=False),
)

EVENTS_NEWEST = Table(
    "events_newest",
    METADATA,
    Column(TOPIC, String, primary_key=True),
    Column(PARTITION, Integer, primary_key=True, autoincrement=False),
    Column(APPENDED, BigInteger, nullable=False),
)

ROLLUP = Rollup(EVENTS_BY_PARTITION, EVENTS, KEY, SUMS, EVENTS_TO_ANNOUNCE, EVENTS_NEWEST)
