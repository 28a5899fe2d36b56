"""``footfall api`` and ``footfall clickhouse``: each server alone."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from footfall.cli.errors import UsageError
from footfall.cli.home import ClickHouseNote, Home, need_free_port, remove_note, write_note
from footfall.cli.options import add_open_option, need_open, port_number, port_or_any
from footfall.infra._clickhouse_options import add_options
from footfall.schemas.embedded_clickhouse import PASSWORD_FILE, USER

CLICKHOUSE_PORT = 8123


def add_commands(commands: Any) -> None:
    """Add ``api`` and ``clickhouse`` to the command line."""
    api = commands.add_parser("api", help="the HTTP side: collects events, answers, the live page")
    api.add_argument(
        "--port",
        type=port_or_any,
        metavar="N",
        help="in place of FRONTEND_PORT (8080); 0 is any that is free",
    )
    add_open_option(api)
    api.add_argument(
        "--observe",
        action="store_true",
        help="tell of every flow's lag at /metrics, as `footfall observe` does",
    )
    api.set_defaults(handler=serve_api)
    clickhouse = commands.add_parser(
        "clickhouse",
        help="the embedded ClickHouse alone, over HTTP on loopback",
        description="Serve the ClickHouse of FOOTFALL_HOME over HTTP on 127.0.0.1, for curl, "
        "dashboards and the other commands, until it is stopped. It answers the user default with "
        "the password that lies in the home.",
    )
    clickhouse.add_argument(
        "--port", type=port_number, metavar="N", default=CLICKHOUSE_PORT,
        help=f"{CLICKHOUSE_PORT} by default",
    )  # fmt: skip
    add_options(clickhouse)
    clickhouse.set_defaults(handler=serve_clickhouse)


def serve_api(args: argparse.Namespace) -> int:
    """Serve HTTP until stopped."""
    from footfall.cli.servers import settings_for_clients

    settings = settings_for_clients(os.environ)
    port = settings.frontend_port if args.port is None else args.port
    option = "FRONTEND_PORT or --port" if args.port is None else "--port"
    need_open(settings.frontend_hostname, is_open=args.open)
    need_free_port(settings.frontend_hostname, port, option)
    Home(settings.footfall_home).make()
    from footfall.api.server import serve

    return serve(settings, port, is_open=args.open, is_observing=args.observe)


def serve_clickhouse(args: argparse.Namespace) -> int:
    """Serve the embedded ClickHouse until stopped."""
    from footfall.cli.servers import need_engine
    from footfall.schemas.settings import read_settings

    need_engine()
    settings = read_settings(os.environ)
    home = Home(settings.footfall_home)
    home.make()
    need_free_port("127.0.0.1", args.port, "--port")
    # DateTime columns without a zone and now() are in UTC on every machine.
    os.environ["TZ"] = "UTC"
    time.tzset()
    from footfall.infra._clickhouse_errors import EmbeddedClickHouseError
    from footfall.infra.embedded_clickhouse import EmbeddedClickHouse
    from footfall.infra.ending import waiting_for_the_end
    from footfall.schemas.targets import scrape_target
    from footfall.streams.monitor import serving

    wait_for_end = waiting_for_the_end()
    server = EmbeddedClickHouse(
        home.clickhouse,
        port=args.port,
        query_s_max=args.query_seconds,
        hosts=args.allow_host,
        new_password=args.new_password,
    )
    try:
        server.start()
    except EmbeddedClickHouseError as error:
        raise UsageError(str(error)) from None
    if not args.tied:
        # A parent that started this server decides itself whether other commands may use it.
        write_note(home, ClickHouseNote(server.url, os.getpid()))
    for name, why in server.left.items():
        print(f"default.{name} was left in that database: {why}", file=sys.stderr)
    print(f"ClickHouse at {server.url} (data in {home.clickhouse})", flush=True)
    print(f"    {curl_line(home.clickhouse, server.url)}", flush=True)
    host = settings.metrics_hostname
    # METRICS_PORT is for a worker: here any free port is taken.
    with (
        serving(host, 0, [server.metrics]) as port,
        scrape_target(home.path, "clickhouse", host, port),
    ):
        wait_for_end()
    remove_note(home, os.getpid())
    server.stop()
    # A query that could not be cancelled would hold the interpreter back at its exit.
    os._exit(0)


def curl_line(folder: Path, url: str) -> str:
    """Return a command that asks the server; the password is not on its command line."""
    password = shlex.quote(str(folder / PASSWORD_FILE))
    return f"sed 's/^/user={USER}:/' {password} | curl -sSK - '{url}/?query=SHOW+TABLES'"
