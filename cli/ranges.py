"""A flow and a range of event time, as ``footfall replay`` and ``footfall verify`` take them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from footfall.cli.errors import UsageError, say
from footfall.cli.options import moment_ms
from footfall.cli.progress import Told
from footfall.operations.positions import of_statuses, read_statuses
from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from footfall.flows._replay import Replayable
    from footfall.streams.batch import Rows
    from footfall.streams.replay import Partitions, Range, Replay, Replayed

WORKER_SILENT_MAX_S = 10.0
"""A worker whose status is older does not run."""


def add_range_options(parser: argparse.ArgumentParser, *, may_be_all: bool = False) -> None:
    """Add FLOW, the range, and ``--complete``; with ``may_be_all`` FLOW may be left out."""
    parser.add_argument(
        "flow",
        metavar="FLOW",
        nargs="?" if may_be_all else None,
        help="a name from `footfall flows`",
    )
    parser.add_argument(
        "--from",
        dest="from_ms",
        type=moment_ms,
        metavar="T",
        help="event time, such as 2022-03-22T12:00 (UTC), inclusive (the beginning)",
    )
    parser.add_argument(
        "--to", dest="to_ms", type=moment_ms, metavar="T", help="event time, exclusive (the end)"
    )
    parser.add_argument(
        "--topic", metavar="TOPIC", help="of a flow that reads several, this one alone (each)"
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="nothing will follow in the topic: its last windows are certain too, and so are "
        "records that the worker has not read",
    )


def has_ranges(flow: str) -> bool:
    """Tell whether ranges of a flow's rows can be written again; False for an unknown flow."""
    from footfall import flows

    found = flows.catalogue().get(flow)
    return found is not None and found.has_replay


def takes_archive(settings: Settings, flow: str) -> bool:
    """Tell whether ranges of a flow's rows can be written again from an archive."""
    if not has_ranges(flow):
        return False
    # KAFKA_TOPIC may name a topic that this flow does not read.
    of_flow = replayables_of(replace(settings, kafka_topic=""), flow, None)
    return not all(replayable.known_by_offset for replayable in of_flow)


def need_replay(flow: str) -> None:
    """Raise UsageError for a flow of which no range can be replayed."""
    from footfall import flows

    if has_ranges(flow):
        return
    rows = ", ".join(table.name for table in flows.catalogue()[flow].tables)
    anew = (
        f" To write all of them anew: stop it, empty its tables ({rows}), move "
        f"FOOTFALL_HOME/recovery/{flow} away, and start it."
        if rows
        else ""
    )
    raise UsageError(
        f"{flow}: no range of what it writes can be counted or written anew by itself, only of "
        f"{', '.join(filter(has_ranges, flows.catalogue()))}.{anew} "
        "`footfall verify --all --truth DIR` compares all that is written of a simulated shop"
    )


def replayables_of(settings: Settings, flow: str, topic: str | None) -> list[Replayable]:
    """Return a Replayable for each topic that the flow reads, or for the one that is named.

    Raises UsageError for a topic that the flow does not read, and SettingError.
    """
    from footfall import flows

    found = list(flows.catalogue()[flow].replayables(settings))
    if topic is None:
        return found
    named = [replayable for replayable in found if replayable.topic == topic]
    if not named:
        reads = ", ".join(replayable.topic for replayable in found)
        raise UsageError(f"--topic {topic}: {flow} reads {reads}")
    return named


def topics_of(settings: Settings, flow: str) -> list[str]:
    """Return all topics that the flow reads."""
    return [replayable.topic for replayable in replayables_of(settings, flow, None)]


def label_of(flow: str, replayable: Replayable) -> str:
    """Return the flow's name, with the topic where the flow reads several."""
    from footfall import flows

    several = len(flows.catalogue()[flow].topics) > 1
    return f"{flow} of {replayable.topic}" if several else flow


def range_of(args: argparse.Namespace) -> Range:
    """Return the range asked for. Raises UsageError where it ends before it begins."""
    from footfall.streams.replay import BEGIN_MS, END_MS, Range

    asked = Range(
        BEGIN_MS if args.from_ms is None else args.from_ms,
        END_MS if args.to_ms is None else args.to_ms,
    )
    if asked.from_ms >= asked.to_ms:
        raise UsageError("--to must be later than --from")
    return asked


def topic_partitions(settings: Settings, topic: str) -> Partitions:
    """Return the topic, to be read again as a flow has read it."""
    from footfall.streams.open import open_topic, sent_again_in
    from footfall.streams.replay import TopicPartitions
    from footfall.streams.sent_again import MarkedTopic
    from footfall.streams.source import LATEST

    read = open_topic(settings, topic, group="replay", end=LATEST)
    return TopicPartitions(MarkedTopic(read, sent_again_in(settings, topic)))


def live_limits(settings: Settings, flow: str, replayable: Replayable) -> dict[int, int]:
    """Return, by partition, the time in ms before which the live worker's windows cannot change.

    This is read from the status files of FOOTFALL_HOME; other partitions are missing.
    """
    limits: dict[int, int] = {}
    if replayable.rules.reach_ms is None:
        return limits
    for status in read_statuses(settings.footfall_home):
        if status.flow != flow:
            continue
        for partition in status.partitions:
            if partition.topic == replayable.topic and partition.watermark_ms >= 0:
                settled_ms = partition.watermark_ms - replayable.rules.lateness_ms
                limits[partition.partition] = max(
                    0, settled_ms, limits.get(partition.partition, 0)
                )
    return limits


def offsets_read(settings: Settings, flow: str, replayable: Replayable) -> dict[int, int]:
    """Return the live worker's next offset by partition, from the status files of FOOTFALL_HOME;
    other partitions are missing."""
    places = of_statuses(read_statuses(settings.footfall_home)).get(flow, {})
    return {
        partition: offset
        for (topic, partition), offset in places.items()
        if topic == replayable.topic
    }


def let_worker_write(settings: Settings, flow: str, until_s: float) -> None:
    """Wait until that moment of the monotonic clock if a worker runs.

    By then the worker has written all that its status told of; before, rows of its own may still
    come for windows whose groups are taken back.
    """
    recent_ms = time.time() * 1000 - WORKER_SILENT_MAX_S * 1000
    if any(
        status.flow == flow and not status.finished and status.updated_ms > recent_ms
        for status in read_statuses(settings.footfall_home)
    ):
        time.sleep(max(0.0, until_s - time.monotonic()))


def read_partitions(
    replay: Replay,
    name: str,
    take: Callable[[Rows], None],
    end: Callable[[Replayed], None] = lambda _done: None,
) -> list[Replayed]:
    """Read all partitions and show the progress under ``name``.

    ``take`` is given the rows, and ``end`` the result of each partition.
    """
    done = []
    count = replay.partitions.count()
    with Told(name) as told:
        for partition in range(count):
            told.part(partition, count)
            done.append(replay.run(partition, take, told))
            end(done[-1])
    return done


def say_left_out(replay: Replay, done: list[Replayed], label: str) -> None:
    """Say which records were left out, if any, where each record has rows of its own."""
    if replay.rules.reach_ms is None and any(part.first_offset for part in done):
        say(f"{label}: what stands of records that retention has removed was left as it is")
    unread = sum(part.unread for part in done)
    if unread:
        say(
            f"{label}: {unread:,} records were left out that the worker has not read yet "
            "(--complete: they too)"
        )


def shown(time_ms: int) -> str:
    """Return a moment as it is printed."""
    from footfall.schemas.times import iso_ms

    text = iso_ms(time_ms)
    return text.removesuffix("Z").removesuffix(".000").removesuffix(":00")
