"""Events of the marketplace's customers: one table per kind, and views for the usual questions.

Reads    shop_events          JSON, 21 kinds, keyed by user
Writes   shop_page_visit, shop_searching, ...   ClickHouse, one row per event, in a table per kind;
         shop_funnel_by_hour and others (schemas.tables.shop_events) answer when they are queried
Time     event time; no event is ever too late
Replay   a row is known by its record's place in the topic: reading it again changes nothing;
         `footfall replay` writes the rows of a range again
"""

from __future__ import annotations

from footfall.flows import ClickHouse, Flow, Reading, moment, placed, rows
from footfall.flows._shop_events import EVENTS, by_kind
from footfall.schemas.tables.shop_events import TABLES
from footfall.schemas.topics import SHOP_EVENTS
from footfall.streams.batch import TIME_MS, Batch, TableRows


def of_each_kind(batch: Batch) -> TableRows:
    """Return rows of each kind's table."""
    events = placed(batch).with_columns(moment()).drop(TIME_MS)
    return TableRows({TABLES[kind].name: of_kind for kind, of_kind in by_kind(events)})


FLOW = Flow(
    name="shop_events_hot",
    about="what customers did on the marketplace: a table a kind, funnel, searches, returns, ...",
    reads={SHOP_EVENTS: Reading(EVENTS, rows(of_each_kind))},
    # The tables share what is gathered: with less, inserts would be small.
    writes=ClickHouse(*TABLES.values(), views=("shop_<kind>",), rows_max=500_000),
    # Each snapshot is an insert into nearly all of the tables.
    snapshot_every_s=5.0,
)
main = FLOW.main
