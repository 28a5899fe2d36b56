"""``footfall replay``: writes a range of a flow's rows anew, beside the live worker."""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import FailureError, UsageError, say
from cli.flows import contract_of
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
    from sinks.replay import ReplayTarget, Span
    from streams.replay import Partitions, Replay, Replayed

ROWS_MAX = 50_000
"""Rows gathered before they are written."""
DIFFERENCES_SHOWN = 40
WORKER_SILENT_MAX_S = 10.0
"""A worker that has said nothing for so long does not run."""


def add_commands(commands: Any) -> None:
    """Add ``replay`` to the command line."""
    replay = commands.add_parser(
        "replay",
        help="write a range of a flow's rows anew, beside the live worker",
        description="Read the events of a range of event time again and write the flow's rows "
        "of all windows that lie in it as a new generation, which wins over what stands there, "
        "also where its counts are lower. The live worker goes on; windows that it may still "
        "change are left alone.",
    )
    add_range_options(replay)
    replay.add_argument(
        "--into",
        choices=("live", "shadow"),
        default="live",
        help="shadow: write beside the table, and print the windows that differ (live)",
    )
    replay.add_argument(
        "--swap",
        action="store_true",
        help="exchange the table with its shadow in one moment; alone, or after --into shadow",
    )
    replay.add_argument(
        "--source",
        metavar="PATH",
        help="read the files of an archive (JSON lines, CSV, Parquet), not the topic",
    )
    replay.set_defaults(handler=run_replay)


def run_replay(args: argparse.Namespace) -> int:
    """Write the range, or exchange the tables, and say what was done."""
    from cli.servers import servers_of_flow

    contract = contract_of(args.flow)
    need_replay(args.flow)
    if args.swap and args.into == "live":
        if args.from_ms is not None or args.to_ms is not None or args.source or args.complete:
            raise UsageError("--swap goes alone, or with --into shadow")
    elif args.from_ms is None and args.to_ms is None and not args.source:
        raise UsageError("replay needs --from or --to: the range of event time to write anew")
    with servers_of_flow(os.environ, args.flow) as settings, _alone(settings, args.flow):
        replayable = replayable_of(settings, args.flow)
        _check_kind(replayable, args)
        target = replayable.target()
        try:
            if args.swap and args.into == "live":
                target.swap()
            else:
                _write(settings, replayable, target, args, contract.snapshot_every_s)
        finally:
            target.close()
    if args.swap:
        print(f"{args.flow}: the table and its shadow were exchanged")
    return 0


def _check_kind(replayable: Replayable, args: argparse.Namespace) -> None:
    if not replayable.has_shadow and (args.swap or args.into == "shadow"):
        raise UsageError(
            f"{args.flow} has no table to shadow: what is written again replaces itself; "
            "leave --into and --swap out"
        )
    if replayable.known_by_offset and args.source:
        raise UsageError(
            f"{args.flow} knows a record by its partition and offset, which an archive does not "
            "keep: it would stand there twice; leave --source out"
        )


def _write(
    settings: Settings,
    replayable: Replayable,
    target: ReplayTarget,
    args: argparse.Namespace,
    snapshot_every_s: float,
) -> None:
    from streams.replay import END_MS, Replay, Rules

    if replayable.left_out:
        say(f"{args.flow}: {replayable.left_out} are left as they are")
    shadow = args.into == "shadow"
    asked = range_of(args)
    rules = replayable.rules
    # Before anything is read or made: it may be refused.
    asked.whole_windows(rules.size_ms)
    generation = target.newest_generation() + 1
    limits, since_s = live_limits(settings, args.flow, replayable), time.monotonic()
    if args.source:
        from streams.archive import Archive

        partitions: Partitions = Archive(
            Path(args.source), replayable.topic, replayable.records.struct
        )
        # Its order says nothing of the topic's: every record counts, however late.
        limits = {0: min(limits.values())} if limits else {}
        rules = Rules(rules.size_ms, None)
    else:
        partitions = topic_partitions(settings, args.flow, replayable.topic)
    replay = Replay(
        flow=args.flow,
        partitions=partitions,
        records=replayable.records,
        rules=rules,
        make_step=replayable.make_step(generation, bool(args.source)),
        start_of=replayable.start_of,
        asked=asked,
        complete=args.complete,
        limit_of=lambda partition: limits.get(partition, END_MS),
    )
    if shadow:
        target.make_shadow()
    done, rows = _run(replay, target, shadow=shadow)
    _let_worker_write(settings, args.flow, since_s + 2 * snapshot_every_s)
    spans = _spans_of_archive(replay, done) if args.source else _spans(done)
    removed = target.remove_older(spans, generation, shadow=shadow)
    _report(replay, done, rows, removed, args)
    if shadow:
        _print_differences(target, spans, args.flow)
        if args.swap:
            target.swap()


