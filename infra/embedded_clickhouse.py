"""The embedded ClickHouse: the chDB engine behind ClickHouse's HTTP interface on loopback.

    python -m footfall.infra.embedded_clickhouse --folder .footfall/clickhouse --port 8123

One process owns the data folder (it holds a lock on a file in it) and any number of workers,
dashboards and ``curl`` reach it as they reach a ClickHouse server, with the user ``default`` and
the password in the folder:

    sed 's/^/user=default:/' .footfall/clickhouse/password | curl -sSK - \\
        'http://127.0.0.1:8123/?query=SELECT+1'

An insert that was answered is in the folder: it is there again after ``kill -9``.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from footfall.infra._clickhouse_door import Door
from footfall.infra._clickhouse_engine import Engine, EngineMissingError
from footfall.infra._clickhouse_errors import EmbeddedClickHouseError, EngineError
from footfall.infra._clickhouse_folder import locked, password_of, recorded
from footfall.infra._clickhouse_http import ClickHouseApp
from footfall.infra._clickhouse_metrics import ClickHouseMetrics
from footfall.infra._clickhouse_options import QUERY_S_MAX, add_options
from footfall.infra._clickhouse_turns import Turns
from footfall.infra.connections import Limits, config
from footfall.infra.ending import waiting_for_the_end

QUERIES_AT_ONCE_MAX = 12
CONNECTIONS_MAX = 1_024
MEMORY_BYTES_MAX = 1_500_000_000
"""Limit of all queries and merges together; a query past it fails, and the process goes on."""
START_TIMEOUT_S = 30.0
_ENGINES_SIGNS = frozenset("?*{}&%\\")
_DESCRIPTORS = Path("/proc/self/fd")
GRACE_S, CANCEL_S = 0.7, 1.7
"""Time for running queries to end at a stop, and then to be cancelled; 3 s with the rest."""


class EmbeddedClickHouse:
    """The server as an object: ``start()`` returns when it answers, ``stop()`` when it ended.

    ``port`` is 0 for any free port; the attribute holds the true one after ``start()``. A process
    has one at a time: the engine allows one data folder per process.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 8123,
        *,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        query_s_max: int = QUERY_S_MAX,
        hosts: Collection[str] = (),
        new_password: bool = False,
    ) -> None:
        """Prepare a server. ``hosts``: names beyond loopback's that requests may be sent to.
        ``new_password``: replace the folder's password."""
        self.folder = folder.absolute()
        self.host = host
        self.port = port
        self.password = ""
        """Known after ``start()``."""
        self.left: Mapping[str, str] = {}
        """Tables of an older version that could not be moved to our database, and why."""
        self.metrics = ClickHouseMetrics()
        self._memory_bytes_max = memory_bytes_max
        self._query_s_max = query_s_max
        self._hosts = hosts
        self._new_password = new_password
        self._undo: list[Callable[[], object]] = []

    @property
    def url(self) -> str:
        """Return the address at which it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Lock the folder, take the port, open the engine and serve in threads of its own.

        Raises EmbeddedClickHouseError, and then leaves nothing behind.
        """
        try:
            self._start()
        except BaseException:
            self._release()
            raise

    def _start(self) -> None:
        # Files that this process makes, the engine's too, can be read by its user alone.
        os.umask(0o077)
        lock = locked(self.folder)
        self._undo.append(lock.close)
        self.password = password_of(self.folder, renew=self._new_password)
        listener = _bound(self.host, self.port)
        self._undo.append(listener.close)
        self.port = listener.getsockname()[1]
        # Before listening: a client sends the password only to an address that is written down.
        self._undo.append(recorded(self.folder, self.url).close)
        _listen(listener, self.host, self.port)
        folder = self._named_plainly()
        engine = _opened(folder, self._memory_bytes_max, self._query_s_max)
        self.left = engine.left
        executor = ThreadPoolExecutor(QUERIES_AT_ONCE_MAX, "clickhouse-query")
        app = ClickHouseApp(
            engine,
            Door(self.port, self.password, {*self._hosts, urlsplit(self.url).netloc}),
            Turns(executor, QUERIES_AT_ONCE_MAX),
            folder / "spool",
            self.metrics,
        )
        limits = Limits(connections=CONNECTIONS_MAX)
        server = uvicorn.Server(
            config(
                app,
                limits,
                refused=self.metrics.refused,
                loop="asyncio",
                timeout_graceful_shutdown=2,
            )
        )
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="clickhouse-http", daemon=True
        )
        thread.start()
        self._undo.append(lambda: _end(server, thread, executor, engine))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise EmbeddedClickHouseError(f"the HTTP server at {self.url} did not start")
            time.sleep(0.005)

    def _named_plainly(self) -> Path:
        """Return a path of the folder without signs that have a meaning for the engine.

        They are those of its addresses and of its patterns for files. Where the path has some, a
        path by descriptor takes its place, for as long as this process holds the folder open.
        """
        if not _ENGINES_SIGNS & set(str(self.folder)):
            return self.folder
        if not _DESCRIPTORS.is_dir():
            raise EmbeddedClickHouseError(
                "the name of the folder of the embedded ClickHouse, below FOOTFALL_HOME, must not "
                f"have any of ? * {{ }} & % \\ on this system: {self.folder}"
            )
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        self._undo.append(partial(os.close, descriptor))
        return _DESCRIPTORS / str(descriptor)

    def stop(self) -> None:
        """Let running queries end for a second, then cancel them, and close the folder."""
        self._release()

    def _release(self) -> None:
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> EmbeddedClickHouse:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise EmbeddedClickHouseError(f"port {port} is not within 0 to 65535")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(address[0], socket.SOCK_STREAM, address[2])
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Inherited by connections: without it an answer waits 40 ms for a delayed ACK.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(address[4])
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _no_place(host, port, error) from None
    return listener


