"""``footfall demo``: everything on this machine, live until Ctrl-C, or once to the end."""

from __future__ import annotations

import argparse
import os
from typing import Any

from footfall.cli.demo_sends import check_sends
from footfall.cli.errors import UsageError
from footfall.cli.flows import workers
from footfall.cli.generate import SHOP_RECORDS_PER_S
from footfall.cli.options import add_open_option, count, port_number, rate, seed, share, speed


def add_commands(commands: Any) -> None:
    """Add ``demo`` to the command line."""
    demo = commands.add_parser(
        "demo",
        help="everything on this machine, until Ctrl-C",
        description="Start the embedded servers, every flow as a worker process, the HTTP side "
        "with its live page, and a simulated shop that sends to all topics. Ctrl-C ends it; the "
        "next start goes on from there. State lies under FOOTFALL_HOME (.footfall).",
    )
    demo.add_argument("--fresh", action="store_true", help="begin anew: remove the state first")
    demo.add_argument(
        "--once",
        action="store_true",
        help="send all of --shop --events, --csv or --tags as fast as it goes, process it to the "
        "end, print a summary, and stop",
    )
    demo.add_argument("--port", type=port_number, metavar="N", help="of the page (8080)")
    add_open_option(demo)
    demo.add_argument(
        "--workers", type=workers, metavar="N", default=1, help="processes of each flow (1)"
    )
    demo.add_argument("--no-generator", action="store_true", help="start everything, send nothing")
    demo.add_argument(
        "--no-watch",
        action="store_true",
        help="start no Prometheus and Alertmanager, though they are installed",
    )
    demo.add_argument(
        "--rate", type=rate, metavar="R", default=None,
        help=f"records of the shop, or tags, a second ({SHOP_RECORDS_PER_S:,}; --once: as fast "
        "as it goes)",
    )  # fmt: skip
    _add_what(demo)
    _add_shares(demo)
    demo.set_defaults(handler=run_demo)


def _add_what(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--shop", action="store_true", help="the simulated shop: sent by default")
    demo.add_argument(
        "--events", type=count, metavar="N", help="end the shop's world with N records"
    )
    demo.add_argument(
        "--density", type=count, metavar="N", default=SHOP_RECORDS_PER_S,
        help=f"the shop's records in a second of event time, about ({SHOP_RECORDS_PER_S:,})",
    )  # fmt: skip
    demo.add_argument(
        "--truth", metavar="DIR",
        help="write there what every table must hold in the end, for `footfall verify --all`; "
        "takes --events",
    )  # fmt: skip
    demo.add_argument(
        "--csv",
        metavar="FILE",
        help="store events from a CSV file (plain or packed), and nothing that is simulated",
    )
    demo.add_argument(
        "--speed", type=speed, metavar="X",
        help="event seconds of --csv a real second "
        "(PRODUCER_DATA_SEC_PER_REAL_SEC by default)",
    )  # fmt: skip
    demo.add_argument(
        "--tags", type=count, metavar="N",
        help="a world of N tags, and one of store events, instead of the shop",
    )  # fmt: skip


def _add_shares(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--seed", type=seed, metavar="S", default=0, help="of the worlds (0)")
    for options, about in (
        (("--disorder", "--out-of-order"), "records that come later than others of their time"),
        (("--late",), "records older than any window is corrected for"),
        (("--malformed",), "records that cannot be read"),
        (("--clocks-off",), "the shop's users whose clock is a little wrong"),
        (("--clocks-far-off",), "the shop's users whose clock is hours or decades wrong"),
        (("--clocks-ahead",), "the shop's users whose clock is ahead by up to an hour"),
        (("--duplicates",), "--tags that are sent a second time"),
    ):
        demo.add_argument(
            *options,
            dest=options[-1].removeprefix("--").replace("-", "_"),
            type=share,
            metavar="SHARE",
            default=0.0,
            help=f"share of {about} (0 to 0.9)",
        )


def run_demo(args: argparse.Namespace) -> int:
    """Check the options, then run the demo live or once."""
    check(args)
    if args.once:
        from footfall.cli.demo_once import run_once

        return run_once(args, os.environ)
    from footfall.cli.demo_live import run_live

    return run_live(args, os.environ)


def check(args: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other."""
    if args.once and args.no_generator:
        raise UsageError("--once needs the generator: leave --no-generator out")
    if args.once and args.speed is not None:
        raise UsageError("--once replays as fast as it goes: leave --speed out")
    check_sends(args)
