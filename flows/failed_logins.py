"""Logins that failed: each of them, and how many of a user in each minute.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   failed_login         ClickHouse, one row per LoginRep whose status is Invalid;
         failed_logins_per_minute   counts them when it is queried
Time     event time; no failure is ever too late
Replay   a row is known by its record's place in the topic: reading it again changes nothing;
         `footfall replay` writes the rows of a range again
"""

from __future__ import annotations

import polars as pl

from footfall.flows import ClickHouse, Flow, Reading, StepResult, moment, others_of, placed, rows
from footfall.flows._logs import records
from footfall.schemas.platform_logs import INVALID
from footfall.schemas.tables.logins import FAILED_LOGIN
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.streams.batch import Batch

LOGS = records("user_id", "request_id", "log", "status")

is_failure = (pl.col("log") == "LoginRep") & (pl.col("status") == INVALID)


def failures(batch: Batch) -> StepResult:
    """Return rows of ``failed_login_rows``."""
    found = placed(batch).filter(is_failure)
    filtered = len(batch.frame) - len(found)
    if found.is_empty():
        return StepResult(filtered=filtered)
    failed = found.select(moment(), *others_of(FAILED_LOGIN, "time"))
    return StepResult(failed, filtered=filtered)


FLOW = Flow(
    name="failed_logins",
    about="logins that failed, and how many of a user in each minute",
    reads={PLATFORM_LOGS: Reading(LOGS, rows(failures))},
    writes=ClickHouse(FAILED_LOGIN, views=("failed_login", "failed_logins_per_minute")),
)
main = FLOW.main
