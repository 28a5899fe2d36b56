"""Children are started again, given up on, and ended; what they did adds up."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from footfall import flows
from footfall.cli.errors import FailureError, UsageError
from footfall.cli.home import (
    ClickHouseNote,
    Home,
    clear_refusal,
    read_note,
    remove_note,
    running_clickhouse,
    write_note,
)
from footfall.cli.servers import start_clickhouse
from footfall.cli.summary import accounts
from footfall.cli.supervise import LOG_BYTES_MAX, Child, Supervisor, last_line
from footfall.schemas.settings import read_settings
from footfall.schemas.status import PartitionStatus, WorkerStatus
from tests.cli_support import environment, free_port, processes_of

FAST = 20.0
"""The supervisor's clock runs this much faster than the wall's, so that waits are short."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[tuple[Supervisor, list[str], Path]]:
    home, said = tmp_path / "home", list[str]()
    logs = tmp_path / "logs"
    logs.mkdir()
    supervisor = Supervisor(
        logs, environment(home), said.append, clock=lambda: FAST * time.monotonic()
    )
    yield supervisor, said, home
    supervisor.stop()
    assert processes_of(home) == {}


def poll_until(supervisor: Supervisor, child: Child, restarts: int) -> None:
    until_s = time.monotonic() + 60
    while child.restarts < restarts or child.pid is None:
        supervisor.poll()
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_killed_service_is_started_again_and_said_so(
    house: tuple[Supervisor, list[str], Path],
) -> None:
    supervisor, said, home = house
    port = str(free_port())
    child = supervisor.start("store", ("clickhouse", "--port", port), service=True)
    for restarts in (1, 2):
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        poll_until(supervisor, child, restarts)
    # By the supervisor's fast clock the second life may count as a long one.
    assert [line.split(";")[0] for line in said] == ["store ended (killed by SIGKILL)"] * 2
    assert child.pid in processes_of(home)


def test_a_child_that_still_starts_ends_well_when_it_is_told_to(
    house: tuple[Supervisor, list[str], Path],
) -> None:
    supervisor, said, _ = house
    supervisor.start("store", ("clickhouse", "--port", str(free_port())), service=True)
    assert supervisor.stop() == []
    assert said == []


