"""A private PostgreSQL server for tests, where its binaries are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.ports_support import free_port
from tests.tls_support import Signed

EXTERNAL = os.environ.get("POSTGRES_URL", "")
"""A server elsewhere, for the tests that neither stop a server nor end its sessions."""
NOT_INSTALLED = "PostgreSQL server binaries are not installed"
PASSWORD = "it-is-a-secret"
START_S_MAX = 60


def binaries() -> Path | None:
    """Return the folder of initdb and postgres, the newest version first."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    folders += [Path(found).resolve().parent] if found else []
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class PostgresServer:
    """A server with its own folder and port; ``url`` is its one database.

    It also listens at a socket in ``folder``, and speaks TLS where it is given a certificate.
    """

    def __init__(self, folder: Path, bin_folder: Path, tls: Signed | None = None) -> None:
        self.folder = self._folder = folder
        self._bin = bin_folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"postgresql://footfall:{PASSWORD}@{self.address}/postgres"
        self._as = _unprivileged(folder)
        self._init()
        self._settings = self._secured(tls) if tls is not None else {}

    def _init(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        command = [self._bin / "initdb", "-D", self._folder / "data", "-U", "footfall"]
        command += ["-A", "scram-sha-256", f"--pwfile={password_file}", "--no-sync"]
        done = subprocess.run(
            [*map(str, command), "--no-locale", "--encoding=UTF8"],
            capture_output=True,
            text=True,
            timeout=START_S_MAX,
            check=False,
            **self._as,
        )
        assert done.returncode == 0, done.stderr

    def _secured(self, tls: Signed) -> dict[str, str]:
        data = self._folder / "data"
        for source, name in ((tls.certificate, "server.crt"), (tls.key, "server.key")):
            file = data / name
            file.write_bytes(source.read_bytes())
            file.chmod(0o600)
            os.chown(file, data.stat().st_uid, data.stat().st_gid)
        return {"ssl": "on"}

    def start(self) -> None:
        """Return when it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "max_connections": 30,
            "shared_buffers": "32MB",
            **self._settings,
        }
        command = [str(self._bin / "postgres"), "-D", str(self._folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as)
        log.close()
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                log_text = (self._folder / "log").read_text()
                assert self._process.poll() is None, log_text
                assert time.monotonic() < deadline, f"{error}\n{log_text}"
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions, too."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Yield a server that runs; a test that stops it must start it again."""
    with running() as server:
        yield server


@contextmanager
def running(tls: Signed | None = None) -> Iterator[PostgresServer]:
    """Yield a server of its own, until the block ends; skip the test where none is installed."""
    bin_folder = binaries()
    if bin_folder is None:
        pytest.skip(NOT_INSTALLED)
    # Not tmp_path: the unprivileged user must be able to enter the folders above.
    with tempfile.TemporaryDirectory(prefix="footfall-postgres-") as name:
        server = PostgresServer(Path(name), bin_folder, tls)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def a_database(request: pytest.FixtureRequest) -> str:
    """Return a new, empty database on the server of POSTGRES_URL where that is set, or on ours."""
    if EXTERNAL.startswith("postgresql"):
        return new_database(EXTERNAL)
    return new_database(request.getfixturevalue("postgres").url)


def new_database(server_url: str) -> str:
    """Make a database on a server; its URL."""
    name = f"footfall_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


def _version(bin_folder: Path) -> tuple[int, str]:
    name = bin_folder.parent.name
    return (int(name) if name.isdigit() else 0, name)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Return how to start a process that owns ``folder``: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": folder}
    pytest.skip(NOT_INSTALLED)
