"""The door of the embedded ClickHouse: who is answered, for how long, and what a home brings."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from starlette.requests import ClientDisconnect

from footfall.infra._clickhouse_errors import EngineError
from footfall.infra._clickhouse_turns import Turns
from footfall.infra.connections import HEAD_BYTES_MAX, HEAD_S
from tests.clickhouse_support import ENDLESS, ROOT, Server, request, serving

SLEEPING = "SELECT sleepEachRow(3) FROM numbers(8)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("door") / "data") as running:
        yield running


def told(server: Server, method: str, target: str, **headers: str) -> int:
    """Return the status of a request with the password and these headers."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(server.address, method, target, None, {**server.user, **sent}).status


# The password

ONE = "/?query=SELECT+1"


def test_every_query_needs_the_password(server: Server) -> None:
    password = server.user["X-ClickHouse-Key"]
    basic = base64.b64encode(f"default:{password}".encode()).decode()
    for let_in in (
        server.user,
        {"X-ClickHouse-Key": password},
        {"Authorization": f"Basic {basic}"},
    ):
        assert request(server.address, "GET", ONE, None, let_in).body == b"1\n"
    assert request(server.address, "GET", f"{ONE}&password={password}", None, {}).status == 200
    bob = base64.b64encode(f"bob:{password}".encode()).decode()
    for method in ("GET", "POST", "HEAD"):
        for kept_out in (
            {},
            {"X-ClickHouse-Key": ""},
            {"X-ClickHouse-Key": password[:-1]},
            {"X-ClickHouse-User": "bob", "X-ClickHouse-Key": password},
            {"Authorization": f"Basic {bob}"},
            {"Authorization": "Basic ?"},
            {"Authorization": f"Bearer {password}"},
        ):
            reply = request(server.address, method, ONE, None, kept_out)
            assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (403, "516")
            # A browser that had asked for it would send it from then on, whoever asks.
            assert "www-authenticate" not in reply.headers
    assert request(server.address, "GET", "/ping", None, {}).body == b"Ok.\n"


def test_who_has_no_password_fills_no_disk(server: Server, tmp_path: Path) -> None:
    spool = Path(re.search(r"data in (.*)\)", server.line)[1]) / "spool"  # type: ignore[index]
    parts = urlsplit(server.address)
    with socket.create_connection((parts.hostname, parts.port), 30) as sending:
        head = f"POST / HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 99000000\r\n\r\n"
        sending.sendall(head.encode() + bytes(4_000_000))
        assert sending.recv(12) == b"HTTP/1.1 403"
        assert list(spool.iterdir()) == []


def test_the_password_stays_until_it_is_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as first:
        first.rows("CREATE TABLE kept (a Int8) ENGINE = Log")
    with serving(folder) as second:
        assert second.user == first.user
        # Whoever could write over it from elsewhere might also have read it.
        (folder / "password").chmod(0o644)
    with serving(folder) as third:
        assert third.user != first.user
    with serving(folder, "--new-password") as fourth:
        assert fourth.user not in (first.user, third.user)
        assert request(fourth.address, "GET", ONE, None, third.user).status == 403
        assert fourth.rows("SHOW TABLES") == ["kept"]


def test_what_it_makes_is_its_user_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    with serving(folder) as running:
        running.rows("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a")
        running.rows("INSERT INTO t SELECT 1")
        open_to_others = [
            path
            for path in (folder, *folder.rglob("*"))
            if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
        ]
        assert open_to_others == []
        assert (folder / "password").stat().st_mode & 0o777 == 0o600


# Pages of the web


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT"])
@pytest.mark.parametrize("path", ["/ping", "/", ONE])
def test_no_page_of_another_site_is_answered(server: Server, method: str, path: str) -> None:
    own = server.address
    for foreign in (
        {"Origin": "http://shop.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": own.replace("127.0.0.1", "127.0.0.1.shop.example")},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": own, "Sec_Fetch_Site": "cross-site"},
        {"Host": "shop.example"},
        {"Host": f"shop.example:{urlsplit(own).port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": ""},
    ):
        assert told(server, method, path, **foreign) == 403, foreign


def test_its_own_names_are_answered(server: Server) -> None:
    port = urlsplit(server.address).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"LocalHost:{port}"):
        assert told(server, "GET", ONE, Host=host) == 200
    assert told(server, "GET", ONE, Origin=server.address, Sec_Fetch_Site="same-origin") == 200
    assert told(server, "GET", ONE, Sec_Fetch_Site="none") == 200


