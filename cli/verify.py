"""``footfall verify``: counts a flow's topic against its table, and names what differs."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.errors import say
from cli.progress import Told
from cli.ranges import (
    add_range_options,
    check_flow,
    live_limits,
    range_of,
    replayable_of,
    shown,
    topic_partitions,
)
from schemas.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from flows._replay import Replayable
    from sinks.replay import ReplayTarget
    from streams.replay import Replay, Replayed

LINES_SHOWN = 40
MINUTE_MS = 60_000


def add_commands(commands: Any) -> None:
    """Add ``verify`` to the command line."""
    verify = commands.add_parser(
        "verify",
        help="compare topic and tables",
        description="Count a range of the flow's topic again, compare with what its table holds, "
        "and name the windows that differ. Exit code 1 where a window that nothing can change "
        "any more is not equal.",
    )
    add_range_options(verify)
    verify.set_defaults(handler=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    """Compare, print what differs; 0 where all that is certain is equal."""
    from cli.servers import servers_of_flow

    check_flow(args.flow)
    asked = range_of(args)
    with servers_of_flow(os.environ, args.flow) as settings:
        replayable = replayable_of(settings, args.flow)
        target = replayable.target()
        try:
            if replayable.count_step is None:
                return _verify_rows(settings, replayable, target, args)
            return _verify_sums(settings, replayable, target, args, asked)
        finally:
            target.close()


def _verify_sums(
    settings: Settings,
    replayable: Replayable,
    target: ReplayTarget,
    args: argparse.Namespace,
    asked: Any,
) -> int:
    import polars as pl

    from sinks.replay import START_MS
    from streams.replay import END_MS

    assert replayable.count_step is not None
    replay = _replay(settings, replayable, args, replayable.count_step(False), pl.col(START_MS))
    frames: list[pl.DataFrame] = []
    done = _run(replay, frames)
    windows = asked.whole_windows(replay.rules.size_ms)
    standing = target.totals(windows.from_ms, windows.to_ms)
    counted = pl.concat(frames) if frames else standing.clear()
    every = differences(counted, standing, done, target.sums)
    settled_ms = {part.partition: END_MS if args.complete else part.settled_ms for part in done}
    certain = [row for row in every if row[0] < settled_ms[row[1]]]
    events = int(counted[target.sums[0]].sum())
    count = counted[START_MS].n_unique()
    read, late, dead = (sum(getattr(part, name) for part in done) for name in _COUNTED)
    print(
        f"{args.flow}: {read:,} records read, {events:,} events in {count:,} windows, "
        f"{late:,} late, {dead:,} dead"
    )
    if certain:
        _print(certain, target.sums)
        print(
            f"{args.flow}: {len({row[0] for row in certain}):,} windows differ; "
            f"`footfall replay {args.flow} --from {shown(certain[0][0])} --to "
            f"{shown(certain[-1][0] + replay.rules.size_ms)}` writes them anew"
        )
    elif every:
        print(f"{args.flow}: topic and table are equal where nothing can change any more")
    else:
        print(f"{args.flow}: topic and table are equal" if count else f"{args.flow}: no event")
    if len(every) > len(certain):
        windows_open = {row[0] for row in every} - {row[0] for row in certain}
        say(
            f"{len(windows_open):,} windows from {shown(min(windows_open))} on differ too, which "
            "the worker may still change (--complete counts them as different)"
        )
    return 1 if certain else 0


_COUNTED = ("read", "late", "dead")

DifferenceRow = tuple[int, int, str, int, int]
"""(window's start in ms, partition, sum, in the topic, in the table)"""


def differences(
    counted: pl.DataFrame,
    standing: pl.DataFrame,
    done: Sequence[Replayed],
    sums: Sequence[str],
) -> list[DifferenceRow]:
    """Where the sums of a (partition, window) differ, of the windows that were read."""
    from sinks.replay import PARTITION, START_MS

    spans = {part.partition: part.windows for part in done}
    found: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    none = (0,) * len(sums)
    for place, frame in enumerate((counted, standing)):
        for start_ms, partition, *values in frame.select(START_MS, PARTITION, *sums).iter_rows():
            span = spans.get(partition)
            if span is None or not span.from_ms <= start_ms < span.to_ms:
                continue
            pair = found.setdefault((start_ms, partition), [none, none])
            # A window may come in several rows where it was counted in parts.
            pair[place] = tuple(a + b for a, b in zip(pair[place], values, strict=True))
    return [
        (start_ms, partition, name, in_topic, in_table)
        for (start_ms, partition), (topic, table) in sorted(found.items())
        for name, in_topic, in_table in zip(sums, topic, table, strict=True)
        if in_topic != in_table
    ]


def _verify_rows(
    settings: Settings, replayable: Replayable, target: Any, args: argparse.Namespace
) -> int:
    """Where a store holds the events themselves: each must be there."""
    import polars as pl

    replay = _replay(
        settings, replayable, args, replayable.make_step(0, False), replayable.start_of
    )
    frames: list[pl.DataFrame] = []
    done = _run(replay, frames)
    rows = pl.concat(frames) if frames else None
    missing = list(target.missing(rows)) if rows is not None else []
    read, _, dead = (sum(getattr(part, name) for part in done) for name in _COUNTED)
    events = len(rows) if rows is not None else 0
    print(f"{args.flow}: {read:,} records read, {events:,} to be found, {dead:,} dead")
    if not missing:
        print(f"{args.flow}: all that should stand in the store does")
        return 0
    minutes = Counter(time_ms // MINUTE_MS * MINUTE_MS for time_ms, *_ in missing)
    for minute_ms, count in sorted(minutes.items())[:LINES_SHOWN]:
        example = next(row for row in missing if row[0] // MINUTE_MS * MINUTE_MS == minute_ms)
        print(f"{shown(minute_ms)}  {count:,} missing, such as {example[2]} of {example[1]}")
    first_ms, last_ms = min(minutes), max(minutes) + MINUTE_MS
    print(
        f"{args.flow}: {len(missing):,} missing in {len(minutes):,} minutes; `footfall replay "
        f"{args.flow} --from {shown(first_ms)} --to {shown(last_ms)}` writes them again"
    )
    return 1


def _replay(
    settings: Settings,
    replayable: Replayable,
    args: argparse.Namespace,
    make_step: Any,
    start_of: pl.Expr,
) -> Replay:
    from streams.replay import END_MS, Replay

    limits = live_limits(settings, args.flow, replayable)
    return Replay(
        flow=args.flow,
        partitions=topic_partitions(settings, replayable.topic),
        records=replayable.records,
        rules=replayable.rules,
        make_step=make_step,
        start_of=start_of,
        asked=range_of(args),
        complete=True,
        limit_of=lambda partition: limits.get(partition, END_MS),
    )


def _run(replay: Replay, frames: list[pl.DataFrame]) -> list[Replayed]:
    done = []
    count = replay.partitions.count()
    with Told(f"verify {replay.flow}") as told:
        for partition in range(count):
            told.part(partition, count)
            done.append(replay.run(partition, frames.append, told))
    return done


def _print(differing: Sequence[DifferenceRow], sums: Sequence[str]) -> None:
    from cli.table import print_table

    rows = [
        (shown(start_ms), partition, name, in_topic, in_table, in_table - in_topic)
        for start_ms, partition, name, in_topic, in_table in differing[:LINES_SHOWN]
    ]
    print_table(("window", "partition", "sum", "topic", "table", "table - topic"), rows)
    if len(differing) > LINES_SHOWN:
        print(f"... and {len(differing) - LINES_SHOWN:,} more")
