"""``footfall flows`` lists the catalogue, ``footfall run`` runs one flow as a worker."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from footfall.cli.errors import UsageError, did_you_mean
from footfall.cli.home import Home
from footfall.cli.options import count
from footfall.schemas.settings import Settings, read_settings

if TYPE_CHECKING:
    from footfall.flows import Flow

log = logging.getLogger(__name__)

WORKERS_MAX = 256
"""Most processes of one flow; more than a topic has partitions have nothing to do."""


def add_commands(commands: Any) -> None:
    """Add ``flows`` and ``run`` to the command line."""
    listing = commands.add_parser("flows", help="the catalogue: what each flow reads and writes")
    listing.set_defaults(handler=list_flows)
    run = commands.add_parser(
        "run",
        help="one flow as a worker",
        description="Run one flow as a worker until it is stopped (SIGTERM, Ctrl-C). "
        "It resumes where it was, also with another number of processes than before.",
    )
    run.add_argument("flow", metavar="FLOW", help="a name from `footfall flows`")
    run.add_argument(
        "--once",
        action="store_true",
        help="read to the end of the topic as found, write every window as final, and stop",
    )
    processes = run.add_mutually_exclusive_group()
    processes.add_argument(
        "--workers", type=workers, metavar="N",
        help="run N processes, each with its share of the partitions, and start again those that "
        "end (one process)",
    )  # fmt: skip
    processes.add_argument(
        "--worker", type=worker, metavar="I/N", default=(0, 1),
        help="run the one process I of N, counted from 0: 0/3, 1/3 and 2/3 read everything",
    )  # fmt: skip
    run.add_argument(
        "--skip-removed",
        action="store_true",
        help="where retention has removed records that were not read, go on from the oldest left "
        "and say what is missing (it stops otherwise)",
    )
    run.set_defaults(handler=run_flow)


def workers(text: str) -> int:
    """Read a number of processes from the command line."""
    return count(text, WORKERS_MAX)


def worker(text: str) -> tuple[int, int]:
    """Read (index, number of processes) from the command line: "0/3"."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    index, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not index < of <= WORKERS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one of N processes, counted from 0, such as 0/3, 1/3 and 2/3 "
            f"(at most {WORKERS_MAX})"
        )
    return index, of


def list_flows(_args: argparse.Namespace) -> int:
    """Print the catalogue as a table."""
    from footfall import flows
    from footfall.cli.table import print_table

    rows = [
        (
            contract.name,
            ", ".join(contract.topics),
            ", ".join(contract.writes.names),
            contract.about,
        )
        for contract in flows.catalogue().values()
    ]
    print_table(("flow", "reads", "writes", "about"), rows)
    return 0


def contract_of(name: str) -> Flow:
    """Return the flow of that name, for a process that works on it. Raises UsageError."""
    # One worker is one core: more threads in each would only wait for another. Polars reads
    # this once, when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from footfall import flows

    contracts = flows.catalogue()
    if name not in contracts:
        raise UsageError(f"no such flow: {name}{did_you_mean(name, contracts)}")
    return contracts[name]


def run_flow(args: argparse.Namespace) -> int:
    """Run one flow, in this process or in several, until it is stopped or at its end."""
    contract = contract_of(args.flow)
    if args.workers is not None:
        from footfall.cli.workers import run_workers

        return run_workers(
            args.flow, args.workers, os.environ, once=args.once, skip_removed=args.skip_removed
        )
    with _settings_of_worker(args) as settings:
        _run_here(args, contract, settings)
    return 0


@contextmanager
def _settings_of_worker(args: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings. For a worker that ends by itself, the embedded ClickHouse runs."""
    from footfall.cli.servers import servers_of_flow, settings_for_clients

    if args.once and args.worker == (0, 1):
        with servers_of_flow(os.environ, args.flow) as settings:
            yield settings
    else:
        yield settings_for_clients(os.environ)


def _run_here(args: argparse.Namespace, contract: Flow, settings: Settings) -> None:
    """Run the flow in this process."""
    from footfall.infra.logs import log_start, set_up_logs
    from footfall.streams.log_lines import log_failure

    Home(settings.footfall_home).make()
    set_up_logs(settings, f"{args.flow}/{args.worker[0]}", flow=args.flow, worker=args.worker[0])
    log_start(log, settings, read_settings({"FOOTFALL_HOME": str(settings.footfall_home)}))
    try:
        _run_flow(args, contract, settings)
    except Exception as error:
        log_failure(error)
        raise


def _run_flow(args: argparse.Namespace, contract: Flow, settings: Settings) -> None:
    from footfall.cli.errors import say
    from footfall.sinks.attempts import ATTEMPTS
    from footfall.streams.runner import Monitoring, Run, run_worker
    from footfall.streams.source import Share

    share = Share(*args.worker)
    monitoring = Monitoring(settings.metrics_hostname, settings.metrics_port, ATTEMPTS.read)
    if run_on := contract.other_engine(settings):
        run_on(
            Run(
                once=args.once,
                share=share,
                skip_removed=args.skip_removed,
                monitoring=monitoring,
                say=say,
            )
        )
        return
    run_worker(
        args.flow,
        lambda run: contract.wire(settings, run),
        settings.footfall_home,
        once=args.once,
        snapshot_every_s=contract.snapshot_every_s,
        share=share,
        steps=contract.steps,
        skip_removed=args.skip_removed,
        monitoring=monitoring,
        say=say,
    )