class Ping(BaseHTTPRequestHandler):
    """Answers as a ClickHouse does that is asked whether it is there."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_an_engine_whose_port_another_took_meanwhile_is_given_the_next(
    house: tuple[Supervisor, list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, said, home = house
    ports = [free_port(), free_port()]
    chosen = iter(ports)
    monkeypatch.setattr("footfall.cli.servers.free_port", lambda: next(chosen))
    with ThreadingHTTPServer(("127.0.0.1", ports[0]), Ping) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            assert start_clickhouse(supervisor) == f"http://127.0.0.1:{ports[1]}"
        finally:
            other.shutdown()
    assert supervisor.children["clickhouse"].pid in processes_of(home)
    assert said == []


def test_ports_that_are_always_taken_are_given_up_in_one_line(
    house: tuple[Supervisor, list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, _, home = house
    monkeypatch.setattr("footfall.cli.servers.PORTS_TRIED_MAX", 2)
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        monkeypatch.setattr("footfall.cli.servers.free_port", lambda: taken.getsockname()[1])
        with pytest.raises(FailureError, match="2 ports that were free were taken by others"):
            start_clickhouse(supervisor)
    assert supervisor.children == {}
    assert processes_of(home) == {}


def test_a_service_that_never_stands_is_given_up_with_its_last_line(
    house: tuple[Supervisor, list[str], Path],
) -> None:
    supervisor, said, _ = house
    supervisor.clock = time.monotonic
    child = supervisor.start("wrong", ("no-such-command",), service=True)
    with pytest.raises(FailureError, match=r"wrong ended 5 times in a row .*no such command"):
        while True:
            supervisor.poll()
            child.start_again_s = 0.0 if child.start_again_s is not None else None
            time.sleep(0.01)
    assert len(said) == 4
    assert "starting it again in 4 s" in said[-1]


def test_a_task_that_fails_says_why_and_one_that_ends_is_done(
    house: tuple[Supervisor, list[str], Path],
) -> None:
    supervisor, said, _ = house
    done = supervisor.start("listing", ("flows",), service=False)
    while not done.done:
        supervisor.poll()
        time.sleep(0.01)
    assert last_line(done.log).startswith(max(flows.catalogue()))
    supervisor.start("wrong", ("generate", "csv", "missing.csv"), service=False)
    with pytest.raises(FailureError, match="wrong failed: no such file: missing"):
        while True:
            supervisor.poll()
            time.sleep(0.01)
    assert said == []


def test_a_log_is_bounded_under_its_writer(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, environment(tmp_path / "home"), print)
    child = supervisor.start("server", ("clickhouse", "--port", str(free_port())), service=True)
    try:
        with child.log.open("ab") as log:
            log.truncate(LOG_BYTES_MAX + 1)
        supervisor.poll()
        assert child.log.stat().st_size < LOG_BYTES_MAX
        assert (tmp_path / "server.log.1").stat().st_size > LOG_BYTES_MAX
    finally:
        supervisor.stop()


def test_the_last_line_is_the_last_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\nfootfall: the reason\n\n  \n")
    assert last_line(log) == "the reason"
    log.write_bytes(b"x" * 100_000 + b"\n\xff last\n")
    assert last_line(log).endswith("last")


def test_one_demo_holds_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with (
        home.lock(),
        pytest.raises(UsageError, match=f"process {os.getpid()}.* set FOOTFALL_HOME"),
    ):
        home.lock()
    home.lock().close()


def test_a_note_is_trusted_only_while_its_server_answers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert read_note(home) is None
    write_note(home, ClickHouseNote(f"http://127.0.0.1:{free_port()}", 1))
    assert running_clickhouse(home) is None
    remove_note(home, 2)
    assert read_note(home) is not None
    remove_note(home, 1)
    assert read_note(home) is None
    home.clickhouse_note.write_text("{")
    assert running_clickhouse(home) is None


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("topics/user_tags/0.jsonl", "recovery/x/y", "mine/file", "store.sqlite-wal"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    home.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    (tmp_path / "logs").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="links"):
        home.clear()
    assert (tmp_path / "mine" / "file").exists()


def test_fresh_is_refused_where_a_store_is_elsewhere() -> None:
    here = {"FOOTFALL_HOME": "/some/home"}
    assert clear_refusal(read_settings(here), embedded=True) is None
    for variable, url in (
        ("TOPICS_URL", "kafka://host:9092"),
        ("TOPICS_URL", "file:///else/topics"),
        ("POSTGRES_URL", "postgresql://host/db"),
        ("POSTGRES_URL", "sqlite:////some/home/deeper/store.sqlite"),
        ("PROFILES_URL", "aerospike://host:3000"),
    ):
        refusal = clear_refusal(read_settings({**here, variable: url}), embedded=True)
        assert refusal is not None
        assert f"{variable} points elsewhere" in refusal


def status(**changes: int | bool) -> WorkerStatus:
    part = {"read": 10, "used": 8, "filtered": 0, "late": 1, "dead": 1, "lag": 0}
    part |= {name: int(value) for name, value in changes.items() if name in part}
    return WorkerStatus(
        flow="f", worker=0, pid=1, updated_ms=0, cpu_s=0, memory_bytes=0, rows_written=0,
        finished=bool(changes.get("finished", True)),
        partitions=[
            PartitionStatus(topic="t", partition=0, next_offset=10, watermark_ms=0, **part)
        ],
    )  # fmt: skip


def test_an_event_that_is_not_accounted_for_is_told() -> None:
    assert accounts([status()], ["f"]) == []
    assert accounts([status(used=7)], ["f"]) == ["f read 10 events and accounts for 9"]
    assert accounts([status(lag=3)], ["f"]) == ["f did not reach the end: 3 events are left"]
    assert accounts([status(finished=False)], ["f"]) != []
    assert accounts([], ["f"]) == ["f said nothing of what it did"]
