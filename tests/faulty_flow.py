"""A live worker of minute_buckets with a fault that a replay is to correct.

    python -m tests.faulty_flow [--once]

It takes every price twice, and each tag of one origin for one of another. Settings as always.
"""

from __future__ import annotations

import dataclasses
import os
import sys

import polars as pl

from footfall.cli.servers import settings_for_clients
from footfall.flows import Reading, minute_buckets
from footfall.streams.batch import Batch, Poll
from footfall.streams.decode import Records
from footfall.streams.runner import run_worker

WRONG_ORIGIN = "nowhere"


class FaultyRecords(Records):
    """Decodes as the flow's own, and then gets some origins wrong."""

    def decode(self, flow: str, poll: Poll) -> Batch:
        batch = super().decode(flow, poll)
        is_mistaken = pl.col("origin").str.len_bytes() % 3 == 0
        origin = pl.when(is_mistaken).then(pl.lit(WRONG_ORIGIN)).otherwise("origin")
        return dataclasses.replace(
            batch, frame=batch.frame.with_columns(origin.alias("origin"), pl.col("price") * 2)
        )


def main() -> None:
    """Run the worker until it is stopped."""
    right = minute_buckets.TAGS
    wrong = FaultyRecords(right.struct, right.time, right.columns, bytes_max=right.bytes_max)
    ((topic, reading),) = minute_buckets.FLOW.reads.items()
    assert isinstance(reading, Reading)
    faulty = dataclasses.replace(
        minute_buckets.FLOW, reads={topic: dataclasses.replace(reading, records=wrong)}
    )
    settings = settings_for_clients(os.environ)
    run_worker(
        "minute_buckets",
        lambda run: faulty.wire(settings, run),
        settings.footfall_home,
        once="--once" in sys.argv,
        snapshot_every_s=0.5,
    )


if __name__ == "__main__":
    main()
