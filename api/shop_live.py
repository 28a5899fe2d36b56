"""The shop's part of the live page's snapshot; each panel's question is asked in its own time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from footfall.api.refreshed import Refreshed
from footfall.api.shop_snapshot import (
    Alert,
    Anomaly,
    FailedRequest,
    Funnel,
    Health,
    Logins,
    Online,
    Products,
    Sessions,
    ShopNow,
)
from footfall.api.shop_tables import ShopTables
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.times import BadTimeError, parse_time_ms
from footfall.schemas.topics import LOGIN_ALERTS

ALERTS_SHOWN = 8
ALERTS_LOOKED_AT = 50
"""Alerts read per partition: the newest by event time may have been written a little earlier."""
TIMES_TOLD = 20

_decode_alert = msgspec.json.Decoder(LoginAlert).decode

Newest = Callable[[str, int], list[bytes]]
"""Newest records of a topic, at most so many per partition. Blocking."""


class ShopPanels:
    """The last answer to each question about the shop."""

    def __init__(self, tables: ShopTables, newest: Newest, clock: Callable[[], float]) -> None:
        self._newest = newest
        self._now: Refreshed[int | None] = Refreshed(tables.now_ms, None, 1.0, clock)
        self._online = Refreshed(tables.online, Online(), 2.0, clock)
        self._logins = Refreshed(tables.logins, Logins(), 2.0, clock)
        self._alerts: Refreshed[list[Alert]] = Refreshed(self._ask_alerts, [], 3.0, clock)
        self._health = Refreshed(tables.health, Health(), 5.0, clock)
        self._anomalies: Refreshed[list[Anomaly]] = Refreshed(tables.anomalies, [], 5.0, clock)
        self._failures: Refreshed[list[FailedRequest]] = Refreshed(tables.failures, [], 5.0, clock)
        self._sessions: Refreshed[list[Sessions]] = Refreshed(tables.sessions, [], 10.0, clock)
        self._products: Refreshed[list[Products]] = Refreshed(tables.products, [], 10.0, clock)
        self._funnel = Refreshed(tables.funnel, Funnel(), 5.0, clock)
        self.parts: dict[str, Refreshed[Any]] = {
            "moment": self._now,
            "online": self._online,
            "logins": self._logins,
            "alerts": self._alerts,
            "health": self._health,
            "anomalies": self._anomalies,
            "failures": self._failures,
            "sessions": self._sessions,
            "products": self._products,
            "funnel": self._funnel,
        }

    def snapshot(self) -> ShopNow:
        """Return the last values."""
        return ShopNow(
            now_ms=self._now.value,
            online=self._online.value,
            logins=self._logins.value,
            alerts=self._alerts.value,
            health=self._health.value,
            anomalies=self._anomalies.value,
            failures=self._failures.value,
            sessions=self._sessions.value,
            products=self._products.value,
            funnel=self._funnel.value,
        )

    async def _ask_alerts(self) -> list[Alert]:
        records = await asyncio.to_thread(self._newest, LOGIN_ALERTS.name, ALERTS_LOOKED_AT)
        return shown_alerts(records)


def shown_alerts(records: Sequence[bytes]) -> list[Alert]:
    """Return the newest alerts by event time, each (user, time) once: a crash may repeat one."""
    alerts: dict[tuple[str, int], Alert] = {}
    for record in records:
        with contextlib.suppress(
            msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadTimeError
        ):
            found = _decode_alert(record)
            time_ms = parse_time_ms(found.time)
            times_ms = [parse_time_ms(one) for one in found.times[-TIMES_TOLD:]] or [time_ms]
            alert = Alert(found.user_id, time_ms, found.failures, times_ms[0], times_ms[-1])
            alerts.setdefault((found.user_id, time_ms), alert)
    newest = sorted(alerts.values(), key=lambda one: (-one.time_ms, one.user_id))
    return newest[:ALERTS_SHOWN]
