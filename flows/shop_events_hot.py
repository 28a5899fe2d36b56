"""Events of the marketplace's customers: one table per kind, and views for the usual questions.

Reads    shop_events          JSON, 21 kinds, keyed by user
Writes   shop_page_visit, shop_searching, ...   ClickHouse, one row per event, in a table per kind;
         shop_funnel_by_hour and others (schemas.tables.shop_events) answer when they are queried
Time     event time; no event is ever too late
Replay   a row is known by its record's place in the topic: reading it again changes nothing;
         `footfall replay` writes the rows of a range again
"""

from __future__ import annotations

from functools import partial

from bytewax.dataflow import Dataflow

from flows import FlowContract, _flow, _replay
from flows._flow import Reading
from flows._rows import moment, placed
from flows._shop_events import EVENTS, by_kind
from schemas.settings import read_settings
from schemas.tables.shop_events import TABLES
from schemas.topics import SHOP_EVENTS
from streams.batch import TIME_MS, Batch, TableRows
from streams.engine import StatelessStep, StepResult
from streams.runner import Run

CONTRACT = FlowContract(
    name="shop_events_hot",
    about="what customers did on the marketplace: a table a kind, funnel, searches, returns, ...",
    reads=(SHOP_EVENTS.name,),
    writes=("ClickHouse shop_<kind>",),
    # Each snapshot is an insert into nearly all of the tables.
    snapshot_every_s=5.0,
    tables=tuple(TABLES.values()),
)


def rows(batch: Batch) -> StepResult:
    """Return the rows of each kind's table."""
    events = placed(batch).with_columns(moment()).drop(TIME_MS)
    return StepResult(TableRows({TABLES[kind].name: of_kind for kind, of_kind in by_kind(events)}))


def step(_partition: int, snapshot: bytes | None) -> StatelessStep:
    """Return the step of a partition."""
    return StatelessStep(rows, snapshot)


READS = {SHOP_EVENTS.name: Reading(EVENTS, step)}
build = partial(_flow.build, CONTRACT, READS)
# The limit is shared by 21 tables: a lower one would mean small inserts.
wire = partial(_flow.wire, CONTRACT, READS, rows_max=500_000)
replay = partial(_replay.replay, CONTRACT, READS)


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.shop_events_hot:main()"``."""
    return wire(read_settings(), Run())
