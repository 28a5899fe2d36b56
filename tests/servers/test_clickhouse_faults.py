"""ClickHouse behind a server that misbehaves: rows once each all the same, or a clear stop.

The command line and the api are in test_clickhouse_faults_reading.py.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks.clickhouse import ClickHouseTable, create_tables
from tests.clickhouse_faults import (
    BALANCER,
    MEMORY,
    TOO_MANY_PARTS,
    answer,
    close_after_body,
    closes_idle,
    code_after_200,
    exception,
    exception_after_200,
    hang,
    reset_in_body,
    resets_next,
    slow_after,
    slow_before,
    slow_to_read,
    truncated,
)
from tests.clickhouse_faults_support import Shop, expected, held, some_rows, until
from tests.clickhouse_support import Server, serving
from tests.fault_proxy import PASSED, Fault, FaultProxy

HTML = {"Content-Type": "text/html"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("faults") / "data") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def minute(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[None] | None]:
    """Yield the minute's outage, which is mostly waiting: it runs beside the other tests."""
    asked = any("down_for_a_minute" in item.name for item in request.session.items)
    with ThreadPoolExecutor(1) as beside:
        folder = tmp_path_factory.mktemp("minute")
        yield beside.submit(down_for_a_minute, server, folder) if asked else None


@pytest.fixture
def made(server: Server) -> str:
    """Return the address of a server with empty tables."""
    create_tables(server.url, [ROWS, VIEW])
    server.rows("TRUNCATE TABLE minute_buckets_rows")
    return server.url


# The sink


RESET = "connection reset by peer;|it closed the connection without an answer;"
"""The two messages of a reset; which one comes depends on what was sent by then."""
QUICK: list[tuple[Fault, str]] = [
    (slow_before(0.3), ""),
    (slow_after(0.3), ""),
    (answer(500, "Internal error"), "HTTP status 500: Internal error"),
    (exception(241, "MEMORY_LIMIT_EXCEEDED", MEMORY), "(total) memory limit exceeded"),
    (exception(252, "TOO_MANY_PARTS", TOO_MANY_PARTS), "Too many parts (3003 with"),
    (exception(252, "TOO_MANY_PARTS", TOO_MANY_PARTS, header=False), "Too many parts (3003 with"),
    (exception(242, "TABLE_IS_READ_ONLY", "Table is in readonly mode"), "Table is in readonly"),
    (
        answer(503, BALANCER, HTML, "503 of a balancer"),
        "HTTP status 503: 503 Service Temporarily Unavailable balancer;",
    ),
    (
        answer(200, BALANCER, HTML, "200 of a balancer"),
        "it answered with '503 Service Temporarily Unavailable balancer';",
    ),
    (exception_after_200(252, "TOO_MANY_PARTS", TOO_MANY_PARTS), "Too many parts (3003 with"),
    (
        exception_after_200(241, "MEMORY_LIMIT_EXCEEDED", MEMORY, tagged=False),
        "(total) memory limit exceeded",
    ),
    (
        exception_after_200(159, "TIMEOUT_EXCEEDED", "Timeout exceeded", done=True),
        "Timeout exceeded. (TIMEOUT_EXCEEDED);",
    ),
    (code_after_200(209, "SOCKET_TIMEOUT"), "Received ClickHouse exception, code: 209;"),
    (reset_in_body(), RESET),
    (reset_in_body(80_000), RESET),
    (close_after_body(done=False), "it closed the connection without an answer;"),
    (close_after_body(done=True), "it closed the connection without an answer;"),
    (truncated(), "its answer broke off;"),
    (truncated(head=True), "its answer broke off;"),
]
SLOW: list[tuple[Fault, str]] = [
    (slow_before(3), "no answer within 2 s;"),
    (slow_after(3), "no answer within 2 s;"),
    (hang(), "no answer within 2 s;"),
]
CASES = [(3, *case) for case in QUICK] + [(1, *case) for case in SLOW]


