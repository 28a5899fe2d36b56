"""``footfall replay``: writes a range of a flow's rows again, beside the live worker."""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from footfall.cli.errors import FailureError, UsageError, say
from footfall.cli.flows import contract_of
from footfall.cli.gone import run_gone
from footfall.cli.ranges import (
    add_range_options,
    label_of,
    let_worker_write,
    live_limits,
    need_replay,
    offsets_read,
    range_of,
    read_partitions,
    replayables_of,
    say_left_out,
    shown,
    topic_partitions,
    topics_of,
)
from footfall.cli.replay_archive import ArchiveSource
from footfall.schemas.settings import Settings, read_settings

if TYPE_CHECKING:
    from footfall.flows._replay import Replayable
    from footfall.sinks.replay import ReplayTarget, Span
    from footfall.streams.batch import Rows
    from footfall.streams.replay import Partitions, Replay, Replayed

DIFFERENCES_SHOWN = 40


def add_commands(commands: Any) -> None:
    """Add ``replay`` to the command line."""
    replay = commands.add_parser(
        "replay",
        help="write a range of a flow's rows anew, beside the live worker",
        description="Read the events of a range of event time again and write the flow's rows "
        "of all windows that lie in it as a new generation, which wins over what stands there, "
        "also where its counts are lower. The live worker goes on; windows that it may still "
        "change, and records that it has not read, are left alone.",
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
        help="read the files of an archive (JSON lines, CSV, Parquet), not the topic; rows that "
        "cannot be read become dead letters",
    )
    replay.add_argument(
        "--yes",
        action="store_true",
        help="with --source: also take back, without asking, windows that the archive has no "
        "event of",
    )
    replay.add_argument(
        "--gone",
        action="store_true",
        help="take back the rows of partitions that the topic does not have, and read nothing",
    )
    replay.set_defaults(handler=run_replay)


def run_replay(args: argparse.Namespace) -> int:
    """Write the range, or exchange the tables, and say what was done."""
    from footfall.cli.servers import servers_of_flow

    contract = contract_of(args.flow)
    need_replay(args.flow)
    if args.gone:
        if args.into == "shadow" or args.swap or args.source or args.complete:
            raise UsageError("--gone goes alone, or with --from, --to and --topic")
        with servers_of_flow(os.environ, args.flow) as settings, _alone(settings, args.flow):
            run_gone(settings, args)
        return 0
    if args.swap and args.into == "live":
        if args.from_ms is not None or args.to_ms is not None or args.source or args.complete:
            raise UsageError("--swap goes alone, or with --into shadow")
        if args.topic:
            raise UsageError("--swap exchanges the whole table: leave --topic out")
    elif args.from_ms is None and args.to_ms is None and not args.source:
        raise UsageError("replay needs --from or --to: the range of event time to write anew")
    # Before any server is asked: it may be refused.
    for replayable in replayables_of(read_settings(os.environ), args.flow, args.topic):
        _check_kind(replayable, args)
        range_of(args).whole_windows(replayable.rules.size_ms)
    with servers_of_flow(os.environ, args.flow) as settings, _alone(settings, args.flow):
        parts = replayables_of(settings, args.flow, args.topic)
        with ExitStack() as opened:
            targets = [opened.enter_context(closing(part.target())) for part in parts]
            if args.swap and args.into == "live":
                targets[0].swap(topics_of(settings, args.flow))
            else:
                _write(settings, parts, targets, args, contract.snapshot_every_s)
    if args.swap:
        print(f"{args.flow}: the table and its shadow were exchanged")
    return 0


def _check_kind(replayable: Replayable, args: argparse.Namespace) -> None:
    if args.yes and not args.source:
        raise UsageError("--yes goes with --source: only of an archive is anything asked")
    if not replayable.has_shadow and (args.swap or args.into == "shadow"):
        raise UsageError(
            f"{args.flow} has no table to shadow: what is written again replaces itself; "
            f"leave --into and --swap out (`footfall verify {args.flow}` looks first)"
        )
    if replayable.known_by_offset and args.source:
        raise UsageError(
            f"{args.flow} knows a record by its partition and offset, which an archive does not "
            "keep: it would stand there twice; leave --source out"
        )
    reads = contract_of(args.flow).topics
    if args.source and not args.topic and len(reads) > 1:
        raise UsageError(
            f"--source: {args.flow} reads {', '.join(reads)}; say with --topic of which the "
            "archive is"
        )


