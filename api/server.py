"""Start-up of the HTTP side: takes the port, opens the services, serves until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence

import uvicorn
import uvloop
from prometheus_client.registry import Collector
from starlette.applications import Starlette

from footfall.api.address import BACKLOG, PortError, listen, url_of
from footfall.api.app import create_app
from footfall.api.metrics import ApiMetrics
from footfall.api.opening import open_services
from footfall.infra import connections
from footfall.infra.connections import LIMITS, Limits
from footfall.infra.logs import log_start, set_up_logs
from footfall.schemas.settings import SettingError, Settings, read_settings
from footfall.schemas.status import LOG_EVERY_S
from footfall.schemas.targets import scrape_target
from footfall.sinks import SinkError

__all__ = ["PortError", "create_app", "listen", "main", "serve"]

log = logging.getLogger("footfall.api")

CONNECTIONS_MAX = 4000
CONNECTIONS_MIN = 64
DESCRIPTORS_KEPT = 512
"""Descriptors kept for files and for connections to servers."""
FINISH_WITHIN_S = 1
"""Time for requests under way when the server is told to stop."""
STOP_WITHIN_S = 2.8
"""Time from the signal to the end of the process, whatever hangs."""
EXIT_FAILED = 1


def serve(
    settings: Settings,
    port: int | None = None,
    *,
    is_open: bool = False,
    is_observing: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; says one line where it cannot start.

    ``port`` takes the place of FRONTEND_PORT. Other machines are served only if ``is_open``. With
    ``is_observing`` its metrics tell of every flow's lag, too.
    """
    set_up_logs(settings, "api")
    # uvicorn warns of what clients send, one line per request.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    number = settings.frontend_port if port is None else port
    try:
        listening = listen(settings.frontend_hostname, number, is_open=is_open)
    except PortError as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_FAILED
    # All acknowledged records are durable, so a part that hangs at the end may be cut off.
    last_resort = threading.Timer(STOP_WITHIN_S, os._exit, (0,))
    last_resort.daemon = True
    try:
        served_port = listening.getsockname()[1]
        with (
            listening,
            scrape_target(settings.footfall_home, "api", settings.frontend_hostname, served_port),
            _observing(settings, is_observing) as observers,
        ):
            uvloop.run(_serve(settings, listening, last_resort.start, observers))
    except SinkError as error:
        # Only opening the services raises these here, for an address that is not valid.
        print(error, file=sys.stderr, flush=True)
        return EXIT_FAILED
    finally:
        last_resort.cancel()
    log.info("stopped: it was told to")
    return 0


async def _log_now_and_then(metrics: ApiMetrics) -> None:
    """Log what was answered since the line before."""
    told = metrics.totals()
    while True:
        await asyncio.sleep(LOG_EVERY_S)
        now = metrics.totals()
        since = {name: now[name] - told[name] for name in now}
        told = now
        log.info(
            "%d requests in %g s, %d of them failed; %d records written",
            since["requests"],
            LOG_EVERY_S,
            since["failed"],
            since["records"],
            extra=since,
        )


def allow_connections(wanted: int = CONNECTIONS_MAX) -> int:
    """Return how many connections there may be, having asked the system for as many as wanted.

    Many systems start a process with 1,024 descriptors at most, and let it ask for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS_KEPT
    if soft != resource.RLIM_INFINITY and soft < needed:
        highest = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            soft = highest
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(soft - DESCRIPTORS_KEPT, CONNECTIONS_MIN))


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would raise them again after an orderly end."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say_started = started

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say_started()


@contextlib.contextmanager
def _observing(
    settings: Settings, is_observing: bool
) -> Generator[Sequence[Collector], None, None]:
    """Look at every flow in a thread, where that is asked for."""
    if not is_observing:
        yield ()
        return
    from footfall.operations.observer import observing

    with observing(settings) as observers:
        yield observers


async def _serve(
    settings: Settings,
    listening: socket.socket,
    stopping: Callable[[], None],
    observers: Sequence[Collector],
) -> None:
    def started() -> None:
        home = {"FOOTFALL_HOME": str(settings.footfall_home)}
        log_start(log, settings, read_settings(home))
        print(f"listening on {url_of(listening)}", flush=True)

    limits = Limits(connections=allow_connections())
    async with open_services(settings) as services:
        for observer in observers:
            services.metrics.registry.register(observer)
        server = _Server(config(create_app(services), limits), started)

        def stop() -> None:
            if not server.should_exit:
                server.should_exit = True
                stopping()

        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
        # What was made up to here lives as long as the process.
        gc.collect()
        gc.freeze()
        telling = asyncio.create_task(_log_now_and_then(services.metrics))
        await server.serve(sockets=[listening])
        telling.cancel()


def config(app: Starlette, limits: Limits = LIMITS) -> uvicorn.Config:
    """Return uvicorn's configuration for the application."""
    return connections.config(
        app,
        limits,
        loop="uvloop",
        backlog=BACKLOG,
        timeout_graceful_shutdown=FINISH_WITHIN_S,
    )


def main() -> int:
    """Serve, for ``python -m footfall.api.server [--open]``. Returns the exit code."""
    # Files that it makes, in the home above all, can be read by its user alone.
    os.umask(0o077)
    try:
        settings = read_settings()
    except SettingError as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_FAILED
    return serve(settings, is_open="--open" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
