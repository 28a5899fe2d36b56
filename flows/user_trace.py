"""Steps that the services logged, by user and in order.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   user_trace           ClickHouse, one row per record
Time     rows are ordered by event time; no record is ever too late
Replay   a row is known by its record's place in the topic: reading it again changes nothing;
         `footfall replay` writes the rows of a range again
"""

from __future__ import annotations

from functools import partial

from bytewax.dataflow import Dataflow

from flows import FlowContract, _flow, _replay
from flows._flow import Reading
from flows._logs import records
from flows._rows import moment, others_of, placed
from schemas.settings import read_settings
from schemas.tables.traces import USER_TRACE
from schemas.topics import PLATFORM_LOGS
from streams.batch import Batch
from streams.engine import StatelessStep, StepResult
from streams.runner import Run

CONTRACT = FlowContract(
    name="user_trace",
    about="every step that the services logged, by user",
    reads=(PLATFORM_LOGS.name,),
    writes=("ClickHouse user_trace",),
    tables=(USER_TRACE,),
)

LOGS = records("user_id", "request_id", "server", "log")


def trace(batch: Batch) -> StepResult:
    """Return rows of ``user_trace_rows``."""
    return StepResult(placed(batch).select(moment(), *others_of(USER_TRACE, "time")))


def step(_partition: int, snapshot: bytes | None) -> StatelessStep:
    """Return the step of a partition."""
    return StatelessStep(trace, snapshot)


READS = {PLATFORM_LOGS.name: Reading(LOGS, step)}
build = partial(_flow.build, CONTRACT, READS)
wire = partial(_flow.wire, CONTRACT, READS)
replay = partial(_replay.replay, CONTRACT, READS)


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.user_trace:main()"``."""
    return wire(read_settings(), Run())
