"""Parts of the alerts that both engines share: which records count, and where alerts go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from schemas.dead_letters import DeadLetter, LateEvent
from schemas.login_alerts import LoginAlert
from schemas.platform_logs import INVALID, PlatformLog, id_text
from schemas.settings import Settings
from schemas.topics import DEAD_LETTERS, LATE_EVENTS, LOGIN_ALERTS
from sinks.letters import LetterWriter
from streams.batch import ROW, TIME_MS
from streams.bursts import alert_of
from streams.columns import text
from streams.decode import Records

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


LOGS = Records(PlatformLog, time="commonData.time", columns={USER_ID: text(_users_who_failed)})
"""Reader of platform_logs; ``user_id`` is null where a record is not a failed login."""


def failed_logins(logs: pl.DataFrame) -> pl.DataFrame:
    """Return the failed logins of a batch's frame; see streams.engine.Choose."""
    return logs.with_row_index(ROW).filter(pl.col(USER_ID).is_not_null())


class AlertRows:
    """Writer of rows of ALERT_COLUMNS to the topic of the alerts."""

    def __init__(self, settings: Settings) -> None:
        self._letters = AlertLetters(settings)

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when all are acknowledged. Raises SinkError."""
        self._letters.write(
            [
                alert_of(user_id, tuple(times_ms))
                for frame in frames
                for user_id, times_ms in frame.select(USER_ID, TIMES_MS).iter_rows()
            ]
        )

    def close(self) -> None:
        """Release the topic. Never raises."""
        self._letters.close()


class AlertLetters:
    """Writer of alerts, dead letters and late events to their topics."""

    def __init__(self, settings: Settings) -> None:
        """Make the writers; the first write connects."""
        from sinks.open import open_topics

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
