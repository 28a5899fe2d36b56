"""Rows of a flow's tables whose topic or partition no longer exists: ``verify`` names them, and
``replay --gone`` takes them back."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from footfall.cli.errors import UsageError, say
from footfall.cli.ranges import label_of, range_of, replayables_of, topic_partitions, topics_of
from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from footfall.flows._replay import Replayable
    from footfall.sinks.replay import ReplayTarget
    from footfall.streams.replay import Range


def beyond(rows: Mapping[tuple[str, int], int], topic: str, partitions: int) -> dict[int, int]:
    """Return the number of rows per partition that the topic does not have.

    ``rows``: those of ``ReplayTarget.partitions``.
    """
    return {at: count for (of, at), count in rows.items() if of == topic and at >= partitions}


def tell_gone(
    settings: Settings, flow: str, replayable: Replayable, target: ReplayTarget, windows: Range
) -> int:
    """Say which rows are of a missing topic or partition; return 1 for missing partitions.

    Another topic may be one of another home: its rows are named and are not an error.
    """
    topic, ours = replayable.topic, topics_of(settings, flow)
    # Read the table first: a topic may grow meanwhile, and its new partitions then have rows.
    rows = target.partitions(windows.from_ms, windows.to_ms)
    partitions = topic_partitions(settings, topic).count()
    if topic == ours[0]:
        _tell_others(settings, flow, rows, ours)
    gone = beyond(rows, topic, partitions)
    if not gone:
        return 0
    option = "" if len(ours) == 1 else f" --topic {topic}"
    print(
        f"{label_of(flow, replayable)}: {sum(gone.values()):,} rows are of partitions from "
        f"{partitions} on, which the topic does not have; `footfall replay {flow} --gone{option}` "
        "takes them back"
    )
    return 1


def _tell_others(
    settings: Settings, flow: str, rows: Mapping[tuple[str, int], int], ours: list[str]
) -> None:
    others: Counter[str] = Counter()
    for (topic, _), count in rows.items():
        others[topic] += count
    for topic in sorted(others.keys() - ours):
        if _count_of(settings, topic) == 0:
            say(
                f"{flow}: {others[topic]:,} rows are of {topic}, which is no topic of "
                f"{settings.topics_url}: they count for readers of the table. If it is gone, "
                f"`footfall replay {flow} --gone --topic {topic}` takes them back"
            )


def run_gone(settings: Settings, args: argparse.Namespace) -> None:
    """Take back the rows of the range whose partition the topic does not have, and say so.

    All rows of a topic that does not exist are taken back; it must be named. Raises UsageError.
    """
    from footfall.cli.flows import contract_of
    from footfall.sinks.replay import Span

    if args.topic and len(contract_of(args.flow).topics) == 1:
        # A flow of one topic may have read another one.
        settings = replace(settings, kafka_topic=args.topic)
    for replayable in replayables_of(settings, args.flow, args.topic):
        windows = range_of(args).whole_windows(replayable.rules.size_ms)
        topic = replayable.topic
        partitions = _count_of(settings, topic)
        if not partitions and args.topic != topic:
            raise UsageError(
                f"there is no topic {topic} in {settings.topics_url}: with --topic {topic} all of "
                "its rows are taken back"
            )
        with closing(replayable.target()) as target:
            rows = target.partitions(windows.from_ms, windows.to_ms)
            gone = beyond(rows, topic, partitions)
            spans = [Span(partition, windows.from_ms, windows.to_ms) for partition in gone]
            target.remove_older(spans, target.newest_generation() + 1, shadow=False)
        print(
            f"{label_of(args.flow, replayable)}: {sum(gone.values()):,} rows taken back, of "
            f"partitions from {partitions} on, which {topic} does not have"
        )


def _count_of(settings: Settings, topic: str) -> int:
    """Return the number of partitions of a topic, 0 where it does not exist."""
    from footfall.streams.source import NoTopicError

    try:
        return topic_partitions(settings, topic).count()
    except NoTopicError:
        return 0
