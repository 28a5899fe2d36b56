"""``footfall observe`` and ``footfall status``: every flow, seen from outside of its workers."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from footfall.operations.flow_facts import FlowFacts

log = logging.getLogger(__name__)

NAME = "observe"
_WAIT_S = 0.2


def add_commands(commands: Any) -> None:
    """Add ``observe`` and ``status`` to the command line."""
    observing = commands.add_parser(
        "observe",
        help="lag of every flow, for Prometheus, also where no worker runs",
        description="Look at the topics' ends and at how far each flow is, and serve what is "
        "found at /metrics (METRICS_HOSTNAME, METRICS_PORT), until it is stopped.",
    )
    observing.set_defaults(handler=observe)
    status = commands.add_parser(
        "status",
        help="a line for each flow: workers, lag, watermark, last error",
        description="One line for each flow that ever ran. Exit code 1 where a flow fails, or is "
        "behind and has no worker.",
    )
    status.add_argument("--json", action="store_true", help="an array of objects")
    status.set_defaults(handler=show_status)


def observe(_args: argparse.Namespace) -> int:
    """Watch every flow until stopped."""
    from footfall.cli.home import Home
    from footfall.cli.servers import settings_for_clients
    from footfall.cli.stop import Stop
    from footfall.infra.logs import log_start, set_up_logs
    from footfall.operations.observer import observing
    from footfall.schemas.settings import read_settings
    from footfall.schemas.targets import scrape_target
    from footfall.streams.monitor import serving

    settings = settings_for_clients(os.environ)
    Home(settings.footfall_home).make()
    set_up_logs(settings, NAME)
    log_start(log, settings, read_settings({"FOOTFALL_HOME": str(settings.footfall_home)}))
    stop, host = Stop(), settings.metrics_hostname
    with (
        stop.on_signals(),
        observing(settings) as collectors,
        serving(
            host,
            settings.metrics_port,
            collectors,
            why_not_ready=lambda: collectors[0].looking.problem,
        ) as port,
        scrape_target(settings.footfall_home, NAME, host, port),
    ):
        print(f"observing every flow: http://{host}:{port}/metrics", flush=True)
        while not stop.asked:
            time.sleep(_WAIT_S)
    log.info("stopped: it was told to")
    return 0


def show_status(args: argparse.Namespace) -> int:
    """Print what each flow does; return 1 where one has a trouble."""
    from footfall.cli.table import print_table
    from footfall.operations.observer import Observer
    from footfall.schemas.settings import read_settings

    flows = Observer(read_settings(os.environ)).look().flows
    if args.json:
        print(json.dumps([as_object(flow) for flow in flows], indent=1))
    elif flows:
        print_table(COLUMNS, [as_row(flow) for flow in flows])
    else:
        print("no flow ever ran here: `footfall run FLOW` or `footfall demo` starts them")
    return int(any(flow.trouble for flow in flows))


COLUMNS = (
    "flow", "workers", "state", "lag", "lag s", "watermark", "rows/s", "trouble", "last error",
)  # fmt: skip


def as_object(flow: FlowFacts) -> dict[str, Any]:
    """Return a flow as `--json` shows it."""
    return {
        "flow": flow.name,
        "workers": flow.running,
        "workers_wanted": flow.wanted,
        "state": flow.state,
        "lag_records": flow.lag,
        "lag_seconds": flow.age_s,
        "watermark": _iso(flow.watermark_ms),
        "rows_per_second": flow.rows_per_s,
        "trouble": flow.trouble,
        "last_error": flow.error,
    }


def as_row(flow: FlowFacts) -> tuple[object, ...]:
    """Return a flow as a row of the table."""
    return (
        flow.name,
        f"{flow.running}/{flow.wanted}" if flow.workers else "?",
        flow.state,
        flow.lag,
        "?" if flow.age_s is None else f"{flow.age_s:.1f}",
        _iso(flow.watermark_ms) or "-",
        flow.rows_per_s,
        flow.trouble or "-",
        flow.error or "-",
    )


def _iso(time_ms: int | None) -> str | None:
    from footfall.schemas.times import iso_ms

    return None if time_ms is None else iso_ms(time_ms)
