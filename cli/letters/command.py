"""``footfall dead-letters``: shows records that could not be processed, and sends them again."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from footfall.cli.errors import FailureError, UsageError, confirmed, did_you_mean, say
from footfall.cli.letters.read import (
    Choice,
    Letters,
    Place,
    chosen,
    collect,
    grouped,
    parse_place,
    printable,
)
from footfall.cli.options import count
from footfall.cli.ranges import has_ranges
from footfall.cli.table import print_table
from footfall.cli.terminal import CLEARED, moves_cursor
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS

if TYPE_CHECKING:
    from footfall.cli.letters.plan import Plan, Skipped

RECORDS_SHOWN = 100
RECORDS_SHOWN_MAX = 1_000_000
SKIPPED_SHOWN = 5
"""Places that are named per reason why records were not sent."""


def add_commands(commands: Any) -> None:
    """Add ``dead-letters`` to the command line."""
    family = commands.add_parser(
        "dead-letters",
        help="what could not be processed: see it, send it again after a fix",
        description="Records that no flow could process, with the reason, and events that came "
        "too late for their window.",
    )
    actions = family.add_subparsers(metavar="ACTION", dest="action", required=True)
    ls = actions.add_parser("ls", help="them all, counted by flow, topic and reason")
    _add_choice(ls)
    ls.add_argument("--late", action="store_true", help="the late events as well")
    ls.add_argument("--all", action="store_true", help="also what was sent again")
    ls.add_argument("--records", action="store_true", help="a line for each letter")
    ls.add_argument(
        "--limit",
        type=partial(count, most=RECORDS_SHOWN_MAX),
        default=RECORDS_SHOWN,
        metavar="N",
        help=f"of --records at most so many ({RECORDS_SHOWN})",
    )
    ls.set_defaults(handler=run_ls)
    show = actions.add_parser("show", help="one record: every reason, and its payload")
    show.add_argument("place", metavar="TOPIC/PARTITION:OFFSET", help="as `ls` prints it")
    show.set_defaults(handler=run_show)
    retry = actions.add_parser(
        "retry",
        help="send the records to their topic again",
        description="After a fix: send the records to their topic again, in the partition where "
        "they stood, each exactly once. An event whose window has passed will be late.",
    )
    retry.add_argument(
        "places", nargs="*", metavar="TOPIC/PARTITION:OFFSET", help="these alone, as `ls` prints"
    )
    _add_choice(retry)
    retry.add_argument("--yes", action="store_true", help="do not ask")
    retry.add_argument("--dry-run", action="store_true", help="tell what it would do, and stop")
    retry.add_argument(
        "--force",
        action="store_true",
        help="also where another flow has used the record, and would count it twice",
    )
    retry.set_defaults(handler=run_retry)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flow", help="of this flow")
    parser.add_argument("--reason", metavar="CODE", help="with this reason code")
    parser.add_argument("--topic", help="of this topic")


def run_ls(args: argparse.Namespace) -> int:
    """Print a table of the letters, and a line that sums up."""
    settings = read_settings(os.environ)
    choice = Choice(args.flow, args.reason, args.topic)
    found = [_collected(settings, choice)]
    if args.late:
        found.append(_collected(settings, choice, late=True))
    listed = [
        letter
        for letters in found
        for letter in chosen(letters.records(choice, sent_too=args.all), choice)
    ]
    _check_choice(choice, found)
    if not listed:
        print(_summary(found, choice))
        return 0
    if args.records:
        rows = [
            (
                letter.flow,
                str(letter.place),
                letter.code,
                f"{letter.payload_bytes:,}",
                printable(letter.reason),
            )
            for letter in listed[: args.limit]
        ]
        print_table(("flow", "record", "reason", "bytes", "what"), rows)
        if len(listed) > args.limit:
            say(f"{len(listed) - args.limit:,} more: --limit shows them, --flow or --reason less")
    else:
        print_table(
            ("flow", "topic", "reason", "count", "first", "last", "for example"),
            [
                (
                    group.flow,
                    group.topic,
                    group.code,
                    group.letters,
                    str(group.first),
                    str(group.last),
                    printable(group.example),
                )
                for group in grouped(listed)
            ],
        )
    print(f"\n{_summary(found, choice)}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print all that is known of one record."""
    from footfall.cli.letters.show import record_lines
    from footfall.cli.letters.topics import whole_letters
    from footfall.streams.source import SourceError

    settings = read_settings(os.environ)
    place = parse_place(args.place)
    choice = Choice(places=frozenset({place}))
    for late in (False, True):
        topic = LATE_EVENTS.name if late else DEAD_LETTERS.name
        try:
            letters = _collected(settings, choice, late=late)
        except SourceError:
            if late:
                continue
            raise
        if place in letters.letters:
            small = list(letters.letters[place].values())
            whole = whole_letters(settings, small, topic)
            # After a crash a letter may be there twice, with the same content.
            for line in record_lines(list(whole.values()), letters.notes.get(place)):
                print(line)
            return 0
    raise FailureError(f"there is no letter for {place}: `footfall dead-letters ls --records`")


