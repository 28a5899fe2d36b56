"""A live worker of a flow of raw rows or windows with faults that a replay is to correct.

    python -m tests.faulty_rows FLOW [--once]

Some records are passed over, some taken for others, and some get wrong values or times.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping

import polars as pl

from footfall import flows
from footfall.cli.servers import settings_for_clients
from footfall.flows import Reading
from footfall.schemas.platform_logs import INVALID
from footfall.schemas.shop_events import KINDS
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS
from footfall.streams.batch import TIME_MS, Batch, Poll
from footfall.streams.decode import Records
from footfall.streams.runner import run_worker

IS_VISIT = pl.col("kind") == KINDS.index("PageVisit")


def some(nth: int) -> pl.Expr:
    """Return a condition for about one record of so many."""
    return pl.col(TIME_MS) % nth == 0


def put(column: str, value: pl.Expr, where: pl.Expr) -> pl.Expr:
    """Return the column with another value in some places."""
    return pl.when(where).then(value).otherwise(column).alias(column)


FAULTS: Mapping[str, Mapping[str, tuple[pl.Expr, ...]]] = {
    "failed_logins": {
        PLATFORM_LOGS.name: (
            put("log", pl.lit("LoginRep"), some(5)),
            put("status", pl.when(some(5)).then(pl.lit(INVALID)), some(5) | some(3)),
            put("user_id", pl.lit("nobody"), some(4)),
        )
    },
    "shop_events_hot": {
        SHOP_EVENTS.name: (
            put("kind", pl.lit(KINDS.index("CartAdd"), pl.UInt8), IS_VISIT & some(3)),
            put("int_0", pl.col("int_0") + 1, IS_VISIT & some(5)),
            put("user_id", pl.lit(0), some(7)),
        )
    },
    "product_views": {
        PLATFORM_LOGS.name: (put(TIME_MS, pl.col(TIME_MS) + 60_000, some(3)),),
        STORE_EVENTS.name: (put("event_type", pl.lit("view"), some(3)),),
        USER_TAGS.name: (put("action", pl.lit("BUY"), some(3)),),
    },
}
"""The columns of a batch as they are got wrong, by flow and topic."""


@dataclasses.dataclass(frozen=True, slots=True)
class Faulty(Records):
    """Decodes as another, and then gets some columns wrong."""

    faults: tuple[pl.Expr, ...] = ()

    def decode(self, flow: str, poll: Poll) -> Batch:
        batch = Records.decode(self, flow, poll)
        return dataclasses.replace(batch, frame=batch.frame.with_columns(*self.faults))


def faulty(right: Reading, faults: tuple[pl.Expr, ...]) -> Reading:
    """Return the reading with faults."""
    fields = {name: getattr(right.records, name) for name in Records.__slots__ if name[0] != "_"}
    return Reading(Faulty(**fields, faults=faults), right.step)


def main() -> None:
    """Run the worker until it is stopped."""
    flow = sys.argv[1]
    right = flows.catalogue()[flow]
    readings = right.readings()
    wrong = dataclasses.replace(
        right,
        reads={
            topic: faulty(readings[topic.name], FAULTS[flow][topic.name]) for topic in right.reads
        },
    )
    settings = settings_for_clients(os.environ)
    run_worker(
        flow,
        lambda run: wrong.wire(settings, run),
        settings.footfall_home,
        once="--once" in sys.argv,
        snapshot_every_s=0.5,
        steps=wrong.steps,
    )


if __name__ == "__main__":
    main()
