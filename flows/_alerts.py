"""Parts of the alerts that both engines share: which records count, and where alerts go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from footfall.schemas.dead_letters import DeadLetter, LateEvent
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.platform_logs import INVALID, PlatformLog, id_text
from footfall.schemas.settings import SettingError, Settings
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS, LOGIN_ALERTS, PLATFORM_LOGS
from footfall.sinks.letters import LetterWriter
from footfall.streams.batch import ROW, TIME_MS
from footfall.streams.bursts import alert_of
from footfall.streams.columns import text
from footfall.streams.decode import Records
from footfall.streams.run import Run

DELAY_MS: Final = 5_000
"""Milliseconds that the watermark trails: a failure further behind the newest record is late."""

USER_ID = "user_id"
TIMES_MS = "times_ms"
ALERT_COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    USER_ID: pl.String,
    TIME_MS: pl.Int64,
    TIMES_MS: pl.List(pl.Int64),
    "version": pl.UInt64,
}
"""Columns of an alert as a row: the user, when it was raised, and the failures that raised it."""


def _users_who_failed(logs: Sequence[PlatformLog]) -> list[str | None]:
    return [
        id_text(log.commonData.userId)
        if log.action == "LoginRep" and log.data is not None and log.data.status == INVALID
        else None
        for log in logs
    ]


LOGS = Records.of(PLATFORM_LOGS, {USER_ID: text(_users_who_failed)})
"""Reader of platform_logs; ``user_id`` is null where a record is not a failed login."""


def failed_logins(logs: pl.DataFrame) -> pl.DataFrame:
    """Return the failed logins of a batch's frame; see streams.engine.Choose."""
    return logs.with_row_index(ROW).filter(pl.col(USER_ID).is_not_null())


def alert_of_row(row: Mapping[str, Any]) -> LoginAlert:
    """Return the alert of a row of ALERT_COLUMNS."""
    return alert_of(row[USER_ID], tuple(row[TIMES_MS]))


class AlertLetters:
    """Writer of alerts, dead letters and late events to their topics."""

    def __init__(self, settings: Settings) -> None:
        """Make the writers; the first write connects."""
        from footfall.sinks.open import open_topics

        self._topics = open_topics(settings)
        names = (LOGIN_ALERTS.name, DEAD_LETTERS.name, LATE_EVENTS.name)
        self._writers = [LetterWriter(self._topics, name) for name in names]

    def write(
        self,
        alerts: Sequence[LoginAlert],
        dead: Sequence[DeadLetter] = (),
        late: Sequence[LateEvent] = (),
    ) -> None:
        """Return when all are acknowledged. Raises SinkError."""
        for writer, letters in zip(self._writers, (alerts, dead, late), strict=True):
            writer.write(letters)

    def close(self) -> None:
        """Release the topics. Never raises."""
        self._topics.close()


def run_on_faust(flow: str, settings: Settings, run: Run) -> None:
    """Run the flow on Faust, which answers each failure when it comes.

    Raises SettingError where Faust is not installed.
    """
    try:
        from footfall.flows._alerts_worker import run_on_kafka
    except ModuleNotFoundError as error:
        if error.name != "faust":
            raise
        raise SettingError(
            f"TOPICS_URL={settings.topics_url!r}: on Kafka {flow} runs on Faust, which "
            "is not installed: pip install 'footfall[alerts]'"
        ) from None
    run_on_kafka(flow, settings, run)
