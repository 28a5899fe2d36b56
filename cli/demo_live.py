"""``footfall demo`` without ``--once``: runs until Ctrl-C and shows its progress."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from footfall.cli.demo_house import House, open_house
from footfall.cli.demo_sends import check_shop, sent_live
from footfall.cli.errors import UsageError
from footfall.cli.home import Home, is_set, need_file, need_free_port
from footfall.cli.options import need_open
from footfall.cli.show import Show
from footfall.cli.stop import Stopped
from footfall.cli.watch import CONFIGURED, HOW_TO_GET, watching
from footfall.infra.ports import free_port
from footfall.infra.programs import programs
from footfall.operations.sent import read_sent
from footfall.schemas.settings import read_settings

TOPIC_BYTES = 2_147_483_648
"""Bytes kept per topic, some hours of the largest one: the page shows the newest records of a
topic, and asks tables for everything else."""
_CONNECT_TIMEOUT_S = 0.2


def run_live(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run until a signal, and return 0. Raises what ``open_house`` raises except Stopped."""
    if not is_set(environ, "TOPICS_RETENTION_BYTES"):
        environ = {**environ, "TOPICS_RETENTION_BYTES": str(TOPIC_BYTES)}
    if args.speed is not None:
        # The windows of store_metrics are as long as the replay is fast: one row per real second.
        environ = {**environ, "PRODUCER_DATA_SEC_PER_REAL_SEC": str(args.speed)}
    settings = read_settings(environ)
    host = settings.frontend_hostname
    port = args.port or settings.frontend_port or free_port()
    need_open(host, is_open=args.open)
    if not args.no_generator and not args.truth:
        args.csv = args.csv or settings.input_file_name
    if args.csv:
        need_file(args.csv)
    page = f"http://{_reachable(host)}:{port}/"

    sent = sent_live(args)
    is_simulated = any(name != "csv" for name, _ in sent)

    def begin() -> None:
        need_free_port(host, port, "--port")
        check_shop(sent, Home(settings.footfall_home), is_fresh=args.fresh)
        what = "flows and page" if not sent else "flows, page and shop"
        what = "flows, page and replay" if sent and not is_simulated else what
        _print(f"starting servers, {what}; state lies in {settings.footfall_home}")
        if args.csv and not args.fresh and not is_simulated:
            _tell_simulated(settings.footfall_home)

    show = Show()
    try:
        with open_house(args, environ, show.tell, begin) as house, ExitStack() as stack:
            house.start_flows(args.workers)
            options = ["--open"] if args.open else []
            api = ("api", "--observe", "--port", str(port), *options)
            house.supervisor.start("api", api, service=True)
            for name, arguments in sent:
                house.generate(name, *arguments)
            house.run_until(lambda: _listens(page), lambda: None)
            _print(f"page: {page}")
            if not args.no_watch:
                _print(_watched(house, show, stack))
            show.page = page
            with show:
                house.run_until(lambda: False, lambda: show.tick(house))
    except Stopped:
        pass
    _print("ended; `footfall demo` goes on from here, `footfall query` asks what there is")
    return 0


def _tell_simulated(home: Path) -> None:
    """Warn of simulated records beside a file that is meant to be seen alone."""
    worlds = [one.name for one in read_sent(home) if one.is_simulated and one.rows]
    if worlds:
        _print(
            f"{home} also holds simulated records ({', '.join(worlds)}): begin with --fresh, or "
            "set FOOTFALL_HOME to another folder, to see the file alone"
        )


def _watched(house: House, show: Show, stack: ExitStack) -> str:
    """Start Prometheus and Alertmanager; return where they are, or why the demo runs without."""
    found = programs()
    if found is None:
        return HOW_TO_GET
    beside = watching(house.home, house.supervisor, found, CONFIGURED, show.tell)
    try:
        return stack.enter_context(beside)
    except (UsageError, OSError) as error:
        return f"no alerts: {error}"


def _listens(page: str) -> bool:
    host, _, port = page.removeprefix("http://").rstrip("/").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _reachable(host: str) -> str:
    """Return an address that a browser on this machine can open."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _print(text: str) -> None:
    print(text, flush=True)
