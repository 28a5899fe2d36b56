"""``footfall verify``: counts a flow's topic against its table, and names what differs.

``--all --truth DIR`` compares every table with the truth of the simulated shop (verify_all).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from footfall.cli.errors import UsageError, say
from footfall.cli.flows import contract_of
from footfall.cli.ranges import (
    add_range_options,
    label_of,
    live_limits,
    need_replay,
    offsets_read,
    range_of,
    read_partitions,
    replayables_of,
    shown,
    topic_partitions,
)
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.topics import PARTITION

if TYPE_CHECKING:
    import polars as pl

    from footfall.cli.verify_rows import RawTarget, StoreTarget
    from footfall.flows._replay import Replayable
    from footfall.sinks.replay import ReplayTarget
    from footfall.streams.replay import Replay, Replayed

LINES_SHOWN = 40


def add_commands(commands: Any) -> None:
    """Add ``verify`` to the command line."""
    verify = commands.add_parser(
        "verify",
        help="compare topic and tables",
        description="Count a range of the flow's topic again, compare with what its table holds, "
        "and name the windows that differ; of a flow that writes a row a record, the minutes "
        "whose rows do. Exit code 1 where a window that nothing can change any more, or the row "
        "of a record that the worker has read, is not equal, or a row is of a partition that the "
        "topic does not have. With --all --truth DIR: compare "
        "every row of every table with what `footfall demo --shop --truth DIR` has written; exit "
        "code 1 where one differs.",
    )
    add_range_options(verify, may_be_all=True)
    verify.add_argument("--all", action="store_true", help="every table, with --truth")
    verify.add_argument(
        "--truth", metavar="DIR", help="what every table must hold, as `footfall demo` wrote it"
    )
    verify.set_defaults(handler=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    """Compare, print what differs; return 0 where all that is certain is equal."""
    from footfall.cli.servers import servers_of_flow

    if args.all or args.truth:
        from footfall.cli.verify_all import run_verify_all

        return run_verify_all(args, os.environ)
    if args.flow is None:
        raise UsageError("verify: which FLOW? (`footfall flows` lists them; or --all --truth DIR)")
    contract_of(args.flow)
    need_replay(args.flow)
    # Before any server is asked: it may be refused.
    range_of(args)
    replayables_of(read_settings(os.environ), args.flow, args.topic)
    with servers_of_flow(os.environ, args.flow) as settings:
        return max(
            _verify(settings, replayable, args)
            for replayable in replayables_of(settings, args.flow, args.topic)
        )


def _verify(settings: Settings, replayable: Replayable, args: argparse.Namespace) -> int:
    from footfall.cli.gone import tell_gone
    from footfall.cli.verify_rows import verify_raw, verify_stored
    from footfall.streams.replay import END_OFFSET

    with closing(replayable.target()) as target:
        windows = range_of(args).whole_windows(replayable.rules.size_ms)
        if replayable.count_step is not None:
            code = _verify_sums(settings, replayable, target, args)
            return max(code, tell_gone(settings, args.flow, replayable, target, windows))
        # Records that the worker has not read yet are still to be written.
        read_to = {} if args.complete else offsets_read(settings, args.flow, replayable)
        make_step, start_of = replayable.make_step(0, False), replayable.start_of
        replay = _replay(settings, replayable, args, make_step, start_of)
        if replayable.is_raw:
            replay = replace(replay, read_to=lambda partition: read_to.get(partition, END_OFFSET))
            code = verify_raw(settings, replay, cast("RawTarget", target))
            return max(code, tell_gone(settings, args.flow, replayable, target, windows))
        return verify_stored(replay, cast("StoreTarget", target), read_to)


def _verify_sums(
    settings: Settings,
    replayable: Replayable,
    target: ReplayTarget,
    args: argparse.Namespace,
) -> int:
    import polars as pl

    from footfall.sinks.replay import START_MS
    from footfall.streams.replay import END_MS

    assert replayable.count_step is not None
    replay = _replay(settings, replayable, args, replayable.count_step, pl.col(START_MS))
    frames: list[pl.DataFrame] = []
    label = label_of(args.flow, replayable)
    # A flow with sums has one table, so that rows are one frame.
    done = read_partitions(replay, f"verify {label}", frames.append)  # type: ignore[arg-type]
    windows = replay.asked.whole_windows(replay.rules.size_ms)
    standing = target.totals(windows.from_ms, windows.to_ms)
    counted = pl.concat(frames) if frames else standing.clear()
    every = differences(counted, standing, done, target.sums)
    settled_ms = {part.partition: END_MS if args.complete else part.settled_ms for part in done}
    certain = [row for row in every if row[0] < settled_ms[row[1]]]
    events = int(counted[target.sums[0]].sum())
    count = counted[START_MS].n_unique()
    read, late, dead = (
        sum(getattr(part, name) for part in done) for name in ("read", "late", "dead")
    )
    print(
        f"{label}: {read:,} records read, {events:,} {replayable.counted} in {count:,} windows, "
        f"{late:,} late, {dead:,} dead"
    )
    if certain:
        _print(certain, target.sums)
        of_topic = "" if label == args.flow else f" --topic {replayable.topic}"
        print(
            f"{label}: {len({row[0] for row in certain}):,} windows differ; "
            f"`footfall replay {args.flow}{of_topic} --from {shown(certain[0][0])} --to "
            f"{shown(certain[-1][0] + replay.rules.size_ms)}` writes them anew"
        )
    elif every:
        print(f"{label}: topic and table are equal where nothing can change any more")
    else:
        print(f"{label}: topic and table are equal" if count else f"{label}: no event")
    if len(every) > len(certain):
        windows_open = {row[0] for row in every} - {row[0] for row in certain}
        say(
            f"{len(windows_open):,} windows from {shown(min(windows_open))} on differ too, which "
            "the worker may still change (--complete counts them as different)"
        )
    return 1 if certain else 0


DifferenceRow = tuple[int, int, str, int, int]
"""(window's start in ms, partition, sum, in the topic, in the table)"""


def differences(
    counted: pl.DataFrame,
    standing: pl.DataFrame,
    done: Sequence[Replayed],
    sums: Sequence[str],
) -> list[DifferenceRow]:
    """Return the differing sums of each (partition, window), of the windows that were read.

    A window whose sums over all partitions are equal is equal, as for its readers: after a replay
    from an archive all of its rows are in one partition.
    """
    from footfall.sinks.replay import START_MS

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


def _replay(
    settings: Settings,
    replayable: Replayable,
    args: argparse.Namespace,
    make_step: Any,
    start_of: pl.Expr,
) -> Replay:
    from footfall.streams.replay import END_MS, Replay

    limits = live_limits(settings, args.flow, replayable)
    return Replay(
        flow=args.flow,
        topic=replayable.topic,
        partitions=topic_partitions(settings, replayable.topic),
        records=replayable.records,
        rules=replayable.rules,
        make_step=make_step,
        start_of=start_of,
        asked=range_of(args),
        complete=True,
        limit_of=lambda partition: limits.get(partition, END_MS),
    )


def _print(differing: Sequence[DifferenceRow], sums: Sequence[str]) -> None:
    from footfall.cli.table import print_table

    rows = [
        (shown(start_ms), partition, name, in_topic, in_table, in_table - in_topic)
        for start_ms, partition, name, in_topic, in_table in differing[:LINES_SHOWN]
    ]
    print_table(("window", "partition", "sum", "topic", "table", "table - topic"), rows)
    if len(differing) > LINES_SHOWN:
        print(f"... and {len(differing) - LINES_SHOWN:,} more")
