"""The shape of ``/live.json``, which the live page reads each second.

Times are milliseconds since the epoch. Lists of one panel have the same length, oldest first.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from footfall.api.shop_snapshot import ShopNow
from footfall.operations.sent import Sent


class Rates(Struct, frozen=True):
    """Records read per second, by topic, over the last minutes of wall time."""

    times_ms: list[int]
    topics: dict[str, list[float | None]]


class Worker(Struct, frozen=True):
    """One worker process; ``gone`` where it has not reported for too long."""

    worker: int
    pid: int
    state: Literal["running", "finished", "gone"]
    age_s: float
    """Time since its last report; 0 while it runs."""
    cpu_share: float
    memory_bytes: int


class Flow(Struct, frozen=True):
    """A flow's workers and its counts: read = used + filtered + late + dead."""

    flow: str
    state: str
    """As ``footfall status`` shows it."""
    trouble: str
    """Its fault as a predicate, "has no worker"; "" where there is none."""
    error: str
    workers: list[Worker]
    read_per_s: float
    read: int
    used: int
    filtered: int
    late: int
    dead: int
    lag: int | None
    """Records that it has not read yet; None where the topics cannot be asked."""
    lag_s: float | None
    """Age of the oldest of them, where it is known."""
    rows_written: int
    watermark_ms: int | None


class Counts(Struct, frozen=True):
    """Counts of records, each counted once however many flows read it.

    ``late`` and ``dead`` are those of the flow that has most of them, by partition.
    """

    read: int = 0
    late: int = 0
    dead: int = 0
    lag: int | None = None
    """Records that some flow has not read yet; None where the topics cannot be asked."""


class Minutes(Struct, frozen=True):
    """Views, buys and revenue (the buys' summed price) of each minute of event time."""

    start_ms: list[int] = []
    views: list[int] = []
    buys: list[int] = []
    revenue: list[int] = []
    whole_ms: int = 0
    """Minutes that end by then are over."""


class TopRow(Struct, frozen=True):
    """One brand, origin or category."""

    name: str
    views: int
    buys: int
    revenue: int


class Top(Struct, frozen=True):
    """Brands, origins and categories with the highest revenue between two moments, best first."""

    from_ms: int = 0
    to_ms: int = 0
    brands: list[TopRow] = []
    origins: list[TopRow] = []
    categories: list[TopRow] = []


class Windows(Struct, frozen=True):
    """The newest windows of store metrics."""

    start_ms: list[int] = []
    end_ms: list[int] = []
    events: list[int] = []
    viewed: list[int] = []
    put_in_cart: list[int] = []
    sold: list[int] = []
    revenue_cents: list[int] = []
    whole_ms: int = 0
    """Windows that end by then are over."""


class Letter(Struct, frozen=True):
    """One of the newest dead letters; ``payload`` is its beginning."""

    flow: str
    topic: str
    partition: int
    offset: int
    code: str
    reason: str
    payload: str


class Snapshot(Struct, frozen=True):
    """Everything the page shows."""

    now_ms: int
    rates: Rates
    flows: list[Flow]
    counts: Counts
    topics: dict[str, int]
    """Records in each topic."""
    sent: list[Sent]
    """Sources that generators of this home have sent."""
    minutes: Minutes
    top: Top
    windows: Windows
    cookies: list[str]
    dead_letters: list[Letter]
    shop: ShopNow = ShopNow()
    problems: dict[str, str] = field(default_factory=dict)
    """By panel: the reason why it shows old values, or no values."""
    waiting: list[str] = []
    """Panels whose first answer has not come yet."""
    troubles: list[str] = []
    """A sentence for each fault of flows and servers; empty where all is well."""