def _listen(listener: socket.socket, host: str, port: int) -> None:
    try:
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        raise _no_place(host, port, error) from None


def _no_place(host: str, port: int, error: OSError) -> EmbeddedClickHouseError:
    taken = error.errno == errno.EADDRINUSE
    reason = "it is taken by another process" if taken else error.strerror
    return EmbeddedClickHouseError(
        f"cannot listen on {host} port {port} ({reason}): give another with --port, "
        "0 for any free one"
    )


def _opened(folder: Path, memory_bytes_max: int, query_s_max: int) -> Engine:
    try:
        # The engine reads a config.xml of the current folder whatever else it is told.
        with chdir(folder):
            return Engine(folder, memory_bytes_max, query_s_max)
    except EngineMissingError:
        raise EmbeddedClickHouseError(
            "the embedded ClickHouse engine is not installed: pip install footfall[embedded]"
        ) from None
    except EngineError as error:
        reason = " ".join(error.text.split())
        raise EmbeddedClickHouseError(f"cannot open the folder {folder}: {reason}") from None


def _end(
    server: uvicorn.Server, thread: threading.Thread, executor: ThreadPoolExecutor, engine: Engine
) -> None:
    server.should_exit = True
    thread.join(GRACE_S)
    if thread.is_alive():
        engine.cancel()
        thread.join(CANCEL_S)
    executor.shutdown(wait=False, cancel_futures=True)
    workers = [worker for worker in threading.enumerate() if "clickhouse-query" in worker.name]
    deadline = time.monotonic() + 0.3
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    # Closing under a running query is not safe; without closing it is as after a kill.
    if not any(worker.is_alive() for worker in workers):
        engine.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m footfall.infra.embedded_clickhouse",
        description="ClickHouse's HTTP interface on loopback, over an engine in this process.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the data lies")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8123, help="default: 8123; 0: any free one")
    parser.add_argument(
        "--memory-mb",
        type=int,
        default=MEMORY_BYTES_MAX // 1_000_000,
        help="limit of all queries together, default: %(default)s",
    )
    add_options(parser)
    args = parser.parse_args(argv)
    # DateTime columns without a zone and now() are in UTC on every machine.
    os.environ["TZ"] = "UTC"
    time.tzset()
    server = EmbeddedClickHouse(
        args.folder,
        args.host,
        args.port,
        memory_bytes_max=args.memory_mb * 1_000_000,
        query_s_max=args.query_seconds,
        hosts=args.allow_host,
        new_password=args.new_password,
    )
    try:
        server.start()
    except EmbeddedClickHouseError as error:
        print(f"embedded ClickHouse: {error}", file=sys.stderr)
        return 2
    wait_for_end = waiting_for_the_end()
    for name, why in server.left.items():
        print(f"embedded ClickHouse: default.{name} was left there: {why}", file=sys.stderr)
    print(f"embedded ClickHouse listens on {server.url} (data in {args.folder})", flush=True)
    wait_for_end()
    server.stop()
    return 0


if __name__ == "__main__":
    code = main()
    with suppress(OSError):
        sys.stdout.flush()
    # A query that could not be cancelled would hold the interpreter back at its exit.
    os._exit(code)
