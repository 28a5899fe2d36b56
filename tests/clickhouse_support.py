"""An embedded ClickHouse as a process of its own, and a server in front of it that fails."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode, urlsplit

ROOT = Path(__file__).parent.parent
PROCESS_TIMEOUT_S = 30
ENDLESS = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))"


@dataclass
class Server:
    """A running process and where it listens."""

    process: subprocess.Popen[str]
    url: str
    line: str

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
        """One request over a connection of its own."""
        query = {"query": sql, **params} if sql else params
        return request(self.url, method, f"{path}?{urlencode(query)}", body, headers or {})

    def rows(self, sql: str) -> list[str]:
        reply = self.ask("", sql.encode())
        assert reply.status == 200, reply.body
        return reply.body.decode().splitlines()

    def stop(self, number: int = signal.SIGTERM) -> int:
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
    command = [sys.executable, "-m", "infra.embedded_clickhouse", "--folder", str(folder)]
    return subprocess.Popen(
        [*command, "--port", str(port), *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(folder: Path, *args: str, port: int = 0) -> Iterator[Server]:
    """The server over a folder, until the block ends."""
    process = launch(folder, *args, port=port)
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"http://[0-9.]+:[0-9]+", line)
        assert found, process.stderr.read()
        yield Server(process, found.group(), line)
    finally:
        _stop(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PROCESS_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PROCESS_TIMEOUT_S)


def refusal(folder: Path, *args: str, port: int = 0) -> tuple[int, str]:
    """Exit code and standard error of a start that cannot succeed."""
    process = launch(folder, *args, port=port)
    out, err = process.communicate(timeout=PROCESS_TIMEOUT_S)
    assert out == ""
    return process.returncode, err


RESET, LOST_ANSWER, HANG = "reset", "lost answer", "hang"
Fault = str | tuple[int, int | None, str]
"""One of the three above, or the status, ClickHouse's code and the text of an error answer."""


@dataclass
class Faulty:
    """A server that answers inserts with its faults, in turn, and then passes all on."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    inserts: int = 0
    """All that were asked for, failed ones too."""


@contextmanager
def faulty(behind_url: str, *faults: Fault) -> Iterator[Faulty]:
    """A Faulty in front of a real server, until the block ends."""
    state = Faulty("", list(faults))
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._pass_on("GET", None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not body.startswith(b"INSERT"):
                return self._pass_on("POST", body)
            state.inserts += 1
            fault = state.faults.pop(0) if state.faults else None
            if fault is None:
                return self._pass_on("POST", body)
            if fault == LOST_ANSWER:
                request(behind_url, "POST", self.path, body, {})
            if fault == HANG:
                ended.wait(PROCESS_TIMEOUT_S)
            if isinstance(fault, str):
                self.close_connection = True
                linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return self.connection.close()
            status, code, text = fault
            headers = {} if code is None else {"X-ClickHouse-Exception-Code": str(code)}
            return self._answer(Reply(status, headers, text.encode()))

        def _pass_on(self, method: str, body: bytes | None) -> None:
            headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
            reply = request(behind_url, method, self.path, body, headers)
            reply.headers = {n: v for n, v in reply.headers.items() if n.startswith("x-")}
            self._answer(reply)

        def _answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    http_server = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    try:
        yield state
    finally:
        ended.set()
        http_server.shutdown()
        thread.join(PROCESS_TIMEOUT_S)
        http_server.server_close()
