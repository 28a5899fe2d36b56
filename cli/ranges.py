"""A flow and a range of event time, as ``replay`` and ``verify`` of footfall are given them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.errors import UsageError
from cli.options import moment_ms
from cli.positions import read_statuses
from cli.progress import Told
from schemas.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from flows._replay import Replayable
    from streams.replay import Partitions, Range, Replay, Replayed


def add_range_options(parser: argparse.ArgumentParser, *, may_be_all: bool = False) -> None:
    """FLOW, the range, and what is certain in it; with ``may_be_all`` FLOW may be left out."""
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
        "--complete",
        action="store_true",
        help="nothing will follow in the topic: its last windows are certain too",
    )


def need_replay(flow: str) -> None:
    """Raises UsageError for a flow that tells nothing of its rows."""
    import flows

    def tells(name: str) -> bool:
        return hasattr(importlib.import_module(f"flows.{name}"), "replay")

    if tells(flow):
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
        f"{', '.join(filter(tells, flows.catalogue()))}.{anew} "
        "`footfall verify --all --truth DIR` compares all that is written of a simulated shop"
    )


def replayable_of(settings: Settings, flow: str) -> Replayable:
    """What the flow tells of its rows."""
    found: Replayable = importlib.import_module(f"flows.{flow}").replay(settings)
    return found


def range_of(args: argparse.Namespace) -> Range:
    """The range asked for. Raises UsageError for one that ends before it begins."""
    from streams.replay import BEGIN_MS, END_MS, Range

    asked = Range(
        BEGIN_MS if args.from_ms is None else args.from_ms,
        END_MS if args.to_ms is None else args.to_ms,
    )
    if asked.from_ms >= asked.to_ms:
        raise UsageError("--to must be later than --from")
    return asked


def topic_partitions(settings: Settings, flow: str, topic: str) -> Partitions:
    """The topic of the settings, to be read anew as the flow has read it."""
    from streams.open import open_topic, sent_again_in
    from streams.replay import TopicPartitions
    from streams.sent_again import MarkedTopic
    from streams.source import Position

    find = sent_again_in(settings, topic, replayed=flow)

    def opened(start: Position, end: Position) -> MarkedTopic:
        read = open_topic(settings, topic, group="replay", start=start, end=end)
        return MarkedTopic(read, find)

    return TopicPartitions(opened)


def live_limits(settings: Settings, flow: str, replayable: Replayable) -> dict[int, int]:
    """By partition, until when the live worker's windows can no longer change.

    What stands in the status files of FOOTFALL_HOME; nothing is known of other partitions.
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


def read_partitions(
    replay: Replay, name: str, take: Callable[[pl.DataFrame], None]
) -> list[Replayed]:
    """Read all of them and give ``take`` the rows, telling as ``name`` how far it is."""
    done = []
    count = replay.partitions.count()
    with Told(name) as told:
        for partition in range(count):
            told.part(partition, count)
            done.append(replay.run(partition, take, told))
    return done


def shown(time_ms: int) -> str:
    """A moment as it is printed."""
    from schemas.times import iso_ms

    text = iso_ms(time_ms)
    return text.removesuffix("Z").removesuffix(".000").removesuffix(":00")
