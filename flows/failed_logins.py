"""Logins that failed: each of them, and how many of a user in each minute.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   failed_login         ClickHouse, one row per LoginRep whose status is Invalid;
         failed_logins_per_minute   counts them when it is queried
Time     event time; no failure is ever too late
Replay   a row is known by its record's place in the topic: reading it again changes nothing;
         `footfall replay` writes the rows of a range again
"""

from __future__ import annotations

from functools import partial

import polars as pl
from bytewax.dataflow import Dataflow

from flows import FlowContract, _flow, _replay
from flows._flow import Reading
from flows._logs import records
from flows._rows import moment, others_of, placed
from schemas.platform_logs import INVALID
from schemas.settings import read_settings
from schemas.tables.logins import FAILED_LOGIN
from schemas.topics import PLATFORM_LOGS
from streams.batch import Batch
from streams.engine import StatelessStep, StepResult
from streams.runner import Run

CONTRACT = FlowContract(
    name="failed_logins",
    about="logins that failed, and how many of a user in each minute",
    reads=(PLATFORM_LOGS.name,),
    writes=("ClickHouse failed_login", "ClickHouse failed_logins_per_minute"),
    tables=(FAILED_LOGIN,),
)

LOGS = records("user_id", "request_id", "log", "status")

is_failure = (pl.col("log") == "LoginRep") & (pl.col("status") == INVALID)


def failures(batch: Batch) -> StepResult:
    """Return rows of ``failed_login_rows``."""
    found = placed(batch).filter(is_failure)
    filtered = len(batch.frame) - len(found)
    if found.is_empty():
        return StepResult(filtered=filtered)
    rows = found.select(moment(), *others_of(FAILED_LOGIN, "time"))
    return StepResult(rows, filtered=filtered)


def step(_partition: int, snapshot: bytes | None) -> StatelessStep:
    """Return the step of a partition."""
    return StatelessStep(failures, snapshot)


READS = {PLATFORM_LOGS.name: Reading(LOGS, step)}
build = partial(_flow.build, CONTRACT, READS)
wire = partial(_flow.wire, CONTRACT, READS)
replay = partial(_replay.replay, CONTRACT, READS)


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.failed_logins:main()"``."""
    return wire(read_settings(), Run())
