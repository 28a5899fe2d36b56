"""Ports for servers of the tests, where several processes of the suite run at once."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, PROCESSES_MAX, EACH = 21_000, 11, 1_000
"""Ports below the kernel's own range (from 32,768 on Linux), which no client's connection
takes."""

_numbers = itertools.count(os.getpid() * 37)


def free_port() -> int:
    """Return a port of loopback that is free now, and that no other process of the suite is given.

    One that the kernel chose may be given away again before a server listens on it, or while
    a test has its server killed.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST + number % PROCESSES_MAX * EACH
    for _ in range(EACH):
        port = first + next(_numbers) % EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port from {first} to {first + EACH - 1}")
