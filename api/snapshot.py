"""What the live page is told each second: the shape of ``/live.json``.

Times are milliseconds since the epoch. Lists of one panel have the same length, oldest first.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from api.shop_snapshot import ShopNow


class Rates(Struct, frozen=True):
    """Records read a second, by topic, over the last minutes of wall time."""

    times_ms: list[int]
    topics: dict[str, list[float | None]]


class Worker(Struct, frozen=True):
    """One worker process; gone where its status is older than 10 s."""

    worker: int
    pid: int
    state: Literal["running", "finished", "gone"]
    age_s: float
    cpu_share: float
    memory_bytes: int


class Flow(Struct, frozen=True):
    """A flow's workers and its counts: read = used + filtered + late + dead."""

    flow: str
    workers: list[Worker]
    read_per_s: float
    read: int
    used: int
    filtered: int
    late: int
    dead: int
    lag: int
    rows_written: int
    watermark_ms: int | None


class Minutes(Struct, frozen=True):
    """Views, buys and revenue (the buys' summed price) of each minute of event time."""

    start_ms: list[int] = []
    views: list[int] = []
    buys: list[int] = []
    revenue: list[int] = []


class TopRow(Struct, frozen=True):
    """One brand, origin or category."""

    name: str
    views: int
    buys: int
    revenue: int


class Top(Struct, frozen=True):
    """Those with the highest revenue between two moments of event time, best first."""

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
    minutes: Minutes
    top: Top
    windows: Windows
    cookies: list[str]
    dead_letters: list[Letter]
    shop: ShopNow = ShopNow()
    problems: dict[str, str] = field(default_factory=dict)
    """By panel: why it shows old values or none."""
