"""``footfall demo --once``: send all, process it to the end, print a summary, stop."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping

from footfall.cli.demo_house import House, open_house
from footfall.cli.demo_sends import check_shop, sent_once
from footfall.cli.errors import INTERRUPTED_EXIT_CODE, FailureError, say
from footfall.cli.home import Home
from footfall.cli.show import Show
from footfall.cli.stop import Stopped
from footfall.cli.summary import accounts, summary_lines
from footfall.cli.topics import topic_view
from footfall.operations.positions import read_statuses
from footfall.schemas.settings import Settings, read_settings


def run_once(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run to the end; return 0 where every event is accounted for.

    Raises UsageError, FailureError; a signal ends it with 130.
    """
    if args.events is None:
        args.csv = args.csv or read_settings(environ).input_file_name
    sent = sent_once(args)
    begun_s = time.monotonic()
    show = Show(is_live=False)

    def begin() -> None:
        home = Home(read_settings(environ).footfall_home)
        check_shop(sent, home, is_fresh=args.fresh)

    try:
        with open_house(args, environ, show.tell, begin) as house:
            before = _read_count(house)
            with show:
                for name, arguments in sent:
                    house.generate(name, *arguments)
                house.wait_for(house.generators, lambda: show.tick(house))
                house.flows = tuple(_with_input(house))
                house.run_flows(args.workers, lambda: show.tick(house))
            statuses = read_statuses(house.home.path)
            if _read_count(house) == before:
                print("nothing new: all of this was sent and processed before")
            for line in summary_lines(_settings(house), statuses):
                print(line)
            open_accounts = accounts(statuses, house.flows)
    except Stopped:
        say("interrupted; the same command goes on from here")
        return INTERRUPTED_EXIT_CODE
    print(f"{time.monotonic() - begun_s:.1f} s")
    if args.truth:
        print(f"`footfall verify --all --truth {args.truth}` compares every table with the truth")
    if open_accounts:
        raise FailureError("; ".join(open_accounts))
    return 0


def _with_input(house: House) -> Iterator[str]:
    """Yield the flows that have records to read: starting the others would only take time."""
    from footfall import flows

    settings = _settings(house)
    ends = topic_view(settings).end_offsets
    for name, contract in flows.catalogue().items():
        topics = (settings.kafka_topic,) if settings.kafka_topic else contract.topics
        if any(sum(ends(topic)) for topic in topics):
            yield name


def _settings(house: House) -> Settings:
    """Return the settings, with the address of the ClickHouse that the flows have written to."""
    return read_settings(house.supervisor.environ)


def _read_count(house: House) -> int:
    statuses = read_statuses(house.home.path)
    return sum(partition.read for status in statuses for partition in status.partitions)
