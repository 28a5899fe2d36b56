"""The embedded ClickHouse of a home, as the home's own clients know it.

The server keeps two files in its folder, readable only by their owner: its password, and the
address that it listens at, which it locks while it runs. A client sends the password only to that
address: neither to another server that CLICKHOUSE_URL may name, nor to whatever has taken the port
of a server that ended.
"""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from footfall.schemas.database_addresses import ClickHouseAddress

DATABASE = "footfall"
"""Database of a request that names no other."""
USER = "default"
FOLDER = "clickhouse"
"""Folder of a home with the server's data and these two files."""
PASSWORD_FILE = "password"
ADDRESS_FILE = "address"


def own_headers(home: Path | None, address: ClickHouseAddress) -> dict[str, str]:
    """Return the header that lets a request in to the home's own server.

    It is empty unless that server runs at this address, which names no user. The files are read
    for each request: a password may be renewed, and a server may end.
    """
    if home is None or address.user:
        return {}
    folder = home / FOLDER
    running = urlsplit(running_address(folder) or "")
    if (running.hostname, running.port) != (address.host, address.port):
        return {}
    try:
        password = (folder / PASSWORD_FILE).read_text().strip()
    except OSError:
        return {}
    return replace(address, user=USER, password=password).headers


def running_address(folder: Path) -> str | None:
    """Return the address of the server that runs on a folder; None where no server runs."""
    try:
        with (folder / ADDRESS_FILE).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip()
            return None
    except OSError:
        return None
