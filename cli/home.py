"""FOOTFALL_HOME: its files, its lock, and what ``--fresh`` removes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from footfall.cli.errors import UsageError
from footfall.schemas.settings import Settings

STATE_FOLDERS = (
    "topics", "clickhouse", "recovery", "generator", "status", "metrics", "logs", "run",
    "prometheus", "alertmanager",
)  # fmt: skip
STATE_FILES = ("store.sqlite", "profiles.sqlite")
_SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")
_PING_TIMEOUT_S = 2.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one installation's embedded state."""

    path: Path

    @property
    def clickhouse(self) -> Path:
        """Folder of the embedded ClickHouse's data."""
        return self.path / "clickhouse"

    @property
    def clickhouse_note(self) -> Path:
        """File with the address of the running embedded ClickHouse."""
        return self.path / "run" / "clickhouse.json"

    @property
    def logs(self) -> Path:
        """Folder of what the processes of the demo print."""
        return self.path / "logs"

    @property
    def generator(self) -> Path:
        """Folder of each generator's progress, for its next start."""
        return self.path / "generator"

    def make(self) -> None:
        """Make the folder and see that it can be written. Raises UsageError, OSError."""
        try:
            self.path.mkdir(0o700, parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"FOOTFALL_HOME={self.path} is a file, not a folder") from None
        probe = self.path / f".probe-{os.getpid()}"
        try:
            # A byte, since a full disk still takes an empty file.
            probe.write_bytes(b"\n")
        finally:
            probe.unlink(missing_ok=True)

    def lock(self) -> IO[str]:
        """Hold this home for one demo until the file is closed or the process ends.

        Raises UsageError where another demo holds it.
        """
        file = (self.path / "demo.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "?"
            file.close()
            raise UsageError(
                f"another demo (process {pid}) runs on {self.path}: stop it, or set FOOTFALL_HOME"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file

    def clear(self) -> None:
        """Remove the state that this project made here, and nothing else."""
        for name in STATE_FOLDERS:
            folder = self.path / name
            if folder.is_symlink():
                raise UsageError(f"--fresh does not follow links: remove {folder} yourself")
            if folder.exists():
                shutil.rmtree(folder)
        for name in STATE_FILES:
            for suffix in _SQLITE_SUFFIXES:
                (self.path / f"{name}{suffix}").unlink(missing_ok=True)


def clear_refusal(settings: Settings, *, embedded: bool) -> str | None:
    """Return why ``--fresh`` is refused, a store that is not under FOOTFALL_HOME, or None.

    ``embedded`` tells whether ClickHouse is under it.
    """
    home = settings.footfall_home
    refusal = (
        "--fresh removes only what stands under FOOTFALL_HOME, and {} points elsewhere: empty "
        "that yourself and leave --fresh out"
    )
    if not embedded:
        return refusal.format("CLICKHOUSE_URL")
    for variable, path in (
        ("TOPICS_URL", settings.topics_folder),
        ("POSTGRES_URL", settings.store_file),
        ("PROFILES_URL", settings.profiles_file),
    ):
        ours = path is not None and path.name in (*STATE_FOLDERS, *STATE_FILES)
        if path is None or path.parent != home or not ours:
            also = "KAFKA_BOOTSTRAP_SERVERS or " if settings.kafka_bootstrap else ""
            return refusal.format(f"{also if variable == 'TOPICS_URL' else ''}{variable}")
    return None


@dataclass(frozen=True, slots=True)
class ClickHouseNote:
    """Content of ``run/clickhouse.json``: the embedded ClickHouse that runs on this home."""

    url: str
    pid: int


def write_note(home: Home, note: ClickHouseNote) -> None:
    """Tell other commands where the embedded ClickHouse listens."""
    path = home.clickhouse_note
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"url": note.url, "pid": note.pid}) + "\n")
    part.replace(path)


def remove_note(home: Home, pid: int) -> None:
    """Remove the note if it was written for this process."""
    note = read_note(home)
    if note is not None and note.pid == pid:
        home.clickhouse_note.unlink(missing_ok=True)


def read_note(home: Home) -> ClickHouseNote | None:
    """Return the note, or None where there is no readable one."""
    try:
        fields = json.loads(home.clickhouse_note.read_text())
        return ClickHouseNote(url=str(fields["url"]), pid=int(fields["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def answers(url: str, timeout_s: float = _PING_TIMEOUT_S) -> bool:
    """Tell whether a ClickHouse answers its ping there."""
    try:
        with _direct.open(f"{url.rstrip('/')}/ping", timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def running_clickhouse(home: Home) -> str | None:
    """Return the address of the embedded ClickHouse of this home, None unless it runs."""
    note = read_note(home)
    return note.url if note is not None and answers(note.url) else None


def is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Tell whether the user chose a value, so that no embedded server takes its place."""
    return bool(environ.get(variable))


def need_file(name: str) -> Path:
    """Return the path of a file named by the user. Raises UsageError where it cannot be read."""
    path = Path(name)
    if not path.exists():
        raise UsageError(f"no such file: {name}")
    if not path.is_file():
        raise UsageError(f"not a file: {name}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"no permission to read {name}")
    return path


def need_free_port(host: str, port: int, option: str) -> None:
    """Raise UsageError, naming the option, where this address cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            is_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
            remedy = f"choose another with {option}" if is_port else "check FRONTEND_HOSTNAME"
            raise UsageError(
                f"cannot listen on {host}:{port} ({error.strerror}): {remedy}"
            ) from None