def test_headers_and_their_time_are_limited_as_those_of_the_api(server: Server) -> None:
    at = urlsplit(server.address)
    where = (at.hostname, at.port)
    with socket.create_connection(where, 30) as large:
        large.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * HEAD_BYTES_MAX)
        assert large.recv(4_096).startswith(b"HTTP/1.1 431 ")
    with socket.create_connection(where, HEAD_S + 20) as slow:
        slow.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n")
        assert slow.recv(4_096).startswith(b"HTTP/1.1 408 ")


def test_other_names_are_answered_when_told(tmp_path: Path) -> None:
    allowed = ["--allow-host", "Tables.Example", "--allow-host", "localhost:7001"]
    with serving(tmp_path / "data", *allowed) as running:
        for host in ("tables.example", "tables.example:80", "localhost:7001"):
            assert told(running, "GET", ONE, Host=host) == 200
        for host in ("localhost:7002", "example", "x.tables.example"):
            assert told(running, "GET", ONE, Host=host) == 403


# Queries that take long


def asking(server: Server, sql: str) -> socket.socket:
    """Return a connection over which a query was sent, whose answer nobody waits for.

    It reads row by row, so that it may sleep at each.
    """
    parts = urlsplit(server.address)
    connection = socket.create_connection((parts.hostname, parts.port), 30)
    lines = [
        f"GET /?{urlencode({'query': sql, 'max_block_size': 1})} HTTP/1.1",
        f"Host: {parts.netloc}",
    ]
    lines += [f"{name}: {value}" for name, value in server.user.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def running_queries(server: Server) -> int:
    return int(server.rows("SELECT count() - 1 FROM system.processes")[0])


def test_a_query_whose_client_has_gone_ends(server: Server) -> None:
    for sql in (ENDLESS, SLEEPING):
        connection = asking(server, sql)
        while not running_queries(server):
            time.sleep(0.01)
        connection.close()
        deadline = time.monotonic() + 5
        while running_queries(server):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_queries_whose_clients_have_gone_hold_nobody_up(server: Server) -> None:
    with ExitStack() as connections:
        for _ in range(24):
            connections.enter_context(asking(server, SLEEPING))
        time.sleep(0.5)
    began = time.monotonic()
    assert server.rows("SELECT 1") == ["1"]
    # The engine looks at a sleeping query once a second.
    assert time.monotonic() - began < 5


def test_a_query_ends_after_a_minute_or_as_it_is_told(server: Server, tmp_path: Path) -> None:
    asked = "SELECT getSetting('max_execution_time')"
    assert server.rows(asked) == ["60"]
    assert server.ask(asked, method="GET", max_execution_time="900").body == b"900\n"
    with serving(tmp_path / "data", "--query-seconds", "1") as hasty:
        began = time.monotonic()
        reply = hasty.ask(ENDLESS)
        assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (408, "159")
        assert time.monotonic() - began < 20


def in_turn(
    turns: Turns, work: object, leaves: asyncio.Event | None = None
) -> asyncio.Task[object]:
    async def gone() -> None:
        await (leaves or asyncio.Event()).wait()

    running = turns.run(work, gone=gone(), cancel=getattr(work, "cancel", lambda: None))  # type: ignore[arg-type]
    return asyncio.create_task(running)


class Held:
    """Work that lasts until it is let go or cancelled."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.cancelled = 0

    def __call__(self) -> str:
        assert self.ended.wait(30)
        return "done"

    def cancel(self) -> None:
        self.cancelled += 1
        # As the engine, which does not know of a query in its first moment.
        if self.cancelled > 1:
            self.ended.set()


def test_too_many_at_once_are_told_so() -> None:
    async def play() -> None:
        with ThreadPoolExecutor(2) as threads:
            turns = Turns(threads, 2, waiting_max=1, wait_s=0.1)
            held = [Held(), Held()]
            running = [in_turn(turns, work) for work in held]
            await asyncio.sleep(0)
            waiting = in_turn(turns, lambda: "never")
            await asyncio.sleep(0.01)
            with pytest.raises(EngineError, match="2 run, and 1 wait; try again") as raised:
                await in_turn(turns, lambda: "never")
            assert raised.value.code == 202
            with pytest.raises(EngineError, match=r"2 run, and none of them ended within 0.1 s"):
                await waiting
            next_one = in_turn(turns, lambda: "next")
            held[0].ended.set()
            assert await next_one == "next"
            held[1].ended.set()
            assert await asyncio.gather(*running) == ["done", "done"]

    asyncio.run(play())


def test_who_leaves_makes_room() -> None:
    async def play() -> None:
        with ThreadPoolExecutor(1) as threads:
            turns = Turns(threads, 1, wait_s=30)
            held, leaves, tired = Held(), asyncio.Event(), asyncio.Event()
            running = in_turn(turns, held, leaves)
            await asyncio.sleep(0.01)
            waiting = in_turn(turns, lambda: "never", tired)
            await asyncio.sleep(0.01)
            tired.set()
            with pytest.raises(ClientDisconnect):
                await waiting
            leaves.set()
            assert await in_turn(turns, lambda: "next") == "next"
            with pytest.raises(ClientDisconnect):
                await running
            assert held.cancelled == 2

    asyncio.run(play())


# What a home brings along

OLD = """
import sys, chdb
old = chdb.connect(sys.argv[1])
for sql in sys.stdin.read().split(";"):
    old.query(sql)
"""


def older(folder: Path, *statements: str) -> None:
    """Run statements as an older version did, in the engine's own database."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", OLD, str(folder / "engine")]
    subprocess.run(command, input=";".join(statements), text=True, check=True, timeout=60)


def test_tables_of_an_older_home_are_moved(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    older(
        folder,
        "CREATE TABLE r (a Int8, v Int8) ENGINE = ReplacingMergeTree(v) ORDER BY a",
        "INSERT INTO r VALUES (1, 1), (1, 2), (2, 1)",
        "CREATE TABLE `odd name` (a Int8) ENGINE = Log",
        "CREATE VIEW v AS SELECT a, v, 'default.r' AS said FROM r FINAL",
        "CREATE VIEW a_view_of_views AS SELECT count() AS n FROM v WHERE a IN (SELECT a FROM r)",
        "CREATE MATERIALIZED VIEW m ENGINE = Memory AS SELECT 1 AS one",
        "CREATE DATABASE other",
        "CREATE TABLE other.o (a Int8) ENGINE = Log",
    )
    for _ in range(2):
        with serving(folder) as running:
            assert running.rows("SHOW TABLES") == ["a_view_of_views", "odd name", "r", "v"]
            assert running.rows("SELECT * FROM v ORDER BY a") == [
                "1\t2\tdefault.r",
                "2\t1\tdefault.r",
            ]
            assert running.rows("SELECT n FROM a_view_of_views") == ["2"]
            assert running.rows("SHOW TABLES FROM other") == ["o"]
            running.stop()
            assert running.process is not None and running.process.stderr is not None
            said = running.process.stderr.read()
            assert re.fullmatch(r"embedded ClickHouse: default\.m was left there: .*\n", said)


def test_a_move_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    older(
        folder,
        "CREATE DATABASE footfall",
        "CREATE TABLE footfall.r (a Int8) ENGINE = Log",
        "INSERT INTO footfall.r VALUES (7)",
        "CREATE VIEW v AS SELECT a FROM footfall.r",
        "CREATE VIEW footfall.v AS SELECT a FROM footfall.r",
        "CREATE TABLE s (a Int8) ENGINE = Log",
    )
    with serving(folder) as running:
        assert running.rows("SHOW TABLES") == ["r", "s", "v"]
        assert running.rows("SELECT a FROM v") == ["7"]
        assert running.rows("SHOW TABLES FROM default") == []


def test_what_stands_in_both_databases_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    older(
        folder,
        "CREATE DATABASE footfall",
        "CREATE TABLE footfall.r (a Int8) ENGINE = Log",
        "CREATE TABLE footfall.v (a Int8) ENGINE = Log",
        "INSERT INTO footfall.v VALUES (7)",
        "CREATE TABLE r (a Int8) ENGINE = Log",
        "CREATE VIEW v AS SELECT 1 AS a",
    )
    with serving(folder) as running:
        assert running.rows("SELECT a FROM v") == ["7"]
        assert running.rows("SHOW TABLES FROM default") == ["r", "v"]
        running.stop()
        assert running.process is not None and running.process.stderr is not None
        said = running.process.stderr.read()
        assert said.count("was left there") == 2
        assert "default.r was left there" in said and "default.v was left there" in said


def test_a_configuration_in_the_current_folder_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text("<broken")
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
        "from footfall.infra.embedded_clickhouse import EmbeddedClickHouse as Server;"
        "server = Server(Path('data'), port=0); server.start(); print(server.url, flush=True);"
        "server.stop(); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("name", ["day=1 #%20+é'\"", "a?b&c*{d,e}\\f"])
def test_a_folder_of_any_name_is_taken(tmp_path: Path, name: str) -> None:
    with serving(tmp_path / name / "data") as running:
        running.rows("CREATE TABLE t (a Int8) ENGINE = Log")
        assert running.ask("INSERT INTO t FORMAT CSV", b"5\n").status == 200
        assert running.rows("SELECT a FROM t") == ["5"]
        assert running.ask("SELECT * FROM file('x')").status == 501
