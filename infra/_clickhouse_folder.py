"""The folder of an embedded server: its lock, its password, and the file with its address."""

from __future__ import annotations

import errno
import fcntl
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from footfall.infra._clickhouse_errors import EmbeddedClickHouseError
from footfall.schemas.embedded_clickhouse import ADDRESS_FILE, PASSWORD_FILE

FREE_BYTES_MIN = 67_108_864
"""The server does not start with less free on the disk: merges could not be written."""


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedClickHouseError(
            f"cannot write to the folder {folder} ({error.strerror}): "
            "free the disk or give another folder"
        ) from None


def locked(folder: Path) -> IO[bytes]:
    """Return the folder's lock file, locked; the kernel unlocks it when the process ends."""
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = (folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedClickHouseError(
                f"the folder {folder} is in use by another embedded ClickHouse: "
                "use that one, stop it, or give another folder"
            ) from None
        spool = folder / "spool"
        shutil.rmtree(spool, ignore_errors=True)
        spool.mkdir()
        # On a full disk folders can be made, but nothing can be written.
        (spool / "probe").write_bytes(bytes(4_096))
        (spool / "probe").unlink()
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < FREE_BYTES_MIN:
            raise OSError(errno.ENOSPC, f"only {free_bytes:,} bytes are free on its disk")
    return lock


def password_of(folder: Path, *, renew: bool) -> str:
    """Return the folder's password; make one if it is missing or others may read its file."""
    file = folder / PASSWORD_FILE
    with _written(folder):
        if not renew and file.exists() and not file.stat().st_mode & 0o077:
            password = file.read_text().strip()
            if password:
                return password
        password = secrets.token_urlsafe(24)
        part = file.with_suffix(".part")
        part.write_text(f"{password}\n")
        part.replace(file)
    return password


def recorded(folder: Path, url: str) -> IO[str]:
    """Write the server's address; return the file, which stays locked while the address holds."""
    with _written(folder):
        file = (folder / ADDRESS_FILE).open("w")
        file.write(f"{url}\n")
        file.flush()
        # A client that reads the file locks it (shared) for a moment.
        fcntl.flock(file, fcntl.LOCK_EX)
    return file
