"""An embedded ClickHouse as a process of its own, or the server that CLICKHOUSE_URL names."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlencode, urlsplit

ROOT = Path(__file__).parent.parent
PROCESS_TIMEOUT_S = 60
ENDLESS = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"


@dataclass
class Server:
    """A running process and where it listens; no process for a server that is not ours."""

    process: subprocess.Popen[str] | None
    url: str
    """The address with the user and the database, if any."""
    line: str

    @property
    def base(self) -> str:
        """Return the address with the user and without the database."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def address(self) -> str:
        """Return the address alone."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def user(self) -> dict[str, str]:
        """Return the headers that name the user, if any."""
        parts = urlsplit(self.url)
        if not parts.username:
            return {}
        return {
            "X-ClickHouse-User": unquote(parts.username),
            "X-ClickHouse-Key": unquote(parts.password or ""),
        }

    def ask(
        self,
        sql: str = "",
        body: bytes | None = None,
        *,
        method: str = "POST",
        path: str = "/",
        headers: dict[str, str] | None = None,
        **params: str,
    ) -> Reply:
        """Send one request over a connection of its own."""
        query = {"query": sql, **params} if sql else params
        parts = urlsplit(self.url)
        if parts.path.strip("/"):
            query = {"database": unquote(parts.path.strip("/")), **query}
        sent = {**self.user, **(headers or {})}
        return request(self.address, method, f"{path}?{urlencode(query)}", body, sent)

    def rows(self, sql: str) -> list[str]:
        reply = self.ask("", sql.encode())
        assert reply.status == 200, reply.body
        return reply.body.decode().splitlines()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PROCESS_TIMEOUT_S)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def request(
    url: str, method: str, target: str, body: bytes | None, headers: dict[str, str]
) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PROCESS_TIMEOUT_S)
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def launch(folder: Path, *args: str, port: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "footfall.infra.embedded_clickhouse", "--folder", str(folder)]
    return subprocess.Popen(
        [*command, "--port", str(port), *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(folder: Path, *args: str, port: int = 0) -> Iterator[Server]:
    """Yield the server over a folder, until the block ends."""
    process = launch(folder, *args, port=port)
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"(?<=http://)[0-9.]+:[0-9]+", line)
        assert found, process.stderr.read()
        password = (folder / "password").read_text().strip()
        yield Server(process, f"http://default:{password}@{found.group()}", line)
    finally:
        _stop(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def any_server(folder: Path) -> Iterator[Server]:
    """Yield the server that CLICKHOUSE_URL names, in a database of its own that is dropped in the
    end; an embedded one over the folder where it names none."""
    named = os.environ.get("CLICKHOUSE_URL")
    if not named:
        with serving(folder) as embedded:
            yield embedded
        return
    outside = Server(None, named, "")
    name = f"footfall_test_{uuid.uuid4().hex[:12]}"
    outside.rows(f"CREATE DATABASE {name}")
    try:
        yield Server(None, f"{outside.base}/{name}", "")
    finally:
        outside.rows(f"DROP DATABASE {name}")


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PROCESS_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PROCESS_TIMEOUT_S)


def refusal(folder: Path, *args: str, port: int = 0) -> tuple[int, str]:
    """Return exit code and standard error of a start that cannot succeed."""
    process = launch(folder, *args, port=port)
    out, err = process.communicate(timeout=PROCESS_TIMEOUT_S)
    assert out == ""
    return process.returncode, err