def run_retry(args: argparse.Namespace) -> int:
    """Send records again, after asking."""
    from footfall.cli.letters.plan import plan
    from footfall.cli.letters.retry import Retry
    from footfall.cli.letters.topics import RetryTopics
    from footfall.operations.positions import positions
    from footfall.streams.source import wall_clock_ms

    settings = read_settings(os.environ)
    places = frozenset(map(parse_place, args.places))
    choice = Choice(args.flow, args.reason, args.topic, places)
    ask = not args.yes and not args.dry_run
    if ask and not sys.stdin.isatty():
        raise UsageError("retry: nobody to ask here: --yes sends, --dry-run only tells")
    topics = RetryTopics(settings)
    try:
        if not topics.partitions(DEAD_LETTERS.name):
            raise FailureError(f"there is no topic {DEAD_LETTERS.name}: `footfall init` makes it")
        with _alone(settings):
            letters = _collected(settings, Choice(topic=choice.topic))
            _check_choice(choice, [letters])
            for place in sorted(places - letters.letters.keys()):
                raise FailureError(f"there is no letter for {place}")
            records = letters.records(choice, sent_too=bool(places))
            planned = plan(
                records,
                letters,
                positions(settings),
                topics.partitions,
                has_ranges,
                force=args.force,
            )
            print(_plan_line(planned, would=args.dry_run or ask))
            _print_skipped(planned.skipped)
            # Even with nothing to send, an earlier retry may have to be settled.
            if args.dry_run or not planned.send:
                return 0
            if ask and not confirmed(f"send {_counted(len(planned.send), 'record')} again?"):
                print("nothing was sent")
                return 0
            retry = Retry(
                topics, letters, wall_clock_ms, force=args.force, sent=_Sending(len(planned.send))
            )
            outcome = retry.run(planned.send)
    finally:
        topics.close()
    print(f"{outcome.sent:,} sent")
    if outcome.stood:
        print(f"{outcome.stood:,} stood there already: an earlier retry had sent them")
    _print_skipped(outcome.skipped)
    _print_skipped(outcome.values_alone, "sent without key, headers and time")
    if outcome.sent:
        print(
            "events whose window has passed will be late (`footfall dead-letters ls --late`): "
            "`footfall replay FLOW --from T --to T` corrects those windows"
        )
    return 0


class _Sending:
    """Shows on a terminal the number of records sent."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._sent = 0

    def __call__(self, count: int) -> None:
        self._sent += count
        if moves_cursor(sys.stderr):
            sys.stderr.write(f"{CLEARED}sent {self._sent:,} of {self._total:,}")
            sys.stderr.write(CLEARED if self._sent >= self._total else "")
            sys.stderr.flush()


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold a home for one retry: two at a time would both send."""
    from footfall.cli.home import Home

    home = Home(settings.footfall_home)
    home.make()
    with (home.path / "dead-letters.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailureError(f"another retry runs on {home.path}: wait for it") from None
        yield


def _collected(settings: Settings, choice: Choice, *, late: bool = False) -> Letters:
    from footfall.cli.letters.topics import read_topic

    topic = LATE_EVENTS.name if late else DEAD_LETTERS.name
    places, of_topic = choice.places, Choice(topic=choice.topic)
    return collect(
        read_topic(settings, topic),
        late=late,
        keep=lambda letter: of_topic.takes(letter) and (not places or letter.place in places),
    )


def _check_choice(choice: Choice, found: Sequence[Letters]) -> None:
    """Raise UsageError for a name that no letter has: it is most likely misspelt."""
    letters = [letter for some in found for of in some.letters.values() for letter in of.values()]
    if not letters:
        return
    for option, wanted, names in (
        ("--flow", choice.flow, {letter.flow for letter in letters}),
        ("--reason", choice.code, {letter.code for letter in letters}),
    ):
        if wanted is not None and wanted not in names:
            raise UsageError(f"no letter has {option} {wanted}{did_you_mean(wanted, names)}")


def _summary(found: Sequence[Letters], choice: Choice) -> str:
    dead = found[0]
    records = dead.records(choice, sent_too=True)
    sent = sum(dead.was_sent(record[0].place) for record in records)
    parts = [_counted(len(records) - sent, "dead record")]
    if sent:
        parts.append(f"{sent:,} sent again")
    if len(found) > 1:
        parts.append(_counted(len(found[1].records(choice, sent_too=True)), "late event"))
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    if not count:
        return f"no {what}s"
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def _plan_line(planned: Plan, *, would: bool) -> str:
    to_send = _counted(len(planned.send), "record")
    if not planned.send:
        return "nothing to send"
    topics = Counter(record[0].place.topic for record in planned.send)
    to = ", ".join(f"{count:,} to {topic}" for topic, count in sorted(topics.items()))
    return f"{'would send' if would else 'sending'} {to_send} again: {to}"


def _print_skipped(skipped: Sequence[Skipped], what: str = "not sent") -> None:
    reasons: dict[str, list[Place]] = {}
    for one in skipped:
        reasons.setdefault(one.why, []).append(one.place)
    for why, places in sorted(reasons.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(map(str, places[:SKIPPED_SHOWN]))
        left = len(places) - SKIPPED_SHOWN
        more = f" and {left:,} more" if left > 0 else ""
        print(f"{what}: {_counted(len(places), 'record')}: {why} ({shown}{more})")
