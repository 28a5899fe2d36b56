"""``footfall demo``: everything on this machine, live until Ctrl-C, or once to the end."""

from __future__ import annotations

import argparse
import os
from typing import Any

from cli.errors import UsageError
from cli.generate import TAGS_PER_S
from cli.options import add_world_options, count, port_number, rate, speed


def add_commands(commands: Any) -> None:
    """Add ``demo`` to the command line."""
    demo = commands.add_parser(
        "demo",
        help="everything on this machine, until Ctrl-C",
        description="Start the embedded servers, every flow as a worker process, the HTTP side "
        "with its live page, and a simulated shop. Ctrl-C ends it; the next start goes on from "
        "there. State lies under FOOTFALL_HOME (.footfall).",
    )
    demo.add_argument("--fresh", action="store_true", help="begin anew: remove the state first")
    demo.add_argument(
        "--once",
        action="store_true",
        help="send all of --csv and --tags as fast as it goes, process it to the end, print a "
        "summary, and stop",
    )
    demo.add_argument(
        "--csv", metavar="FILE", help="replay store events from a CSV file (plain or .gz)"
    )
    demo.add_argument(
        "--speed", type=speed, metavar="X",
        help="event seconds of --csv a real second "
        "(PRODUCER_DATA_SEC_PER_REAL_SEC by default)",
    )  # fmt: skip
    demo.add_argument("--tags", type=count, metavar="N", help="send N tags, then no more")
    demo.add_argument("--port", type=port_number, metavar="N", help="of the page (8080)")
    demo.add_argument(
        "--no-generator", action="store_true", help="start everything but the simulated shop"
    )
    demo.add_argument(
        "--rate", type=rate, metavar="R", default=None,
        help=f"tags a second ({TAGS_PER_S:,}; --once: as fast as it goes)",
    )  # fmt: skip
    add_world_options(demo)
    demo.set_defaults(handler=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Check what was asked, then run it live or once."""
    check(args)
    if args.once:
        from cli.demo_once import run_once

        return run_once(args, os.environ)
    from cli.demo_live import run_live

    return run_live(args, os.environ)


def check(args: argparse.Namespace) -> None:
    """Raises UsageError where options contradict each other."""
    if args.once and args.no_generator:
        raise UsageError("--once needs the generator: leave --no-generator out")
    if args.once and args.speed is not None:
        raise UsageError("--once replays as fast as it goes: leave --speed out")
    if args.no_generator and (args.csv or args.tags is not None):
        raise UsageError("--no-generator sends nothing: leave --csv and --tags out")
