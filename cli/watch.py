"""``footfall watch``: Prometheus and Alertmanager beside a running demo, alerts as lines.

Both are the machine's own programs, configured by ``infra``; their data lies in the home, bounded.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from footfall.cli.errors import UsageError
from footfall.cli.home import Home
from footfall.cli.notices import receiving
from footfall.cli.stop import Stop
from footfall.cli.supervise import PROJECT, Supervisor
from footfall.infra.ports import port_or_free
from footfall.infra.programs import Programs, alertmanager_command, programs, prometheus_command
from footfall.schemas.targets import targets_folder

CONFIGURED = PROJECT / "infra"
PORTS = (9090, 9093, 9095)
"""Usual ports of Prometheus, Alertmanager and its webhook; others where these are taken."""
WEBHOOK = "http://127.0.0.1:9095/alerts"
"""The webhook's address in infra/alertmanager/alertmanager.yml."""
HOW_TO_GET = (
    "Prometheus and Alertmanager are not installed: apt-get install --no-install-recommends "
    "prometheus prometheus-alertmanager (Debian, Ubuntu), or brew install prometheus alertmanager"
)
_POLL_S = 0.1


def add_commands(commands: Any) -> None:
    """Add ``watch`` to the command line."""
    watching = commands.add_parser(
        "watch",
        help="Prometheus and Alertmanager beside a running demo; alerts as lines",
        description="Start Prometheus and Alertmanager for all that runs on this FOOTFALL_HOME, "
        "and print a line for each alert that begins or ends, until it is stopped. A demo does "
        "so by itself.",
    )
    watching.add_argument(
        "--config",
        type=Path,
        metavar="DIR",
        default=CONFIGURED,
        help="with prometheus/prometheus.yml, prometheus/rules/ and alertmanager/alertmanager.yml",
    )
    watching.set_defaults(handler=watch)


def watch(args: argparse.Namespace) -> int:
    """Run both until stopped."""
    from footfall.schemas.settings import read_settings

    found = programs()
    if found is None:
        raise UsageError(HOW_TO_GET)
    home = Home(read_settings(os.environ).footfall_home)
    home.make()
    home.logs.mkdir(exist_ok=True)
    stop, supervisor = Stop(), Supervisor(home.logs, os.environ, say=_print)
    with stop.on_signals(), watching(home, supervisor, found, args.config, _print) as where:
        try:
            _print(where)
            while not stop.asked:
                supervisor.poll()
                time.sleep(_POLL_S)
        finally:
            supervisor.stop()
    return 0


@contextmanager
def watching(
    home: Home,
    supervisor: Supervisor,
    found: Programs,
    config: Path,
    say: Callable[[str], None],
) -> Iterator[str]:
    """Start both as children of the supervisor, which ends them; yield a line with addresses.

    Raises UsageError where they run on this home already, or where the folder of the configuration
    lacks a file.
    """
    folder = home.path / "prometheus"
    folder.mkdir(0o700, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UsageError(f"already running on {home.path}: {lock.read().strip()}") from None
        ports = [port_or_free(port) for port in PORTS]
        local = [f"127.0.0.1:{port}" for port in ports]
        where = f"Prometheus: http://{local[0]}/ Alertmanager: http://{local[1]}/"
        lock.truncate(0)
        lock.write(where + "\n")
        lock.flush()
        _configure(home, config, alertmanager=local[1], webhook=f"http://{local[2]}/alerts")
        with receiving(say, ports[2]):
            _start(home, supervisor, found, local)
            yield where


def _configure(home: Home, config: Path, *, alertmanager: str, webhook: str) -> None:
    """Write the files of both programs where their configuration expects them."""
    folder = home.path / "prometheus"
    shutil.rmtree(folder / "rules", ignore_errors=True)
    try:
        shutil.copytree(config / "prometheus" / "rules", folder / "rules")
        shutil.copyfile(config / "prometheus" / "prometheus.yml", folder / "prometheus.yml")
        routes = (config / "alertmanager" / "alertmanager.yml").read_text()
    except OSError as error:
        raise UsageError(f"--config {config}: cannot read {error.filename}") from None
    (folder / "alertmanagers").mkdir(exist_ok=True)
    (folder / "alertmanagers" / "local.json").write_text(json.dumps([{"targets": [alertmanager]}]))
    targets_folder(home.path).mkdir(0o700, exist_ok=True)
    (folder / "targets").unlink(missing_ok=True)
    (folder / "targets").symlink_to(targets_folder(home.path).resolve())
    (home.path / "alertmanager").mkdir(0o700, exist_ok=True)
    path = home.path / "alertmanager" / "alertmanager.yml"
    path.write_text(routes.replace(WEBHOOK, webhook))


def _start(home: Home, supervisor: Supervisor, found: Programs, local: list[str]) -> None:
    prometheus, alertmanager = home.path / "prometheus", home.path / "alertmanager"
    commands = {
        "prometheus": prometheus_command(found.prometheus, prometheus, local[0]),
        "alertmanager": alertmanager_command(found.alertmanager, alertmanager, local[1]),
    }
    for name, command in commands.items():
        supervisor.start(name, command, service=True, program=True)


def _print(text: str) -> None:
    print(text, flush=True)
