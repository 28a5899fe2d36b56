"""An alert when a user's failed logins pass the limit: one per burst.

Reads    platform_logs        JSON PlatformLog, keyed by commonData.userId
Writes   login_alerts         one record per alert, identified by (user_id, time): it may come
                              more than once, and a reader takes each once
Time     more than LOGIN_FAILURES_MAX failures of a user in LOGIN_WINDOW_S whole seconds, in
         order of event time; the watermark trails by 5 s, and a failure that it has passed is late
Replay   not possible: an alert that was sent cannot be taken back
Engines  embedded topics: Bytewax, exact in any order within the delay, once the watermark has
         passed, or the partition is quiet for as long.
         Kafka: Faust (`_alerts_worker`), which answers each failure when it comes; see
         streams.bursts for what out of order means then
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source

from flows import FlowContract
from flows._alerts import (
    ALERT_COLUMNS,
    DELAY_MS,
    LOGS,
    USER_ID,
    AlertRows,
    failed_logins,
)
from flows._wiring import counted, letters
from schemas.settings import SettingError, Settings, read_settings
from schemas.topics import LOGIN_ALERTS, PLATFORM_LOGS
from sinks.buffered import BufferedSink
from streams.batch import TIME_MS, Poll
from streams.bursts import NONE, Failures, decide, is_over
from streams.engine import Outputs, dataflow
from streams.open import open_source
from streams.ordered import THE_END_MS, OrderedStep
from streams.progress import Progress
from streams.runner import Run

CONTRACT = FlowContract(
    name="login_alerts",
    about="an alert when a user's failed logins pass the limit, one a burst",
    reads=(PLATFORM_LOGS.name,),
    writes=(f"topic {LOGIN_ALERTS.name}",),
    snapshot_every_s=1.0,
)


class Bursts:
    """The fold of one partition: see streams.ordered.Fold.

    It is bounded by the users who failed within LOGIN_WINDOW_S and the delay.
    """

    def __init__(self, snapshot: bytes | None) -> None:
        self._known: dict[str, Failures] = (
            msgspec.msgpack.decode(snapshot, type=dict[str, Failures]) if snapshot else {}
        )

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> pl.DataFrame | None:
        """Take the failures before ``passed_ms``; return the alerts that they raise."""
        rows = []
        for user_id, time_ms in events.sort(TIME_MS).select(USER_ID, TIME_MS).iter_rows():
            self._known[user_id], raised_by = decide(self._known.get(user_id, NONE), time_ms)
            if raised_by is not None:
                rows.append((user_id, time_ms, raised_by, version))
        over = [user_id for user_id, known in self._known.items() if is_over(known, passed_ms)]
        for user_id in over:
            del self._known[user_id]
        return pl.DataFrame(rows, schema=ALERT_COLUMNS, orient="row") if rows else None

    def due_ms(self) -> int:
        """Return THE_END_MS: time alone raises no alert."""
        return THE_END_MS

    def snapshot(self) -> bytes:
        """Return the state as bytes."""
        return msgspec.msgpack.encode(self._known)

    @property
    def holds(self) -> dict[str, int]:
        """Return the number of users whose failures are known."""
        return {"users": len(self._known)}


def _make_step(partition: int, snapshot: bytes | None) -> OrderedStep:
    return OrderedStep(
        CONTRACT.name,
        DELAY_MS,
        lambda _partition, folded: Bursts(folded),
        partition,
        snapshot,
        choose=failed_logins,
    )


def build(source: Source[Poll], outputs: Outputs, progress: Progress | None = None) -> Dataflow:
    """Wire the flow between a source and its sinks."""
    return dataflow(CONTRACT.name, source, LOGS, _make_step, outputs, progress=progress)


def wire(settings: Settings, run: Run) -> Dataflow:
    """Return the flow on embedded topics. Raises SettingError where topics are in Kafka."""
    if settings.kafka_bootstrap:
        raise SettingError(
            f"TOPICS_URL={settings.topics_url!r}: on Kafka {CONTRACT.name} runs on Faust: start "
            f"it by `footfall run {CONTRACT.name}`"
        )
    source = open_source(settings, settings.kafka_topic or PLATFORM_LOGS.name, CONTRACT.name, run)
    rows: BufferedSink[pl.DataFrame] = BufferedSink(
        lambda: AlertRows(settings), rows_max=1_000, wrote=counted(run.progress, LOGIN_ALERTS.name)
    )
    return build(source, Outputs(rows, *letters(settings)), run.progress)


def other_engine(settings: Settings) -> Callable[[Run], None] | None:
    """Return the Faust worker where topics are in Kafka; None where Bytewax runs the flow.

    Raises SettingError where Faust is not installed.
    """
    if not settings.kafka_bootstrap:
        return None
    try:
        from flows._alerts_worker import run_on_kafka
    except ModuleNotFoundError as error:
        if error.name != "faust":
            raise
        raise SettingError(
            f"TOPICS_URL={settings.topics_url!r}: on Kafka {CONTRACT.name} runs on Faust, which "
            "is not installed: pip install 'footfall[alerts]'"
        ) from None
    return partial(run_on_kafka, CONTRACT.name, settings)


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.login_alerts:main()"``."""
    return wire(read_settings(), Run())
