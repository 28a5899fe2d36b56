"""A CA of the test's own, certificates that it has signed, and TLS before what has none."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

NOT_INSTALLED = "openssl is not installed"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Signed:
    """Files of PEM, of a server whose certificate is for 127.0.0.1 and localhost."""

    ca: Path
    certificate: Path
    key: Path


def signed(folder: Path) -> Signed:
    """Return a new CA and a certificate of it; skip the test where openssl is missing."""
    if shutil.which("openssl") is None:
        pytest.skip(NOT_INSTALLED)
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)

    of_a_ca = ("-addext", "keyUsage=keyCertSign,cRLSign")
    openssl("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "9",
            "-subj", "/CN=tests", *of_a_ca)  # fmt: skip
    openssl("req", "-new", *_KEY, "-keyout", "key.pem", "-out", "asked.pem", "-subj", "/CN=x")
    by_the_ca = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9")
    openssl("x509", "-req", "-in", "asked.pem", *by_the_ca, "-extfile", "names",
            "-out", "certificate.pem")  # fmt: skip
    return Signed(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")


@contextmanager
def forwarding(port: int, secured: Signed | None = None, host: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port of ``host`` that leads to one of 127.0.0.1; with ``secured`` it speaks TLS."""
    context = None
    if secured is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(secured.certificate, secured.key)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            client = connection
            if context is not None:
                client = context.wrap_socket(connection, server_side=True)
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=_pour, args=(server, client), daemon=True)
                back.start()
                _pour(client, server)
                back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                one = listener.accept()[0]
                threading.Thread(target=serve, args=(one,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
