"""The shop's part of ``/live.json``, its field ``shop``.

Times are milliseconds since the epoch, of event time: the newest moment in the tables is "now",
whatever the wall clock says. Lists by minute have the same length, oldest first, and a value for
each minute.
"""

from __future__ import annotations

from msgspec import Struct


class Online(Struct, frozen=True):
    """Users by minute: with a record in it, and online at its end."""

    start_ms: list[int] = []
    active: list[int] = []
    online: list[int] = []
    whole_ms: int = 0
    """Minutes that end by then are over."""


class Logins(Struct, frozen=True):
    """Logins and failed logins by minute."""

    start_ms: list[int] = []
    logins: list[int] = []
    failures: list[int] = []
    whole_ms: int = 0
    """Minutes that end by then are over."""


class Alert(Struct, frozen=True):
    """One burst of failed logins, from the first failure that is told of to the last."""

    user_id: str
    time_ms: int
    failures: int
    first_ms: int
    last_ms: int


class Service(Struct, frozen=True):
    """Requests at one service, and how many had a step there that failed."""

    server: str
    requests: int
    errors: int


class SlowOperation(Struct, frozen=True):
    """Durations of an operation's requests at one service."""

    server: str
    operation: str
    requests: int
    errors: int
    p50_ms: int
    p95_ms: int
    p99_ms: int


class Health(Struct, frozen=True):
    """Services and the slowest operations between two moments; most errors, slowest first.

    ``minute_requests`` is the number of requests that the services had in the last whole minute.
    """

    from_ms: int = 0
    to_ms: int = 0
    minute_requests: int = 0
    services: list[Service] = []
    operations: list[SlowOperation] = []


class Anomaly(Struct, frozen=True):
    """A minute of an operation at a service that was unlike the hour before it.

    ``measure`` is ``errors`` (``value`` and ``expected`` are shares of requests) or ``latency``
    (both are ms): see schemas.tables.service_health.
    """

    minute_ms: int
    server: str
    operation: str
    measure: str
    value: float
    expected: float


class FailedRequest(Struct, frozen=True):
    """A request that failed or lacks a step (``missing``: "Server.Action").

    ``failed_log``, ``status`` and ``error`` are of its first step that failed, empty where none
    did.
    """

    request_id: str
    user_id: str
    started_ms: int
    duration_ms: int
    operation: str
    outcome: str
    missing: str
    failed_log: str
    status: str
    error: str


class Sessions(Struct, frozen=True):
    """Sessions of one source, by the reason why they ended and by length.

    ``lengths`` has, by reason, the number of sessions that were at least as long as each of
    SESSION_LENGTHS_S and shorter than the next.
    """

    source: str
    from_ms: int
    to_ms: int
    median_s: float
    lengths: dict[str, list[int]]


class Product(Struct, frozen=True):
    """Views of a product, and its impressions: how often it was in a list."""

    product_id: str
    views: int
    impressions: int


class Products(Struct, frozen=True):
    """The most viewed products of one source topic between two moments, best first."""

    source: str
    from_ms: int
    to_ms: int
    products: list[Product]


class Funnel(Struct, frozen=True):
    """The number of users who came as far as each step, by hour, oldest first."""

    hour_ms: list[int] = []
    steps: dict[str, list[int]] = {}


class ShopNow(Struct, frozen=True):
    """The figures of the shop. ``now_ms`` is the newest minute of event time, null without any."""

    now_ms: int | None = None
    online: Online = Online()
    logins: Logins = Logins()
    alerts: list[Alert] = []
    health: Health = Health()
    anomalies: list[Anomaly] = []
    """Newest first."""
    failures: list[FailedRequest] = []
    sessions: list[Sessions] = []
    products: list[Products] = []
    funnel: Funnel = Funnel()


SESSION_LENGTHS_S = (0, 60, 300, 900, 1_800, 3_600)
