"""``footfall topics``: lists the topics, and shows the records in them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from footfall.cli.errors import FailureError, UsageError, did_you_mean, say
from footfall.cli.letters.read import parse_place, printable
from footfall.cli.options import count_or_zero
from footfall.cli.table import print_table
from footfall.cli.topics import GROUP
from footfall.schemas.settings import Settings, read_settings

if TYPE_CHECKING:
    from footfall.operations.topic_records import PartitionFacts, Seen
    from footfall.schemas.records import TopicRecord
    from footfall.streams.source import KeptTopic

SHOWN, SHOWN_MAX = 10, 100_000
_NO_LIMIT_MS = 2**62
"""Used for an append time that is not known: no event is in its future."""


def add_commands(commands: Any) -> None:
    """Add ``topics`` to the command line."""
    family = commands.add_parser(
        "topics",
        help="what is in the topics: list them, see their newest records, show one",
        description="Look at the topics and their records, embedded or in Kafka. Nothing is "
        "changed, and no consumer group is moved.",
    )
    actions = family.add_subparsers(metavar="ACTION", dest="action", required=True)
    ls = actions.add_parser("ls", help="all topics, or the partitions of one")
    ls.add_argument("topic", nargs="?", metavar="TOPIC", help="a line for each of its partitions")
    ls.add_argument("--json", action="store_true", help="an array of objects")
    ls.set_defaults(handler=run_ls)
    tail = actions.add_parser(
        "tail",
        help="the newest records",
        description="Print the newest records of all partitions, in order of append time: on a "
        "terminal with place, append time and key in front, otherwise their values alone.",
    )
    tail.add_argument("topic", metavar="TOPIC")
    tail.add_argument(
        "-n", type=partial(count_or_zero, most=SHOWN_MAX), default=SHOWN, metavar="N",
        help=f"so many ({SHOWN})",
    )  # fmt: skip
    tail.add_argument("--follow", action="store_true", help="and those that come, until Ctrl-C")
    tail.add_argument("--key", help="those with this key")
    tail.add_argument("--json", action="store_true", help="an object for each record, on a line")
    tail.set_defaults(handler=run_tail)
    show = actions.add_parser(
        "show", help="one record: key, headers, append time, value, and what is wrong with it"
    )
    show.add_argument("place", metavar="TOPIC/PARTITION:OFFSET", help="as `tail` prints it")
    show.set_defaults(handler=run_show)


def run_ls(args: argparse.Namespace) -> int:
    """Print the topics, or the partitions of one."""
    from footfall.operations.topic_records import listing

    found = listing(read_settings(os.environ))
    if args.topic is not None:
        _check_topic(args.topic, found)
        found = {args.topic: found[args.topic]}
    if args.json:
        print(json.dumps([as_object(*topic) for topic in found.items()], indent=1))
    elif args.topic is not None:
        rows = [(one.partition, *_row([one])) for one in found[args.topic]]
        print_table(("partition", *COLUMNS), rows)
    elif found:
        rows = [(name, len(parts), *_row(parts)) for name, parts in found.items()]
        print_table(("topic", "partitions", *COLUMNS), rows)
    else:
        print("there are no topics: `footfall init` makes them")
    return 0


COLUMNS = ("oldest", "end", "records", "bytes", "newest append")


def _row(parts: list[PartitionFacts]) -> tuple[object, ...]:
    """Return the columns of a topic that has these partitions."""
    sizes = [one.size_bytes for one in parts if one.size_bytes is not None]
    times = [one.newest_ms for one in parts if one.newest_ms is not None]
    return (
        _from_to([one.oldest for one in parts]),
        _from_to([one.end for one in parts]),
        sum(one.end - one.oldest for one in parts),
        sum(sizes) if sizes else "?",
        _iso(max(times)) if times else "-",
    )


def _from_to(offsets: list[int]) -> int | str:
    """Return the lowest to the highest of several partitions' offsets, as text."""
    low, high = min(offsets), max(offsets)
    return low if low == high else f"{low}..{high}"


def as_object(name: str, parts: list[PartitionFacts]) -> dict[str, Any]:
    """Return a topic as `--json` shows it."""
    return {
        "topic": name,
        "partitions": [
            {
                "partition": one.partition,
                "oldest": one.oldest,
                "end": one.end,
                "records": one.end - one.oldest,
                "bytes": one.size_bytes,
                "newest_append": _iso(one.newest_ms),
            }
            for one in parts
        ],
    }


