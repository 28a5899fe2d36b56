"""The servers of a command: those that the user named, or the embedded ones of this home.

Topics, profiles and the store are chosen by address alone. ClickHouse has one more case: the
embedded server takes any free port, and a note in the home has its address.
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from footfall.cli.errors import FailureError, UsageError
from footfall.cli.home import Home, answers, is_set, running_clickhouse
from footfall.cli.supervise import Child, Supervisor, last_line
from footfall.infra.ports import free_port
from footfall.schemas.settings import Settings, read_settings

START_WAIT_S = 60.0
ENGINE_WAIT_S = 60.0
PORTS_TRIED_MAX = 5
"""Ports tried in turn; each was free when chosen, and may be taken before the server listens."""
_POLL_S = 0.05


def settings_for_clients(environ: Mapping[str, str]) -> Settings:
    """Return the settings, with the embedded server's URL where it runs and none is set."""
    settings = read_settings(environ)
    if is_set(environ, "CLICKHOUSE_URL"):
        return settings
    url = running_clickhouse(Home(settings.footfall_home))
    return dataclasses.replace(settings, clickhouse_url=url) if url else settings


@contextmanager
def clickhouse_for_a_while(environ: Mapping[str, str], *, make: bool) -> Iterator[Settings]:
    """Yield settings whose ClickHouse answers: one that runs, or an embedded one for this while.

    With ``make`` an embedded server is started even if its folder does not exist yet. Raises
    FailureError where there is no ClickHouse to ask.
    """
    settings = settings_for_clients(environ)
    home = Home(settings.footfall_home)
    if is_set(environ, "CLICKHOUSE_URL") or running_clickhouse(home):
        yield settings
        return
    if not home.clickhouse.is_dir() and not make:
        if not answers(settings.clickhouse_url):
            raise FailureError(
                f"no ClickHouse: none runs at {settings.clickhouse_url} and there is no data in "
                f"{home.clickhouse}; start with `footfall demo`, or set CLICKHOUSE_URL"
            )
        yield settings
        return
    need_engine()
    home.make()
    home.logs.mkdir(exist_ok=True)
    with engine_held(home):
        url = running_clickhouse(home)
        if url:
            yield dataclasses.replace(settings, clickhouse_url=url)
            return
        supervisor = Supervisor(home.logs, environ, say=lambda _line: None)
        try:
            url = start_clickhouse(supervisor)
            yield dataclasses.replace(settings, clickhouse_url=url)
        finally:
            supervisor.stop()


@contextmanager
def servers_of_flow(environ: Mapping[str, str], flow: str) -> Iterator[Settings]:
    """Yield settings for a flow's tables; ClickHouse answers if the flow has tables there."""
    from footfall import flows

    if flows.catalogue()[flow].tables:
        with clickhouse_for_a_while(environ, make=False) as settings:
            yield settings
    else:
        yield read_settings(environ)


@contextmanager
def engine_held(home: Home) -> Iterator[None]:
    """Hold a home to start the embedded engine; another command waits its turn.

    Raises FailureError when the wait gets long.
    """
    until_s = time.monotonic() + ENGINE_WAIT_S
    with (home.path / "engine.lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise FailureError(
                        f"another command has used the embedded ClickHouse of {home.path} for "
                        f"{ENGINE_WAIT_S:g} s: wait for it, or end it"
                    ) from None
                time.sleep(_POLL_S)
        yield


def need_engine() -> None:
    """Raise UsageError where the embedded engine is not installed."""
    if importlib.util.find_spec("chdb") is None:
        raise UsageError(
            "the embedded ClickHouse is not installed: pip install 'footfall[embedded]', "
            "or set CLICKHOUSE_URL to a real server"
        )


def start_clickhouse(supervisor: Supervisor, check: Callable[[], None] = lambda: None) -> str:
    """Start the embedded server as a child and wait until it answers; returns its address.

    ``check`` is called while waiting and may raise. Raises FailureError with the server's last
    line where it ends or does not answer in time.
    """
    log = supervisor.logs / "clickhouse.log"
    for _ in range(PORTS_TRIED_MAX):
        port = free_port()
        said_before = log.stat().st_size if log.exists() else 0
        child = supervisor.start(
            "clickhouse", ("clickhouse", "--port", str(port)), service=True, last=True
        )
        url = f"http://127.0.0.1:{port}"
        if _answers_as_ours(child, url, said_before, check):
            return url
        supervisor.stop_one(child.name)
    raise FailureError(
        f"the embedded ClickHouse did not start: {PORTS_TRIED_MAX} ports that were free were "
        "taken by others a moment later; try again"
    )


def _answers_as_ours(child: Child, url: str, said_before: int, check: Callable[[], None]) -> bool:
    """Wait until a child serves there; return False where another process took its port.

    ``said_before``: bytes of the log that earlier processes wrote.
    """
    until_s = time.monotonic() + START_WAIT_S
    while time.monotonic() < until_s:
        check()
        process = child.process
        if process is not None and process.poll() is not None:
            if "cannot listen on" in _said(child.log, said_before):
                return False
            raise FailureError(
                f"the embedded ClickHouse did not start: {last_line(child.log) or 'no message'}"
            )
        # Another process that took the port may answer, too: the child's log says when it serves.
        if f"ClickHouse at {url} " in _said(child.log, said_before) and answers(url, 1.0):
            return True
        time.sleep(_POLL_S)
    raise FailureError(
        f"the embedded ClickHouse does not answer after {START_WAIT_S:g} s; see {child.log}"
    )


def _said(log: Path, after: int) -> str:
    """Return what is in a log after so many bytes."""
    with log.open("rb") as file:
        file.seek(after)
        return file.read().decode(errors="replace")
