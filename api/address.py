"""The address that the server listens on, and who can reach it."""

from __future__ import annotations

import errno
import os
import socket

from footfall.schemas.addresses import ip_of

BACKLOG = 2048

_Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]


class PortError(Exception):
    """The address cannot be listened on; the message says what to do."""


def listen(host: str, port: int, *, is_open: bool = False) -> socket.socket:
    """Return a bound socket. Raises PortError with one line.

    ``is_open`` allows an address that other machines reach.
    """
    family, kind, protocol, _, address = _resolve(host, port)
    if not is_open:
        _need_loopback(host, address[0])
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


def need_loopback(host: str) -> None:
    """Raise PortError where other machines would reach the server at this address."""
    _need_loopback(host, _resolve(host, 0)[4][0])


def url_of(listening: socket.socket) -> str:
    """Return ``http://host:port/`` of the address that a socket is really bound to."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _resolve(host: str, port: int) -> _Found:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise PortError(f"FRONTEND_HOSTNAME={host!r} cannot be resolved: {error}") from None
    # "localhost" is often ::1 first, where most clients try 127.0.0.1.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return found[0]  # type: ignore[return-value]


def _need_loopback(host: str, number: str) -> None:
    address = ip_of(number.partition("%")[0])
    if address is None or not (getattr(address, "ipv4_mapped", None) or address).is_loopback:
        raise PortError(
            f"FRONTEND_HOSTNAME={host} is reached by other machines, and whoever reaches it may "
            "read personal data and write: say --open if that is meant, or leave it at 127.0.0.1"
        )


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken: choose another with --port or FRONTEND_PORT"
    if error.errno == errno.EACCES:
        return f"port {port} needs rights: choose one above 1023 with --port or FRONTEND_PORT"
    reason = os.strerror(error.errno) if error.errno else error
    return f"cannot listen on {host} port {port} ({reason}): check FRONTEND_HOSTNAME"
