"""Options of the embedded server that ``footfall clickhouse`` has, too."""

from __future__ import annotations

import argparse

QUERY_S_MAX = 60
"""Limit of a query in seconds, unless it sets ``max_execution_time`` itself."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    parser.add_argument(
        "--query-seconds",
        type=int,
        metavar="S",
        default=QUERY_S_MAX,
        help="a query runs no longer (%(default)s; 0: without end), unless it sets "
        "max_execution_time itself",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME[:PORT]",
        default=[],
        help="answer requests that were sent to this name, too, as behind a tunnel or a proxy",
    )
    parser.add_argument(
        "--new-password", action="store_true", help="make a new password before it is served"
    )
