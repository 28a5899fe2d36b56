"""``footfall verify --all --truth DIR``: every table against the truth of the simulated shop."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from footfall.cli.errors import FailureError, UsageError
from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from footfall.cli.truth_compare import Comparison
    from footfall.cli.truth_read import Truth

LINES_SHOWN = 5
"""Rows of each sort that are shown per table."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for a table."""

    name: str
    comparison: Comparison | None
    """None where it could not be compared."""
    why_not: str = ""

    @property
    def is_equal(self) -> bool:
        """Tell whether it was compared and nothing differs."""
        return self.comparison is not None and self.comparison.is_equal


def outcomes(settings: Settings, truth: Truth) -> Iterator[Outcome]:
    """Compare one table after the other. Raises sinks.SinkError where a server is away."""
    from footfall import flows
    from footfall.cli.truth_compare import compare
    from footfall.cli.truth_read import Standing, TableError, expected
    from footfall.cli.truth_tables import ASKED

    reads = {name: contract.topics for name, contract in flows.catalogue().items()}
    standing = Standing(settings)
    try:
        for name in truth.names():
            try:
                wanted = expected(truth, name, reads)
                found = standing.frame(name, wanted)
                yield Outcome(name, compare(wanted, found, ASKED[name].key))
            except TableError as error:
                yield Outcome(name, None, " ".join(str(error).split()))
    finally:
        standing.close()


def run_verify_all(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Compare all, print one line per table and what differs; return 0 where all are equal.

    Raises UsageError, and FailureError where the truth is of another world.
    """
    from footfall.cli.servers import clickhouse_for_a_while
    from footfall.cli.truth_read import Truth

    check(args)
    truth = Truth(Path(args.truth))
    with clickhouse_for_a_while(environ, make=False) as settings:
        _check_world(settings, truth)
        unequal = []
        for outcome in outcomes(settings, truth):
            print_outcome(outcome)
            if not outcome.is_equal:
                unequal.append(outcome.name)
    if unequal:
        print(f"{len(unequal)} of {len(truth.names())} tables differ: {', '.join(unequal)}")
        return 1
    print(f"all {len(truth.names())} tables are equal to the truth in {truth.folder}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other."""
    if not args.all:
        raise UsageError("--truth is what all tables are compared with: --all --truth DIR")
    if args.flow is not None:
        raise UsageError(f"--all is every table: leave {args.flow} out")
    if not args.truth:
        raise UsageError("--all: compare with what? --truth DIR, which `footfall demo` writes")
    if args.from_ms is not None or args.to_ms is not None or args.topic or args.complete:
        raise UsageError(
            "--all compares whole tables: leave --from, --to, --topic and --complete out"
        )


def print_outcome(outcome: Outcome) -> None:
    """Print a line, and a table of the first rows that differ."""
    from footfall.cli.table import print_table

    comparison = outcome.comparison
    if comparison is None:
        print(f"{outcome.name}: not compared: {outcome.why_not}", flush=True)
        return
    print(f"{outcome.name}: {comparison.counts()}", flush=True)
    if not comparison.is_equal:
        print_table(comparison.columns(), comparison.lines(LINES_SHOWN))


def _check_world(settings: Settings, truth: Truth) -> None:
    """Raise FailureError where a topic holds another number of records than the truth has, or a
    flow has not read all of them."""
    from footfall.cli.topics import end_of
    from footfall.streams.open import open_topic

    end = end_of(settings)
    counts = {}
    for topic, sent in truth.records().items():
        partitions = open_topic(settings, topic, group="verify").partitions()
        counts[topic] = sum(end(topic, number) for number in range(partitions)), sent
    if any(standing != sent for standing, sent in counts.values()):
        told = ", ".join(f"{topic} {here:,} of {sent:,}" for topic, (here, sent) in counts.items())
        raise FailureError(
            f"the truth in {truth.folder} is of another world, or not all of it was sent: "
            f"records in the topics: {told}"
        )
    behind = flows_behind(settings, {topic: sent for topic, (_, sent) in counts.items()})
    if behind:
        raise FailureError(
            f"{', '.join(behind)} did not read all there is yet: give the same `footfall demo` "
            "again, which goes on from here, and then compare"
        )


def flows_behind(settings: Settings, records: Mapping[str, int]) -> list[str]:
    """Return the flows whose workers have read fewer than so many records by topic."""
    from footfall import flows
    from footfall.operations.positions import of_statuses, read_statuses

    places = of_statuses(read_statuses(settings.footfall_home))
    return [
        name
        for name, contract in flows.catalogue().items()
        if any(
            sum(at for (of, _), at in places.get(name, {}).items() if of == topic)
            < records.get(topic, 0)
            for topic in contract.topics
        )
    ]