def _let_worker_write(settings: Settings, flow: str, until_s: float) -> None:
    """Wait for that moment of the monotonic clock if a worker runs: by then it has written all
    that its status told of.

    Until then rows of its own may still come for windows whose groups are taken back.
    """
    from cli.positions import read_statuses

    recent_ms = time.time() * 1000 - WORKER_SILENT_MAX_S * 1000
    if any(
        status.flow == flow and not status.finished and status.updated_ms > recent_ms
        for status in read_statuses(settings.footfall_home)
    ):
        time.sleep(max(0.0, until_s - time.monotonic()))


def _run(replay: Replay, target: ReplayTarget, *, shadow: bool) -> tuple[list[Replayed], int]:
    """Replay every partition; what came of each, and how many rows were written."""
    waiting: list[pl.DataFrame] = []
    written = 0

    def flush() -> None:
        nonlocal written
        written += sum(map(len, waiting))
        target.write(waiting, shadow=shadow)
        waiting.clear()

    def take(rows: pl.DataFrame) -> None:
        waiting.append(rows)
        if sum(map(len, waiting)) >= ROWS_MAX:
            flush()

    done = read_partitions(replay, replay.flow, take)
    if waiting:
        flush()
    return done, written


def _spans(done: list[Replayed]) -> list[Span]:
    """What the replay of a topic has settled."""
    from sinks.replay import Span

    return [
        Span(part.partition, part.windows.from_ms, part.windows.to_ms)
        for part in done
        if part.windows.from_ms < part.windows.to_ms
    ]


def _spans_of_archive(replay: Replay, done: list[Replayed]) -> list[Span]:
    """What an archive speaks of, for all partitions of the topic.

    Where no end of the range was asked for it is that of the events in the archive, and it
    says nothing where it has none: what it does not reach must not be taken back.
    """
    from sinks.replay import Span
    from streams.replay import BEGIN_MS, END_MS

    (part,) = done
    if part.newest_ms < part.oldest_ms:
        say("the archive has no event of the range: what stands there was left alone")
        return []
    size_ms = replay.rules.size_ms
    from_ms, to_ms = part.windows.from_ms, part.windows.to_ms
    if replay.asked.from_ms == BEGIN_MS:
        from_ms = part.oldest_ms // size_ms * size_ms
    if replay.asked.to_ms == END_MS:
        to_ms = min(to_ms, (part.newest_ms // size_ms + 1) * size_ms)
    return [Span(None, from_ms, to_ms)] if from_ms < to_ms else []


def _report(
    replay: Replay, done: list[Replayed], rows: int, removed: int, args: argparse.Namespace
) -> None:
    read, dead, late = (
        sum(getattr(part, name) for part in done) for name in ("read", "dead", "late")
    )
    where = "shadow rows" if args.into == "shadow" else "rows"
    print(
        f"{args.flow}: {read:,} records read, {rows:,} {where} written, {removed:,} of earlier "
        f"generations taken back; {late:,} late, {dead:,} dead"
    )
    asked = replay.asked.whole_windows(replay.rules.size_ms)
    begun_ms = max(part.windows.from_ms for part in done)
    if begun_ms > asked.from_ms:
        which = f"windows before {shown(begun_ms)}" if begun_ms < asked.to_ms else "windows"
        say(
            f"{which} were left alone where retention has removed their first events from the "
            "topic"
        )
    with_events = [part for part in done if part.newest_ms >= part.windows.from_ms]
    if not with_events:
        return
    open_ms = min(part.windows.to_ms for part in with_events)
    if open_ms < min(asked.to_ms, max(part.newest_ms for part in with_events) + 1):
        say(
            f"windows from {shown(open_ms)} on were left alone where the live worker may still "
            "change them; replay them later, or with --complete if nothing will follow"
        )


def _print_differences(target: ReplayTarget, spans: list[Span], flow: str) -> None:
    from cli.table import print_table
    from sinks.replay import DIFFERENCES_MAX

    found = target.differences(spans)
    if not found:
        print(f"{flow}: the shadow is equal to the table")
        return
    columns = ["window"]
    for name in target.sums:
        columns += [name, "in shadow"]
    rows = []
    for difference in found[:DIFFERENCES_SHOWN]:
        row: list[object] = [shown(difference.start_ms)]
        for place in range(len(target.sums)):
            row += [
                difference.live[place] if difference.live else "-",
                difference.shadow[place] if difference.shadow else "-",
            ]
        rows.append(row)
    print_table(columns, rows)
    more = len(found) - len(rows)
    or_more = " or more" if len(found) == DIFFERENCES_MAX else ""
    tail = f" (the first {len(rows)} are shown)" if more else ""
    print(
        f"{flow}: {len(found):,}{or_more} windows differ{tail}; `footfall replay {flow} --swap` "
        "exchanges the table and its shadow"
    )


@contextmanager
def _alone(settings: Settings, flow: str) -> Iterator[None]:
    """One replay of a flow at a time: two would take the same generation."""
    folder = settings.footfall_home / "replay"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{flow}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailureError(f"another replay of {flow} runs: wait for it, or end it") from None
        yield
