"""``footfall demo --once``: send all, process it to the end, print a summary, stop."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

from api.workers import read_statuses
from cli.demo_house import House, Stopped, open_house, tag_arguments
from cli.errors import INTERRUPTED_EXIT_CODE, FailureError, UsageError, say
from cli.show import Show
from cli.summary import accounts, summary_lines
from schemas.settings import Settings, read_settings


def run_once(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run to the end; 0 where every event is accounted for.

    Raises UsageError, FailureError; a signal ends it with 130.
    """
    args.csv = args.csv or read_settings(environ).input_file_name
    if not args.csv and args.tags is None:
        raise UsageError("--once: send what? --csv FILE, --tags N, or both")
    begun_s = time.monotonic()
    show = Show()
    try:
        with open_house(args, environ, show.tell) as house:
            before = _read_count(house)
            with show:
                _generate(house, args)
                house.wait_for(house.generators, lambda: show.tick(house))
                house.wait_for(house.start_flows(once=True), lambda: show.tick(house))
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
    if open_accounts:
        raise FailureError("; ".join(open_accounts))
    return 0


def _generate(house: House, args: argparse.Namespace) -> None:
    if args.csv:
        house.generate("csv", "csv", args.csv, "--fast")
    if args.tags is not None:
        house.generate("tags", *tag_arguments(args))


def _settings(house: House) -> Settings:
    """The settings, with the address of the ClickHouse that the flows have written to."""
    return read_settings(house.supervisor.environ)


def _read_count(house: House) -> int:
    statuses = read_statuses(house.home.path)
    return sum(partition.read for status in statuses for partition in status.partitions)