def _write(
    settings: Settings,
    parts: list[Replayable],
    targets: list[ReplayTarget],
    args: argparse.Namespace,
    snapshot_every_s: float,
) -> None:
    """Write the range of each topic as one generation, and take back rows without an event."""
    shadow = args.into == "shadow"
    generation = 1 + max(target.newest_generation() for target in targets)
    since_s = time.monotonic()
    source = ArchiveSource(args, settings, parts[0]) if args.source else None
    replays = [_replay(settings, part, args, generation, source) for part in parts]
    if shadow:
        targets[0].make_shadow(topics_of(settings, args.flow))
    ran = []
    with closing(source) if source is not None else nullcontext():
        for part, replay, target in zip(parts, replays, targets, strict=True):
            label = label_of(args.flow, part)
            ran.append(_run(replay, target, label, part.rows_max, shadow=shadow))
    let_worker_write(settings, args.flow, since_s + 2 * snapshot_every_s)
    for part, replay, target, (done, rows) in zip(parts, replays, targets, ran, strict=True):
        label = label_of(args.flow, part)
        if source is not None:
            spans, removed = source.take_back(replay, done[0], target, generation, label)
        else:
            spans = _spans(done, part)
            removed = target.remove_older(spans, generation, shadow=shadow)
        where = "shadow rows" if shadow else "rows"
        _report(
            replay, done, f"{rows:,} {where} written, {removed:,} of earlier generations", label
        )
        if source is not None:
            source.report(done[0], args.flow)
        if shadow:
            _print_differences(target, spans, label, args.flow)
    if args.swap:
        if not any(rows for _, rows in ran):
            raise FailureError(f"{args.flow}: no row was written, so there is nothing to exchange")
        targets[0].swap(topics_of(settings, args.flow))


def _replay(
    settings: Settings,
    replayable: Replayable,
    args: argparse.Namespace,
    generation: int,
    source: ArchiveSource | None,
) -> Replay:
    """Return the replay of a topic, or of its archive."""
    from footfall.streams.replay import END_MS, END_OFFSET, Replay, Rules

    rules = replayable.rules
    limits = live_limits(settings, args.flow, replayable)
    read_to: dict[int, int] = {}
    if replayable.is_raw and not args.complete:
        # The worker would write its own rows of other records beside those of a corrected flow.
        read_to = offsets_read(settings, args.flow, replayable)
    if source is not None:
        partitions: Partitions = source.archive
        # An archive's order is not the topic's: every record counts, however late.
        limits = {0: min(limits.values())} if limits else {}
        rules = Rules(rules.size_ms, None)
    else:
        partitions = topic_partitions(settings, replayable.topic)
    return Replay(
        flow=args.flow,
        topic=replayable.topic,
        partitions=partitions,
        records=replayable.records,
        rules=rules,
        make_step=replayable.make_step(generation, source is not None),
        start_of=replayable.start_of,
        asked=range_of(args),
        complete=args.complete,
        limit_of=lambda partition: limits.get(partition, END_MS),
        read_to=lambda partition: read_to.get(partition, END_OFFSET),
        take_dead=(lambda _letters: None) if source is None else source.take_dead,
    )


def _run(
    replay: Replay, target: ReplayTarget, label: str, rows_max: int, *, shadow: bool
) -> tuple[list[Replayed], int]:
    """Replay every partition; return the result of each, and the number of rows written."""
    waiting: list[Any] = []
    written = 0

    def flush() -> None:
        nonlocal written
        written += sum(map(len, waiting))
        target.write(waiting, shadow=shadow)
        waiting.clear()

    def take(rows: Rows) -> None:
        waiting.append(rows)
        if sum(map(len, waiting)) >= rows_max:
            flush()

    done = read_partitions(replay, label, take)
    if waiting:
        flush()
    return done, written


def _spans(done: list[Replayed], replayable: Replayable) -> list[Span]:
    """Return the spans that the replay of a topic has settled."""
    from footfall.sinks.replay import Span

    return [
        Span(
            part.partition,
            part.windows.from_ms,
            part.windows.to_ms,
            (part.first_offset, part.next_offset) if replayable.is_raw else None,
        )
        for part in done
        if part.windows.from_ms < part.windows.to_ms
    ]


def _report(replay: Replay, done: list[Replayed], changes: str, label: str) -> None:
    read, dead, late = (
        sum(getattr(part, name) for part in done) for name in ("read", "dead", "late")
    )
    print(f"{label}: {read:,} records read, {changes} taken back; {late:,} late, {dead:,} dead")
    say_left_out(replay, done, label)
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


def _print_differences(target: ReplayTarget, spans: list[Span], label: str, flow: str) -> None:
    from footfall.cli.table import print_table
    from footfall.sinks.replay import DIFFERENCES_MAX

    if not spans:
        print(f"{label}: no window was certain, so the shadow holds none to compare or exchange")
        return
    found = target.differences(spans)
    if not found:
        print(f"{label}: the shadow is equal to the table")
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
        f"{label}: {len(found):,}{or_more} windows differ{tail}; `footfall replay {flow} --swap` "
        "exchanges the table and its shadow"
    )


@contextmanager
def _alone(settings: Settings, flow: str) -> Iterator[None]:
    """Hold a flow for one replay: two at a time would take the same generation."""
    folder = settings.footfall_home / "replay"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{flow}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailureError(f"another replay of {flow} runs: wait for it, or end it") from None
        yield
