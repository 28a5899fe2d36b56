"""Steps that the services logged, by user and in order.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   user_trace           ClickHouse, one row per record
Time     rows are ordered by event time; no record is ever too late
Replay   a row is known by its record's place in the topic: reading it again changes nothing;
         `footfall replay` writes the rows of a range again
"""

from __future__ import annotations

import polars as pl

from footfall.flows import ClickHouse, Flow, Reading, moment, others_of, placed, rows
from footfall.flows._logs import records
from footfall.schemas.tables.traces import USER_TRACE
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.streams.batch import Batch

LOGS = records("user_id", "request_id", "server", "log")


def trace(batch: Batch) -> pl.DataFrame:
    """Return rows of ``user_trace_rows``."""
    return placed(batch).select(moment(), *others_of(USER_TRACE, "time"))


FLOW = Flow(
    name="user_trace",
    about="every step that the services logged, by user",
    reads={PLATFORM_LOGS: Reading(LOGS, rows(trace))},
    writes=ClickHouse(USER_TRACE),
)
main = FLOW.main
