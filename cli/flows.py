"""``footfall flows`` lists the catalogue, ``footfall run`` runs one flow as a worker."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

from cli.errors import UsageError, did_you_mean
from cli.home import Home


def add_commands(commands: Any) -> None:
    """Add ``flows`` and ``run`` to the command line."""
    listing = commands.add_parser("flows", help="the catalogue: what each flow reads and writes")
    listing.set_defaults(handler=list_flows)
    run = commands.add_parser(
        "run",
        help="one flow as a worker",
        description="Run one flow as a worker until it is stopped (SIGTERM, Ctrl-C). "
        "It resumes where it was.",
    )
    run.add_argument("flow", metavar="FLOW", help="a name from `footfall flows`")
    run.add_argument(
        "--once",
        action="store_true",
        help="read to the end of the topic as found, write every window as final, and stop",
    )
    run.set_defaults(handler=run_flow)


def list_flows(_args: argparse.Namespace) -> int:
    """Print the catalogue as a table."""
    import flows
    from cli.table import print_table

    rows = [
        (contract.name, ", ".join(contract.reads), ", ".join(contract.writes), contract.about)
        for contract in flows.catalogue().values()
    ]
    print_table(("flow", "reads", "writes", "about"), rows)
    return 0


def run_flow(args: argparse.Namespace) -> int:
    """Run a worker of one flow in this process until it is stopped or at its end."""
    # One worker is one core: more threads in each would only wait for another. Polars reads
    # this once, when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    import flows

    contracts = flows.catalogue()
    if args.flow not in contracts:
        raise UsageError(f"no such flow: {args.flow}{did_you_mean(args.flow, contracts)}")
    from cli.servers import settings_for_clients
    from streams.runner import run_worker

    settings = settings_for_clients(os.environ)
    Home(settings.footfall_home).make()
    module = importlib.import_module(f"flows.{args.flow}")
    run_worker(
        args.flow,
        lambda run: module.wire(settings, run),
        settings.footfall_home,
        once=args.once,
        snapshot_every_s=contracts[args.flow].snapshot_every_s,
    )
    return 0