def run_tail(args: argparse.Namespace) -> int:
    """Print the newest records and, with ``--follow``, those that come."""
    from footfall.cli.stop import Stop
    from footfall.operations.topic_records import ends, followed, last_records

    topic = opened(read_settings(os.environ), args.topic)
    key = None if args.key is None else args.key.encode()
    until = ends(topic)
    for seen in last_records(topic, until, args.n, key):
        _print(args, seen)
    if args.follow:
        stop = Stop()
        with stop.on_signals():
            for seen in followed(topic, until, key, stopped=lambda: stop.asked, skipped=say):
                _print(args, seen)
    return 0


def _print(args: argparse.Namespace, seen: Seen) -> None:
    partition, offset, record = seen
    if args.json:
        print(json.dumps(record_object(args.topic, seen), ensure_ascii=False), flush=args.follow)
    elif sys.stdout.isatty():
        front = f"{partition}:{offset}  {_iso(record.timestamp_ms) or '-'}  {_text(record.key)}"
        print(f"{front}  {_text(record.value)}", flush=args.follow)
    else:
        sys.stdout.buffer.write(record.value + b"\n")
        if args.follow:
            sys.stdout.buffer.flush()


def record_object(topic: str, seen: Seen) -> dict[str, Any]:
    """Return a record as `--json` shows it; bytes that are not text are in base64."""
    partition, offset, record = seen
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "appended": _iso(record.timestamp_ms),
        **_field("key", record.key),
        "headers": [{"name": name, **_field("value", value)} for name, value in record.headers],
        **_field("value", record.value),
    }


def _field(name: str, value: bytes | None) -> dict[str, str | None]:
    import base64

    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value or b"").decode()}


def run_show(args: argparse.Namespace) -> int:
    """Print one record."""
    from footfall.cli.letters.show import payload_lines
    from footfall.operations.topic_records import NotThereError, one_record

    place = parse_place(args.place)
    topic = opened(read_settings(os.environ), place.topic)
    try:
        record = one_record(topic, place.partition, place.offset)
    except NotThereError as error:
        raise FailureError(str(error)) from None
    print(place)
    print(f"  appended  {_iso(record.timestamp_ms) or 'unknown'}")
    print(f"  key       {_text(record.key)}")
    for name, value in record.headers:
        print(f"  header    {printable(name)} = {_text(value)}")
    if wrong := why_dead(place.topic, record):
        print(f"  wrong     {printable(wrong)}")
    print(f"\nvalue, {len(record.value):,} bytes:")
    for line in payload_lines(record.value):
        print(f"  {line}")
    return 0


def why_dead(topic: str, record: TopicRecord) -> str:
    """Return why flows would not take a record; "" where they would, or where it is not known.

    The checks are those of the api: a flow may ask for more.
    """
    from footfall.api.records import INCOMING, BadRecordError

    incoming = INCOMING.get(topic)
    if incoming is None:
        return ""
    try:
        known_ms = record.timestamp_ms
        incoming.record(record.value, _NO_LIMIT_MS if known_ms is None else known_ms)
    except BadRecordError as error:
        return str(error)
    return ""


def opened(settings: Settings, name: str) -> KeptTopic:
    """Return a topic. Raises UsageError, which names the topics that exist, for an unknown one."""
    from footfall.operations.topic_records import listing
    from footfall.streams.open import open_topic
    from footfall.streams.source import NoTopicError

    topic = open_topic(settings, name, group=GROUP)
    try:
        topic.partitions()
    except NoTopicError:
        _check_topic(name, listing(settings))
        raise
    return topic


def _check_topic(name: str, found: Mapping[str, object]) -> None:
    """Raise UsageError where the topic is not among those found."""
    if name not in found:
        there = did_you_mean(name, found) if found else "; `footfall init` makes the topics"
        raise UsageError(f"no such topic: {name}{there}")


def _text(value: bytes | None) -> str:
    """Return bytes as a terminal shows them on one line."""
    if value is None:
        return "-"
    return printable(value.decode(errors="backslashreplace")).replace("\n", "\\n")


def _iso(time_ms: int | None) -> str | None:
    from footfall.schemas.times import iso_ms

    return None if time_ms is None else iso_ms(time_ms)
