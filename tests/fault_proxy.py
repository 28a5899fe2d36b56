"""A server between a client and ClickHouse that misbehaves as it is told.

    with FaultProxy(server.url, reset_in_body(), answer(503, BALANCER)) as proxy:
        ...  # the first insert over proxy.url is reset, the second gets a 503, others pass

Faults are taken by inserts alone, one each in turn, unless ``proxy.takes`` says otherwise.
``proxy.down()`` refuses connections until ``proxy.up()``.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tests.ports_support import free_port

UPSTREAM_TIMEOUT_S = 60.0
HEAD_BYTES = 4_096
"""Bytes of a body that are read before its fault is chosen."""


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request and as much of its body as is read."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytearray
    length: int
    """Bytes of the whole body."""

    @property
    def is_insert(self) -> bool:
        return self.body.startswith(b"INSERT ")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body from the server behind."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def wire(self) -> bytes:
        """Return the answer as it goes over the connection."""
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


class Exchange:
    """One request, in the hands of a fault."""

    def __init__(self, proxy: FaultProxy, connection: socket.socket, request: Request) -> None:
        self._proxy = proxy
        self._connection = connection
        self.request = request

    def read(self, most: int | None = None) -> None:
        """Read the body, or its first ``most`` bytes."""
        request = self.request
        wanted = request.length if most is None else min(most, request.length)
        while len(request.body) < wanted:
            piece = self._connection.recv(min(65_536, wanted - len(request.body)))
            if not piece:
                raise ConnectionError("the client went away")
            request.body.extend(piece)

    def forward(self) -> Answer:
        """Return the answer of the server behind; the rows of an insert are then on its disk."""
        self.read()
        return self._proxy.ask(self.request)

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def wait(self, seconds: float) -> None:
        """Wait, at most until the proxy ends."""
        self._proxy.ended.wait(seconds)

    def wait_for_next(self) -> None:
        """Wait until the client sends another request over the connection, or closes it."""
        with suppress(OSError):
            self._connection.recv(1)

    def reset(self) -> None:
        """Reset the connection (RST): what is under way is lost."""
        linger = struct.pack("ii", 1, 0)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to treat a request. ``act`` returns True where the connection goes on."""

    name: str
    act: Callable[[Exchange], bool]

    def __str__(self) -> str:
        return self.name


def _pass(exchange: Exchange) -> bool:
    exchange.send(exchange.forward().wire())
    return True


PASSED = Fault("passed", _pass)
"""No fault at all."""


class FaultProxy:
    """The proxy; a context manager. Its counts may be read at any time."""

    def __init__(
        self,
        behind: str,
        *faults: Fault,
        takes: Callable[[Request], bool] | None = None,
        choose: Callable[[], Fault | None] | None = None,
    ) -> None:
        """Take requests for which ``takes`` is true; ``choose`` gives a fault once the list is
        used up."""
        self.behind = behind
        self.faults = list(faults)
        self.takes = takes or (lambda request: request.is_insert)
        self.choose = choose
        self.requests = 0
        self.inserts = 0
        """Inserts that were asked for, failed ones too."""
        self.insert_times_s: list[float] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        # One that nobody is given while it is down.
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept_in_thread()

    @property
    def address(self) -> str:
        """Return the address at which it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Return the address, with the user and the database of the server behind."""
        parts = urlsplit(self.behind)
        user = parts.netloc.rpartition("@")[0]
        where = f"{user}@" * bool(user) + f"127.0.0.1:{self.port}"
        return urlunsplit(("http", where, parts.path, "", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.down()
        for thread in self._threads:
            thread.join(UPSTREAM_TIMEOUT_S)

    def down(self) -> None:
        """Refuse connections from now on, and reset those that are open."""
        # Closing alone does not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            standing = list(self._open)
        for connection in standing:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        """Answer again, at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept_in_thread()

    def _accept_in_thread(self) -> None:
        accepting = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        accepting.start()
        self._threads.append(accepting)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError, http.client.HTTPException):
                while not self.ended.is_set():
                    request = _read_head(connection)
                    if request is None:
                        return
                    exchange = Exchange(self, connection, request)
                    exchange.read(HEAD_BYTES)
                    if not self._fault_for(request).act(exchange):
                        return
        finally:
            with self._lock:
                self._open.discard(connection)

    def _fault_for(self, request: Request) -> Fault:
        with self._lock:
            self.requests += 1
            if request.is_insert:
                self.inserts += 1
                self.insert_times_s.append(time.monotonic())
            fault = None
            if self.takes(request):
                if self.faults:
                    fault = self.faults.pop(0)
                elif self.choose is not None:
                    fault = self.choose()
        return fault or PASSED

    def ask(self, request: Request) -> Answer:
        """Return the answer of the server behind, over a connection of its own."""
        connection = http.client.HTTPConnection(
            urlsplit(self.behind).netloc.rpartition("@")[2], timeout=UPSTREAM_TIMEOUT_S
        )
        try:
            kept = {name: value for name, value in request.headers.items() if name != "host"}
            connection.request(request.method, request.target, bytes(request.body), kept)
            response = connection.getresponse()
            headers = tuple(
                (name, value)
                for name, value in response.getheaders()
                if name.lower() not in ("connection", "content-length", "transfer-encoding")
            )
            return Answer(response.status, response.reason, headers, response.read())
        finally:
            connection.close()


def _read_head(connection: socket.socket) -> Request | None:
    """Return the next request's head, None where the client has closed."""
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        piece = connection.recv(65_536)
        if not piece:
            return None
        data += piece
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    return Request(method, target, headers, data[end + 4 :], length)