@pytest.mark.parametrize(("times", "fault", "reason"), CASES, ids=str)
def test_after_a_fault_that_passes_each_row_is_there_once(
    made: str, times: int, fault: Fault, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Rows that are inserted long before a short time is over.
    count, timeout_s = (2_000, 2) if times == 1 else (20_000, 60)
    with FaultProxy(made, *[fault] * times) as proxy, caplog.at_level(logging.INFO):
        writer = ClickHouseTable(proxy.url, ROWS, answer_timeout_s=timeout_s, sleep=lambda _: None)
        writer.write([some_rows(0, count)])
        writer.write([some_rows(count, 10)])
        writer.close()
    assert held(made) == expected(count + 10)
    if not reason:
        assert caplog.messages == []
        return
    assert proxy.faults == []
    began, ended = caplog.messages
    target = f"ClickHouse at {proxy.address}, table minute_buckets_rows"
    assert began.startswith(tuple(f"{target}: {one}" for one in reason.split("|")))
    assert began.endswith("; trying again for 120 s")
    assert ended.startswith(f"{target}: works again after ")


@pytest.mark.parametrize(
    "fault", [fault for fault, reason in QUICK if reason and "200" not in fault.name], ids=str
)
def test_a_fault_at_the_first_connection_passes_as_well(made: str, fault: Fault) -> None:
    with FaultProxy(made, *[fault] * 3, takes=lambda _: True) as proxy:
        writer = ClickHouseTable(proxy.url, ROWS, sleep=lambda _: None)
        writer.write([some_rows(0, 100)])
        writer.close()
    assert held(made) == expected(100)


def test_a_server_that_reads_slowly_is_given_the_time(
    made: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Sent in one piece, a large block would have to be through within this.
    monkeypatch.setattr("footfall.sinks.clickhouse.CONNECT_TIMEOUT_S", 2)
    with FaultProxy(made, slow_to_read(8, 0.4)) as proxy, caplog.at_level(logging.INFO):
        writer = ClickHouseTable(proxy.url, ROWS, sleep=lambda _: pytest.fail("it waited"))
        writer.write([some_rows(0, 400_000)])
        writer.close()
    assert held(made) == expected(400_000)
    assert proxy.inserts == 1
    assert caplog.messages == []


@pytest.mark.parametrize("fault", [closes_idle(), closes_idle(0.05), resets_next()], ids=str)
def test_a_kept_connection_that_the_server_closes_is_no_failure(
    made: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(made, *[fault] * 6) as proxy, caplog.at_level(logging.INFO):
        writer = ClickHouseTable(proxy.url, ROWS, sleep=lambda _: pytest.fail("it waited"))
        for number in range(6):
            writer.write([some_rows(number * 10, 10)])
            time.sleep(0.02 * number)
        writer.close()
    assert held(made) == expected(60)
    assert caplog.messages == []


LACKS_RIGHT = (
    "check the user and password in CLICKHOUSE_URL: this user lacks a right, which GRANT gives"
)
NEVER = [
    (
        exception(60, "UNKNOWN_TABLE", "Table default.x does not exist", status=404),
        "Table default.x does not exist. (UNKNOWN_TABLE); run `footfall init`",
    ),
    (
        exception(60, "UNKNOWN_TABLE", "Table default.x does not exist", header=False),
        "Table default.x does not exist. (UNKNOWN_TABLE); run `footfall init`",
    ),
    (
        exception_after_200(60, "UNKNOWN_TABLE", "Table default.x does not exist"),
        "Table default.x does not exist. (UNKNOWN_TABLE); run `footfall init`",
    ),
    (
        exception(516, "AUTHENTICATION_FAILED", "shop: Authentication failed", status=403),
        "(AUTHENTICATION_FAILED); check the user and password in CLICKHOUSE_URL",
    ),
    (
        exception(164, "READONLY", "shop: Cannot execute query in readonly mode"),
        f"in readonly mode. (READONLY); {LACKS_RIGHT}",
    ),
    (
        exception(497, "ACCESS_DENIED", "shop: Not enough privileges", status=403),
        f"privileges. (ACCESS_DENIED); {LACKS_RIGHT}",
    ),
    (
        answer(401, "<html><body>Who are you?</body></html>", HTML, "401 of a balancer"),
        "HTTP status 401: Who are you?; check the user and password in CLICKHOUSE_URL",
    ),
    (answer(413, "<html>Too large</html>", HTML, "413"), "HTTP status 413: Too large"),
]


# A server does not begin an answer before it knows the user.
REFUSALS = [("the insert", *case) for case in NEVER] + [
    ("the first connection", *case) for case in NEVER if not case[0].name.startswith("200")
]


@pytest.mark.parametrize(("at", "fault", "ending"), REFUSALS, ids=lambda case: str(case)[:30])
def test_what_does_not_pass_is_refused_at_once_with_its_remedy(
    made: str, at: str, fault: Fault, ending: str
) -> None:
    takes = None if at == "the insert" else lambda _: True
    with FaultProxy(made, fault, takes=takes) as proxy:
        stranger = proxy.address.replace("//", "//shop:secret@")
        url = proxy.url if at == "the insert" else stranger
        writer = ClickHouseTable(url, ROWS, sleep=lambda _: pytest.fail("it waited"))
        with pytest.raises(SinkRefusedError) as raised:
            writer.write([some_rows(0, 10)])
        writer.close()
    line = str(raised.value)
    assert line.startswith(f"ClickHouse at {proxy.address}, table minute_buckets_rows: ")
    assert line.endswith(ending)
    assert "\n" not in line
    assert "secret" not in line


def test_a_server_that_stays_down_is_given_up_with_a_clear_line(made: str) -> None:
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    with FaultProxy(made) as proxy:
        writer = ClickHouseTable(proxy.url, ROWS, sleep=sleep, clock=lambda: now_s[0])
        writer.write([some_rows(0, 10)])
        proxy.down()
        with pytest.raises(SinkUnavailableError, match=r": connection refused \(tried \d+ times"):
            writer.write([some_rows(10, 10)])
        proxy.up()
        writer.write([some_rows(10, 10)])
        writer.close()
    assert 120 <= now_s[0] < 121
    assert held(made) == expected(20)


# The worker


EVENTS = 60_000
FAULTS_IN_A_ROW_MAX = 6
"""Faults in a row; with the waits between them some 6 s, and these workers wait for 30 s."""


@pytest.fixture(scope="module")
def calm(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Return the shop after an undisturbed run."""
    shop = Shop.made(tmp_path_factory.mktemp("runs") / "calm", server.url)
    shop.fill(0, EVENTS)
    shop.finish()
    _, dead, late = shop.outcome()
    assert dead, "the world has dead letters"
    assert late, "the world has late events"
    return shop


def shop_of(calm: Shop, server: Server, name: str) -> Shop:
    return Shop.made(calm.home.parent / name, server.url)


def through(proxy: FaultProxy, shop: Shop) -> str:
    """Return the shop's database as seen through the proxy."""
    return proxy.url + urlsplit(shop.url).path


def assert_same(shop: Shop, calm: Shop, about: str = "") -> None:
    for found, wanted in zip(shop.outcome(), calm.outcome(), strict=True):
        assert found == wanted, about


def test_a_worker_through_random_faults_and_kills_gives_the_undisturbed_rows(
    calm: Shop, server: Server
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    faults = [fault for fault, _ in QUICK] + [closes_idle(), resets_next(), slow_after(3)]
    in_a_row = 0

    def choose() -> Fault:
        nonlocal in_a_row
        # Each passes: one after another without an end they are an outage, which is given up.
        faulty = in_a_row < FAULTS_IN_A_ROW_MAX and chance.random() < 0.6
        in_a_row = in_a_row + 1 if faulty else 0
        return chance.choice(faults) if faulty else PASSED

    shop = shop_of(calm, server, "random")
    step = EVENTS // 24
    with FaultProxy(server.url, choose=choose) as proxy:
        url, filled = through(proxy, shop), 0
        for _ in range(2):
            seen = proxy.inserts
            with shop.worker(url, answer_timeout_s=2) as worker:
                for _ in range(12):
                    shop.fill(filled, step)
                    filled += step
                    # The first rows, and then a step an insert or so.
                    until(lambda seen=seen: proxy.inserts > seen)  # type: ignore[misc]
                    time.sleep(0.2 * chance.random())
                until(lambda seen=seen: proxy.inserts > seen + 1)  # type: ignore[misc]
                assert worker.process.poll() is None, worker.lines()
                worker.process.send_signal(signal.SIGKILL)
        shop.finish(url)
    assert_same(shop, calm, f"seed {seed}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ended_while_its_server_is_down_loses_nothing(
    calm: Shop, server: Server, number: signal.Signals
) -> None:
    shop = shop_of(calm, server, number.name.lower())
    with FaultProxy(server.url) as proxy, shop.worker(through(proxy, shop)) as worker:
        shop.fill(0, EVENTS // 3)
        until(lambda: shop.events() > 0)
        proxy.down()
        shop.fill(EVENTS // 3, EVENTS // 3)
        worker.wait_until_it_waits()
        worker.process.send_signal(number)
        worker.process.wait(60)
        assert len(worker.lines()) <= 2, worker.lines()
    shop.fill(2 * EVENTS // 3, EVENTS // 3)
    shop.finish()
    assert_same(shop, calm)


def test_a_worker_that_gives_up_says_so_and_goes_on_when_started_again(
    calm: Shop, server: Server
) -> None:
    shop = shop_of(calm, server, "given_up")
    with FaultProxy(server.url) as proxy:
        with shop.worker(through(proxy, shop), give_up_after_s=1.5) as worker:
            shop.fill(0, EVENTS // 2)
            until(lambda: shop.events() > 0)
            proxy.down()
            shop.fill(EVENTS // 2, EVENTS // 2)
            assert worker.process.wait(60) == 1
            began, ended = worker.lines()
        where = f"ClickHouse at http://127.0.0.1:{proxy.port}, table minute_buckets_rows"
        assert began == f"{where}: connection refused; trying again for 1.5 s"
        assert ended.startswith(f"footfall: {where}: connection refused (tried ")
        proxy.up()
        shop.finish(through(proxy, shop))
    assert_same(shop, calm)


def test_a_worker_whose_password_is_wrong_stops_at_once_and_loses_nothing(
    calm: Shop, server: Server
) -> None:
    shop = shop_of(calm, server, "refused")
    refusal = exception(516, "AUTHENTICATION_FAILED", "shop: Authentication failed", status=403)
    with FaultProxy(server.url, PASSED, refusal) as proxy:
        with shop.worker(through(proxy, shop)) as worker:
            shop.fill(0, EVENTS // 2)
            until(lambda: shop.events() > 0)
            shop.fill(EVENTS // 2, EVENTS // 2)
            assert worker.process.wait(60) == 1
            (line,) = worker.lines()
        assert line.endswith("check the user and password in CLICKHOUSE_URL")
        shop.finish(through(proxy, shop))
    assert_same(shop, calm)


DOWN_S = 60.0
MORE_MAX = 180_000
GROWTH_BYTES_MAX = 64_000_000


def down_for_a_minute(server: Server, folder: Path) -> None:
    """Check that the worker waits, says so once, reads no further, and goes on."""
    shop, filled = Shop.made(folder / "down", server.url), 20_000

    def keep_filling() -> None:
        # However long each takes: the worker gives up a minute after this minute is over.
        nonlocal filled
        while filled < 20_000 + MORE_MAX and time.monotonic() < down_at_s + DOWN_S - 10:
            shop.fill(filled, 6_000)
            filled += 6_000
            time.sleep(DOWN_S / 2 / (MORE_MAX / 6_000))

    producer = threading.Thread(target=keep_filling)
    with FaultProxy(server.url) as proxy:
        # The command as it is: a snapshot each 5 s, given up after 120 s.
        with shop.worker(through(proxy, shop), give_up_after_s=None) as worker:
            shop.fill(0, filled)
            until(lambda: shop.events() > 0)
            proxy.down()
            down_at_s = time.monotonic()
            producer.start()
            worker.wait_until_it_waits()
            waits_ms = time.time_ns() // 1_000_000
            until(lambda: shop.reported_ms() > waits_ms)
            durable, status, memory = shop.rows(), shop.status(), worker.memory_bytes()
            producer.join()
            time.sleep(max(0.0, down_at_s + DOWN_S - time.monotonic()))
            assert worker.process.poll() is None, worker.lines()
            # It has read no further, while the topic has grown to several times what it read.
            assert [part.next_offset for part in shop.status()] == [
                part.next_offset for part in status
            ]
            assert worker.memory_bytes() < memory + GROWTH_BYTES_MAX
            assert shop.rows() == durable
            where = f"ClickHouse at http://127.0.0.1:{proxy.port}, table minute_buckets_rows"
            assert worker.lines() == [f"{where}: connection refused; trying again for 120 s"]
            proxy.up()
            until(lambda: sum(part.lag for part in shop.status()) == 0)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(60) == 0
            _, again = worker.lines()
            assert again.startswith(f"{where}: works again after ")
        shop.finish(through(proxy, shop))
    calm = Shop.made(folder / "up", server.url)
    calm.fill(0, filled)
    calm.finish()
    assert_same(shop, calm)


def test_a_worker_waits_for_a_server_that_is_down_for_a_minute(minute: Future[None]) -> None:
    minute.result(4 * DOWN_S)
