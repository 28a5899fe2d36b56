"""A minimal HTTP/1.1 client for a load: keep-alive connections with one request each.

A general client takes several times the CPU of this one per request, and on a small machine the
server that is measured lacks it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from footfall.generator.sources import GeneratorError
from footfall.schemas.addresses import AddressError, hosts_in, shown_host, split_url

HEAD_BYTES_MAX = 65_536
BODY_BYTES_MAX = 64 * 1024 * 1024
BACK_OFF_S = (0.05, 1.0)

NO_ANSWER = 0
"""Status of a request whose connection was lost or cut off."""

TAKES = "it takes http://host:port"


class LoadError(GeneratorError):
    """An HTTP server that cannot be reached, or an address that is not one."""


class Address:
    """Address of requests, from ``http://host:port``. Raises LoadError for anything else."""

    def __init__(self, url: str) -> None:
        try:
            parts = split_url(url, TAKES, "http")
            parts.need_nothing_after(TAKES)
            hosts = hosts_in(parts.hosts, 80, TAKES)
            if len(hosts) > 1 or parts.user or parts.password:
                raise AddressError(f"{TAKES}, a single one without a user")
        except AddressError as error:
            raise LoadError(f"--http has no address of the api: {error}") from None
        self.host, self.port = hosts[0]
        self._head = f" HTTP/1.1\r\nHost: {shown_host(hosts[0])}\r\nContent-Length: ".encode()

    def __str__(self) -> str:
        return f"http://{shown_host((self.host, self.port))}"

    def post(self, path: bytes, body: bytes) -> bytes:
        """Return a whole POST request."""
        kind = b"\r\nContent-Type: application/json" if body else b""
        return b"POST %b%b%d%b\r\n\r\n%b" % (path, self._head, len(body), kind, body)


class Owner(Protocol):
    """The owner of connections, which is told of their events."""

    def ready(self, connection: Connection) -> None:
        """Take a connection that is open and has no request under way."""

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Take an answer, or the loss of a request (NO_ANSWER); ``ready`` follows if it is
        open."""


class Connection(asyncio.Protocol):
    """A keep-alive connection that is opened again whenever it is lost."""

    def __init__(self, address: Address, owner: Owner) -> None:
        self._address = address
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self._received = b""
        self.number: int | None = None
        """The owner's number of the request under way; None without a request."""
        self.due_s = self.sent_s = 0.0
        """Times at which that was due and was sent, by the owner's clock."""

    async def keep_open(self) -> None:
        """Connect, and connect again when the connection is lost, until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = BACK_OFF_S[0]
        try:
            while True:
                try:
                    await loop.create_connection(
                        lambda: self, self._address.host, self._address.port
                    )
                except OSError:
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, BACK_OFF_S[1])
                else:
                    await self._lost.wait()
                    pause_s = BACK_OFF_S[0]
                    await asyncio.sleep(pause_s)
        finally:
            self.abort()

    def send(self, number: int, due_s: float, now_s: float, payload: bytes) -> None:
        """Send a request; call it only when the connection is ready."""
        assert self._transport is not None and self.number is None
        self.number, self.due_s, self.sent_s = number, due_s, now_s
        self._transport.write(payload)

    def abort(self) -> None:
        """Cut the connection, without waiting for an answer."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the owner that it is ready; see asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""
        self._lost.clear()
        self._owner.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner of a lost request; see asyncio.Protocol."""
        self._transport = None
        self._lost.set()
        if self.number is not None:
            self._owner.answered(self, NO_ANSWER, b"")
            self.number = None

    @property
    def is_open(self) -> bool:
        """Return whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; see asyncio.Protocol."""
        received = self._received = self._received + data if self._received else data
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0:
            if len(received) > HEAD_BYTES_MAX:
                self.abort()
            return
        head = received[:head_end].lower()
        length = _body_bytes(head)
        if length is None or self.number is None or length > BODY_BYTES_MAX:
            self.abort()
            return
        if len(received) < head_end + 4 + length:
            return
        self._received = b""
        self._owner.answered(self, int(head[9:12]), received[head_end + 4 :])
        self.number = None
        if b"\r\nconnection: close" in head:
            self.abort()
        elif self.is_open:
            self._owner.ready(self)


def _body_bytes(head: bytes) -> int | None:
    """Return the Content-Length of an answer; None where it cannot be read."""
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        digits = head[at + 17 :].split(b"\r\n", 1)[0].strip()
        return int(digits) if digits.isdigit() and head[9:12].isdigit() else None
    return 0 if head[9:12] in (b"204", b"304") else None
