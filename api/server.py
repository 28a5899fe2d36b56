"""Start-up of the HTTP side: takes the port, opens the services, serves until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator

import uvicorn
import uvloop
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette

from api.app import create_app
from api.opening import open_services
from schemas.settings import SettingError, Settings, read_settings
from sinks import SinkError

__all__ = ["PortError", "create_app", "main", "serve"]

CONNECTIONS_MAX = 4000
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep an idle connection, so that theirs is the first to go."""
FINISH_WITHIN_S = 1
"""What requests under way get when the server is told to stop."""
STOP_WITHIN_S = 2.8
"""From the signal to the end of the process, whatever hangs."""
EXIT_FAILED = 1


class PortError(Exception):
    """The address cannot be listened on; the message says what to do."""


def serve(settings: Settings, port: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; says one line where it cannot start.

    ``port`` takes the place of FRONTEND_PORT.
    """
    _set_up_logging(settings)
    host, number = settings.frontend_hostname, port or settings.frontend_port
    try:
        listening = listen(host, number)
    except PortError as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_FAILED
    _allow_connections()
    # What was acknowledged is durable: a part that hangs at the end may be left behind.
    last_resort = threading.Timer(STOP_WITHIN_S, os._exit, (0,))
    last_resort.daemon = True
    try:
        with listening:
            uvloop.run(_serve(settings, listening, _say_where(host, number), last_resort.start))
    except (SinkError, SQLAlchemyError) as error:
        # Only what opens the services raises these here: an address that is none.
        print(error, file=sys.stderr, flush=True)
        return EXIT_FAILED
    finally:
        last_resort.cancel()
    return 0


def _allow_connections() -> None:
    """Many systems start a process with 1,024 descriptors at most, and let it ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + 512
    if soft < wanted:
        highest = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises PortError with one line."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise PortError(f"FRONTEND_HOSTNAME={host!r} is no address of ours: {error}") from None
    # "localhost" is often ::1 first, where most clients try 127.0.0.1.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Only this tells that another socket listens already, where that one is bound likewise.
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise PortError(_why_not(error, host, port)) from None
    return bound


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken: choose another with --port or FRONTEND_PORT"
    if error.errno == errno.EACCES:
        return f"port {port} needs rights: choose one above 1023 with --port or FRONTEND_PORT"
    reason = os.strerror(error.errno) if error.errno else error
    return f"cannot listen on {host} port {port} ({reason}): check FRONTEND_HOSTNAME"


def _say_where(host: str, port: int) -> Callable[[], None]:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return lambda: print(f"listening on http://{shown}:{port}/", flush=True)


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


async def _serve(
    settings: Settings,
    listening: socket.socket,
    started: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    async with open_services(settings) as services:
        server = _Server(config(create_app(services)), started)

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
        await server.serve(sockets=[listening])


def config(app: Starlette) -> uvicorn.Config:
    """How uvicorn runs the application: nothing that costs time and is not asked for."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_WITHIN_S,
    )


def _set_up_logging(settings: Settings) -> None:
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    level = logging.INFO if settings.use_logger else logging.WARNING
    logging.getLogger("footfall.api").setLevel(level)


def main() -> int:
    """For ``python -m api.server``."""
    try:
        settings = read_settings()
    except SettingError as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_FAILED
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
