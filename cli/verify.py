"""``footfall verify``: counts a flow's topic against its table, and names what differs.

``--all --truth DIR`` compares every table with the truth of the simulated shop (verify_all).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError, say
from cli.flows import contract_of
from cli.positions import of_statuses, read_statuses
from cli.ranges import (
    add_range_options,
    live_limits,
    need_replay,
    range_of,
    read_partitions,
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
ROWS_MAX = 100_000
"""Events held at once, to be looked up in a store that holds them themselves."""


def add_commands(commands: Any) -> None:
    """Add ``verify`` to the command line."""
    verify = commands.add_parser(
        "verify",
        help="compare topic and tables",
        description="Count a range of the flow's topic again, compare with what its table holds, "
        "and name the windows that differ. Exit code 1 where a window that nothing can change "
        "any more is not equal. With --all --truth DIR: compare every row of every table with "
        "what `footfall demo --shop --truth DIR` has written; exit code 1 where one differs.",
    )
    add_range_options(verify, may_be_all=True)
    verify.add_argument("--all", action="store_true", help="every table, with --truth")
    verify.add_argument(
        "--truth", metavar="DIR", help="what every table must hold, as `footfall demo` wrote it"
    )
    verify.set_defaults(handler=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    """Compare, print what differs; 0 where all that is certain is equal."""
    from cli.servers import servers_of_flow

    if args.all or args.truth:
        from cli.verify_all import run_verify_all

        return run_verify_all(args, os.environ)
    if args.flow is None:
        raise UsageError("verify: which FLOW? (`footfall flows` lists them; or --all --truth DIR)")
    contract_of(args.flow)
    need_replay(args.flow)
    # Before any server is asked: it may be refused.
    range_of(args)
    with servers_of_flow(os.environ, args.flow) as settings:
        replayable = replayable_of(settings, args.flow)
        target = replayable.target()
        try:
            if replayable.count_step is None:
                return _verify_rows(settings, replayable, target, args)
            return _verify_sums(settings, replayable, target, args)
        finally:
            target.close()


def _verify_sums(
    settings: Settings,
    replayable: Replayable,
    target: ReplayTarget,
    args: argparse.Namespace,
) -> int:
    import polars as pl

    from sinks.replay import START_MS
    from streams.replay import END_MS

    assert replayable.count_step is not None
    replay = _replay(settings, replayable, args, replayable.count_step, pl.col(START_MS))
    frames: list[pl.DataFrame] = []
    done = read_partitions(replay, f"verify {args.flow}", frames.append)
    windows = replay.asked.whole_windows(replay.rules.size_ms)
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
    """Where the sums of a (partition, window) differ, of the windows that were read.

    A window whose sums over all partitions are equal is equal, as for its readers: after a replay
    from an archive all of its rows stand in one partition.
    """
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
            pair[place] = _added(pair[place], values)
    whole: dict[int, list[tuple[int, ...]]] = {}
    for (start_ms, _), pair in found.items():
        both = whole.setdefault(start_ms, [none, none])
        both[:] = [_added(total, part) for total, part in zip(both, pair, strict=True)]
    return [
        (start_ms, partition, name, in_topic, in_table)
        for (start_ms, partition), (topic, table) in sorted(found.items())
        if whole[start_ms][0] != whole[start_ms][1]
        for name, in_topic, in_table in zip(sums, topic, table, strict=True)
        if in_topic != in_table
    ]


def _added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _verify_rows(
    settings: Settings, replayable: Replayable, target: Any, args: argparse.Namespace
) -> int:
    """Where a store holds the events themselves: each must be there."""
    replay = _replay(
        settings, replayable, args, replayable.make_step(0, False), replayable.start_of
    )
    places = {} if args.complete else of_statuses(read_statuses(settings.footfall_home))
    missing = Missing(target.missing, _offsets_read(places.get(args.flow, {}), replayable.topic))
    done = read_partitions(replay, f"verify {args.flow}", missing.take)
    missing.look_up()
    read, _, dead = (sum(getattr(part, name) for part in done) for name in _COUNTED)
    print(f"{args.flow}: {read:,} records read, {missing.events:,} to be found, {dead:,} dead")
    if missing.left_out:
        say(
            f"{missing.left_out:,} events were left out that the worker has not read yet "
            "(--complete counts them as missing)"
        )
    minutes = missing.by_minute
    if not minutes:
        print(f"{args.flow}: all that should stand in the store does")
        return 0
    for minute_ms, (count, example) in sorted(minutes.items())[:LINES_SHOWN]:
        print(f"{shown(minute_ms)}  {count:,} missing, such as {example}")
    first_ms, last_ms = min(minutes), max(minutes) + MINUTE_MS
    total = sum(count for count, _ in minutes.values())
    print(
        f"{args.flow}: {total:,} missing in {len(minutes):,} minutes; `footfall replay "
        f"{args.flow} --from {shown(first_ms)} --to {shown(last_ms)}` writes them again"
    )
    return 1


def _offsets_read(places: Mapping[tuple[str, int], int], topic: str) -> dict[int, int]:
    return {partition: offset for (name, partition), offset in places.items() if name == topic}


class Missing:
    """Looks events up in a store, so many at a time, and counts those it lacks."""

    def __init__(
        self,
        missing: Callable[[pl.DataFrame], Iterable[tuple[int, str, str]]],
        read_to: Mapping[int, int],
    ) -> None:
        """``read_to``: by partition, the next offset of the worker; what follows is left out."""
        self._missing = missing
        self._read_to = read_to
        self.left_out = 0
        self._waiting: list[pl.DataFrame] = []
        self.events = 0
        self.by_minute: dict[int, tuple[int, str]] = {}
        """Minute's start in ms -> (how many, one of them in words)"""

    def take(self, rows: pl.DataFrame) -> None:
        """Look the rows of one partition up, now or with the next ones."""
        read_to = self._read_to.get(rows["topic_partition"][0])
        if read_to is not None:
            is_read = rows["offset"] < read_to
            self.left_out += len(rows) - int(is_read.sum())
            rows = rows.filter(is_read)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= ROWS_MAX:
            self.look_up()

    def look_up(self) -> None:
        """Look up what was taken."""
        import polars as pl

        if not self._waiting:
            return
        rows = pl.concat(self._waiting)
        self._waiting.clear()
        self.events += len(rows)
        for time_ms, cookie, kind in self._missing(rows):
            minute_ms = time_ms // MINUTE_MS * MINUTE_MS
            count, example = self.by_minute.get(minute_ms, (0, f"{kind} of {cookie}"))
            self.by_minute[minute_ms] = (count + 1, example)


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
        partitions=topic_partitions(settings, args.flow, replayable.topic),
        records=replayable.records,
        rules=replayable.rules,
        make_step=make_step,
        start_of=start_of,
        asked=range_of(args),
        complete=True,
        limit_of=lambda partition: limits.get(partition, END_MS),
    )


def _print(differing: Sequence[DifferenceRow], sums: Sequence[str]) -> None:
    from cli.table import print_table

    rows = [
        (shown(start_ms), partition, name, in_topic, in_table, in_table - in_topic)
        for start_ms, partition, name, in_topic, in_table in differing[:LINES_SHOWN]
    ]
    print_table(("window", "partition", "sum", "topic", "table", "table - topic"), rows)
    if len(differing) > LINES_SHOWN:
        print(f"... and {len(differing) - LINES_SHOWN:,} more")
