"""The parts that both kinds of demo share: home, servers, tables, flows."""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from footfall.cli.errors import UsageError
from footfall.cli.home import (
    ClickHouseNote,
    Home,
    clear_refusal,
    is_set,
    need_file,
    remove_note,
    running_clickhouse,
    write_note,
)
from footfall.cli.servers import engine_held, need_engine, start_clickhouse
from footfall.cli.stop import Stop
from footfall.cli.supervise import Child, Supervisor
from footfall.schemas.settings import Settings, read_settings

POLL_S = 0.1
AT_ONCE_MAX = 4
"""Processes of flows that run to their end at the same time; more would share the same cores."""


@dataclass(slots=True)
class House:
    """A demo's processes on one home."""

    home: Home
    settings: Settings
    supervisor: Supervisor
    stop: Stop
    flows: tuple[str, ...] = ()
    generators: list[Child] = field(default_factory=list)
    workers: dict[str, list[Child]] = field(default_factory=dict)
    """Processes that were started, by flow."""

    def run_until(self, done: Callable[[], bool], tick: Callable[[], None]) -> None:
        """Keep the house running, and ``tick`` many times a second, until it is done.

        Raises FailureError of the supervisor, Stopped.
        """
        while not done():
            self.stop.check()
            self.supervisor.poll()
            tick()
            time.sleep(POLL_S)

    def wait_for(self, children: Sequence[Child], tick: Callable[[], None]) -> None:
        """Keep the house running until these tasks are done."""
        self.run_until(lambda: all(child.done for child in children), tick)

    def start_flows(self, workers: int) -> list[Child]:
        """Start so many worker processes of each flow, which run until they are stopped."""
        return [child for name in self.flows for child in self._start_flow(name, workers)]

    def run_flows(self, workers: int, tick: Callable[[], None]) -> None:
        """Run each flow to its end, a few processes at once: most of their work is to start."""
        waiting = list(self.flows)
        started: list[Child] = []

        def all_done() -> bool:
            running = sum(not child.done for child in started)
            while waiting and (not running or running + workers <= AT_ONCE_MAX):
                started.extend(self._start_flow(waiting.pop(0), workers, "--once"))
                running += workers
            return not running

        self.run_until(all_done, tick)

    def _start_flow(self, name: str, workers: int, *options: str) -> list[Child]:
        children = []
        for index in range(workers):
            child_name = f"{name}.{index}" if workers > 1 else name
            which = ("--worker", f"{index}/{workers}")
            command = ("run", name, *which, *options)
            children.append(
                self.supervisor.start(child_name, command, service="--once" not in options)
            )
        self.workers[name] = children
        return children

    def generate(self, name: str, *arguments: str) -> Child:
        """Start a generator as a task."""
        child = self.supervisor.start(name, ("generate", *arguments), service=False)
        self.generators.append(child)
        return child


@contextmanager
def open_house(
    args: argparse.Namespace,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> Iterator[House]:
    """Hold the home, start the embedded servers, make topics and tables; end all at the end.

    ``check`` may raise once the home is held, before anything is changed. Raises UsageError
    where something stands in the way, FailureError where a server or the making of tables
    fails, Stopped where the user ends it.
    """
    from footfall import flows

    # Workers of all flows cannot share one port: Prometheus finds theirs through their files.
    environ = {name: value for name, value in environ.items() if name != "METRICS_PORT"}
    settings = read_settings(environ)
    if args.csv:
        need_file(args.csv)
    home = Home(settings.footfall_home)
    embedded = not is_set(environ, "CLICKHOUSE_URL")
    if embedded:
        need_engine()
    home.make()
    stop = Stop()
    with home.lock(), stop.on_signals():
        check()
        if args.fresh:
            _clear(home, settings, embedded=embedded)
        for folder in (home.logs, home.clickhouse_note.parent):
            folder.mkdir(exist_ok=True)
        supervisor = Supervisor(home.logs, {**environ, "FOOTFALL_HOME": str(home.path)}, say=say)
        house = House(home, settings, supervisor, stop, flows=tuple(flows.catalogue()))
        try:
            if embedded:
                url = _clickhouse(house)
                supervisor.environ = {**supervisor.environ, "CLICKHOUSE_URL": url}
            house.wait_for([supervisor.start("init", ("init",), service=False)], lambda: None)
            yield house
        finally:
            remove_note(home, os.getpid())
            supervisor.stop()


def _clickhouse(house: House) -> str:
    """Return the address of the embedded ClickHouse: one that runs on this home, or our own."""
    home = house.home
    url = running_clickhouse(home)
    if url is None:
        with engine_held(home):
            url = start_clickhouse(house.supervisor, house.stop.check)
            write_note(home, ClickHouseNote(url, os.getpid()))
    return url


def _clear(home: Home, settings: Settings, *, embedded: bool) -> None:
    refusal = clear_refusal(settings, embedded=embedded)
    if refusal:
        raise UsageError(refusal)
    if running_clickhouse(home):
        raise UsageError("--fresh: `footfall clickhouse` runs on this home: stop it first")
    for lock in sorted((home.path / "recovery").glob("*/lock")):
        if _is_locked(lock):
            raise UsageError(f"--fresh: a worker of {lock.parent.name} runs on this home: stop it")
    watched = home.path / "prometheus" / "lock"
    if watched.exists() and _is_locked(watched):
        raise UsageError("--fresh: `footfall watch` runs on this home: stop it first")
    with engine_held(home):
        home.clear()


def _is_locked(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
