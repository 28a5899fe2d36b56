"""Reading ClickHouse behind a server that misbehaves: the whole answer, or a clear error soon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from footfall.api import clickhouse as api_clickhouse
from footfall.api.clickhouse import MinuteBuckets
from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.sinks import SinkError, SinkRefusedError, SinkUnavailableError
from footfall.sinks.clickhouse import ClickHouseReader, ClickHouseTable, create_tables
from tests.api_process_support import Process, free_port
from tests.api_support import Client
from tests.cli_support import footfall
from tests.clickhouse_faults import (
    BALANCER,
    MEMORY,
    answer,
    close_after_body,
    closes_idle,
    code_after_200,
    exception,
    exception_after_200,
    hang,
    resets_next,
    slow_after,
    truncated,
)
from tests.clickhouse_faults_support import some_rows
from tests.clickhouse_support import serving
from tests.fault_proxy import Fault, FaultProxy, Request

ROWS_HELD = 600
FROM_MS = 1_647_950_400_000
"""2022-03-22T12:00:00"""
SQL = "SELECT origin FROM minute_buckets ORDER BY sum_price"
SUMS = (
    "/aggregates?time_range=2022-03-22T12:00:00_2022-03-22T12:10:00&action=VIEW&aggregates=COUNT"
)
HALF = '{"meta": [], "data": [["o1"]], "rows": 1, "exception": "Code: 241. DB::Exception: Memory"}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("reading") / "data") as running:
        create_tables(running.url, [ROWS, VIEW])
        writer = ClickHouseTable(running.url, ROWS)
        writer.write([some_rows(0, ROWS_HELD)])
        writer.close()
        yield running.url


def reads(request: Request) -> bool:
    """Tell whether a request asks the table, which a client does not when it connects."""
    return b"minute_buckets" in request.body


def asks_sums(request: Request) -> bool:
    """Tell whether a request comes from ``/aggregates``, and not from the live page."""
    return b"AND action = " in request.body


FAULTS: list[tuple[Fault, str]] = [
    (answer(500, "Internal error"), "Internal error"),
    (exception(241, "MEMORY_LIMIT_EXCEEDED", MEMORY), "memory limit exceeded"),
    (exception(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many queries"), "Too many queries"),
    (answer(503, BALANCER, name="503 of a balancer"), "503 Service Temporarily Unavailable"),
    (exception_after_200(241, "MEMORY_LIMIT_EXCEEDED", MEMORY), "memory limit exceeded"),
    (exception_after_200(159, "TIMEOUT_EXCEEDED", "Timeout exceeded", tagged=False), "Timeout ex"),
    (answer(200, HALF, name="200 and an error in the JSON"), "Memory"),
    (code_after_200(209, "SOCKET_TIMEOUT"), "209"),
    (truncated(), ""),
    (exception(60, "UNKNOWN_TABLE", "Table x does not exist", status=404), "Table x does not"),
    (exception(516, "AUTHENTICATION_FAILED", "No such user", status=403), "No such user"),
    (hang(), ""),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=str)
def test_a_query_gives_all_rows_or_an_error_and_never_a_part(
    url: str, fault: Fault, reason: str
) -> None:
    timeout_s = 1 if fault.name == "never answers" else 60
    with FaultProxy(url, *[fault] * 2, takes=reads) as proxy:
        reader = ClickHouseReader(proxy.url, answer_timeout_s=timeout_s)
        with pytest.raises(SinkError) as raised:
            reader.rows(SQL)
        reader.close()
    line = str(raised.value)
    assert line.startswith(f"ClickHouse at {proxy.address}: ")
    assert reason in line
    assert "\n" not in line
    assert "FORMAT" not in line


@pytest.mark.parametrize("fault", [slow_after(0.3), closes_idle(), resets_next()], ids=str)
def test_a_query_is_answered_all_the_same(url: str, fault: Fault) -> None:
    with FaultProxy(url, *[fault] * 4, takes=reads) as proxy:
        reader = ClickHouseReader(proxy.url)
        for _ in range(4):
            assert len(reader.rows(SQL)[1]) == ROWS_HELD
        reader.close()


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=str)
def test_the_api_gives_all_sums_or_an_error_and_never_a_part(
    url: str, fault: Fault, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault.name == "never answers":
        monkeypatch.setattr(api_clickhouse, "ANSWER_WITHIN_S", 1.0)

    async def ask() -> str:
        clickhouse = api_clickhouse.ClickHouse(proxy.url)
        buckets = MinuteBuckets(clickhouse)
        with pytest.raises((SinkRefusedError, SinkUnavailableError)) as raised:
            await buckets.sums(FROM_MS, FROM_MS + 600_000, "VIEW", {})
        await clickhouse.close()
        return str(raised.value)

    with FaultProxy(url, *[fault] * 2, takes=reads) as proxy:
        line = asyncio.run(ask())
    assert line.startswith(f"ClickHouse at {proxy.address}/ ")
    assert reason in line
    assert "<" not in line


def test_the_api_stays_up_while_its_server_fails_and_is_down(url: str, tmp_path: Path) -> None:
    port = free_port()
    faults = [fault for fault, _ in FAULTS if fault.name != "never answers"]
    with (
        FaultProxy(
            url, *faults, takes=lambda request: b"toUnixTimestamp" in request.body
        ) as proxy,
        Process(tmp_path, port, CLICKHOUSE_URL=proxy.url) as server,
    ):
        client = Client(port)
        whole = None
        for _ in faults:
            reply = client.get(SUMS)
            assert reply.status == 503
            assert reply.json()["error"].startswith("aggregates cannot be read: ClickHouse at ")
        whole = client.get(SUMS)
        assert whole.status == 200
        assert sum(int(row[-1]) for row in whole.json()["rows"]) == ROWS_HELD // 6
        proxy.down()
        for _ in range(3):
            reply = client.get(SUMS)
            assert reply.status == 503
            assert reply.json()["error"].endswith("does not answer: Connection refused")
        assert client.get("/healthz").status == 200
        ready = client.get("/readyz")
        assert ready.status == 503
        assert ready.json()["parts"]["topics"] == "ok"
        proxy.up()
        assert client.get(SUMS).json() == whole.json()
        assert client.get("/readyz").status == 200
        client.close()
        _, _, errors = server.stop()
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (answer(503, BALANCER, name="503 of a balancer"), "HTTP status 503"),
        (exception_after_200(241, "MEMORY_LIMIT_EXCEEDED", MEMORY), "memory limit exceeded"),
        (close_after_body(done=False), "closed the connection without an answer"),
        (
            exception(516, "AUTHENTICATION_FAILED", "No such user", status=403),
            "; check the user and password in CLICKHOUSE_URL",
        ),
    ],
    ids=lambda case: str(case)[:30],
)
def test_footfall_query_says_what_is_wrong_in_one_line(
    url: str, tmp_path: Path, fault: Fault, reason: str
) -> None:
    with FaultProxy(url, *[fault] * 4, takes=reads) as proxy:
        done = footfall(tmp_path / "home", "query", SQL, CLICKHOUSE_URL=proxy.url)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"footfall: ClickHouse at {proxy.address}: ")
    assert reason in line


def test_footfall_query_of_a_server_that_is_down_says_so(url: str, tmp_path: Path) -> None:
    with FaultProxy(url) as proxy:
        proxy.down()
        done = footfall(tmp_path / "home", "query", SQL, CLICKHOUSE_URL=proxy.url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"footfall: ClickHouse at {proxy.address}: connection refused")
