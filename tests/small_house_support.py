"""One flow in two processes, with what it needs, and faults that can be done to it."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path

from footfall.operations.positions import read_statuses
from footfall.schemas import metrics
from footfall.schemas.embedded_clickhouse import PASSWORD_FILE, USER
from footfall.schemas.targets import scrape_target
from footfall.schemas.times import iso_ms
from footfall.schemas.topic_files import partition_of, records_path
from footfall.schemas.topics import PARTITIONS_DEFAULT, USER_TAGS
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import footfall, free_port, running
from tests.fault_proxy import PASSED, Exchange, Fault, FaultProxy
from tests.runner_support import wait_until

FLOW = "minute_buckets"
PLACES = (0, 1)
"""Partitions with records: one for each of the two workers."""
COOKIE = next(f"c{n}" for n in count() if partition_of(b"c%d" % n, PARTITIONS_DEFAULT) == 0)
RATE = 100
HISTORY_MINUTES = 40
TICK_S = 0.5
STARTS_WITHIN_S = 300.0


def limits(folder: Path) -> Mapping[str, str]:
    """Limits of rules that a test cannot reach, and those that it can."""
    # Others use the disk, too.
    nearly_full = shutil.disk_usage(folder).free * 0.9
    return {
        "footfall_home_free_bytes < 10e9": f"footfall_home_free_bytes < {nearly_full}",
        "footfall_home_size_bytes < 0.1": "footfall_home_size_bytes < 1",
        "flow:footfall_state_bytes:sum > 1e9": "flow:footfall_state_bytes:sum > 48e3",
    }


class Shop:
    """Appends the tags of a shop whose clock is fast, with a history."""

    def __init__(self, home: Path) -> None:
        self._topics = FileTopics(home / "topics")
        self._done = threading.Event()
        self._number = 0
        self.now_ms = time.time_ns() // 1_000_000 - 12 * 3_600_000
        self.rate, self.speed = RATE, 10
        self.buys, self.brands = True, 5

    def tag(self, time_ms: int) -> bytes:
        """Return one of that time."""
        self._number += 1
        product = {
            "product_id": "p", "brand_id": f"b{self._number % self.brands}", "category_id": "c",
            "price": 100,
        }  # fmt: skip
        action = "BUY" if self.buys and self._number % 5 == 0 else "VIEW"
        tag = {
            "time": iso_ms(time_ms), "cookie": COOKIE, "country": "PL", "device": "PC",
            "action": action, "origin": "o", "product_info": product,
        }  # fmt: skip
        return json.dumps(tag).encode()

    def append(self, number: int, begin_ms: int, end_ms: int) -> None:
        """Append so many, whose times are spread over a range."""
        values = [self.tag(begin_ms + (end_ms - begin_ms) * at // number) for at in range(number)]
        parts = len(PLACES)
        self._topics.write_each([(USER_TAGS.name, at, values[at::parts]) for at in PLACES])

    @contextmanager
    def open(self) -> Iterator[None]:
        """Go on in a thread."""
        thread = threading.Thread(target=self._go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            self._topics.close()

    def _go_on(self) -> None:
        minutes = HISTORY_MINUTES
        self.append(minutes * 600, self.now_ms - minutes * 60_000, self.now_ms)
        while not self._done.wait(TICK_S):
            before_ms = self.now_ms
            self.now_ms += round(1000 * TICK_S * self.speed)
            self.append(round(self.rate * TICK_S), before_ms, self.now_ms)


class House:
    """The processes of a home."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        ports = free_port(), free_port()
        clickhouse = stack.enter_context(running(home, "clickhouse", "--port", str(ports[0])))
        clickhouse.wait_for_text("ClickHouse at", STARTS_WITHIN_S)
        made = footfall(home, "init", timeout_s=STARTS_WITHIN_S)
        assert made.returncode == 0, made.stderr
        password = (home / "clickhouse" / PASSWORD_FILE).read_text().strip()
        behind = f"http://{USER}:{password}@127.0.0.1:{ports[0]}"
        self.gateway = stack.enter_context(FaultProxy(behind))
        self.environ = {"CLICKHOUSE_URL": self.gateway.url}
        self.shop = Shop(home)
        stack.enter_context(self.shop.open())
        api = ("api", "--observe", "--port", str(ports[1]))
        stack.enter_context(running(home, *api, **self.environ)).wait_for_text(
            "listening on", STARTS_WITHIN_S
        )
        self._api_port = ports[1]
        stack.enter_context(running(home, "run", FLOW, "--workers", "2", **self.environ))
        wait_until(lambda: len(self.pids()) == 2, "both workers run", STARTS_WITHIN_S)

    def pids(self) -> dict[int, int]:
        """The process of each worker."""
        return {one.worker: one.pid for one in read_statuses(self.home) if one.flow == FLOW}

    def runs_as_another(self, pid: int) -> bool:
        """Tell whether the first worker has another process than this."""
        return self.pids()[0] != pid

    def requests(self, number: int, method: str, path: str) -> None:
        """Ask the api."""
        connection = http.client.HTTPConnection("127.0.0.1", self._api_port, timeout=60)
        for _ in range(number):
            body = self.shop.tag(self.shop.now_ms) if method == "POST" else None
            connection.request(method, path, body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        connection.close()


def waits(seconds: float) -> Fault:
    """An insert that takes so long."""

    def act(exchange: Exchange) -> bool:
        exchange.wait(seconds)
        return PASSED.act(exchange)

    return Fault("waits", act)


@contextmanager
def nobody_buys(house: House) -> Iterator[None]:
    house.shop.buys = False
    yield
    house.shop.buys = True


@contextmanager
def events_are_late(house: House) -> Iterator[None]:
    at_ms = house.shop.now_ms - 30 * 60_000
    house.shop.append(20 * RATE, at_ms, at_ms)
    yield


@contextmanager
def groups_have_no_end(house: House) -> Iterator[None]:
    house.shop.brands = 10**9
    yield
    house.shop.brands = 5


@contextmanager
def the_disk_fills(house: House) -> Iterator[None]:
    path = house.home / "filled"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(house.home).free // 5)
        yield
    path.unlink()


@contextmanager
def a_worker_counts_wrongly(house: House) -> Iterator[None]:
    """A page of metrics by hand: no worker of ours does so."""
    labels = f'{{flow="{FLOW}",topic="t",partition="0"'
    counts = {
        metrics.RECORDS_READ: 9, metrics.RECORDS_USED: 4, metrics.RECORDS_FILTERED: 2,
        metrics.RECORDS_LATE: 1,
    }  # fmt: skip
    lines = [f"{metric.exposed}{labels}}} {number}" for metric, number in counts.items()]
    lines.append(f'{metrics.RECORDS_DEAD.exposed}{labels},reason="not_json"}} 1')

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(("\n".join(lines) + "\n").encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with scrape_target(house.home, "by_hand", "127.0.0.1", server.server_port):
        yield
    server.shutdown()
    server.server_close()


@contextmanager
def appends_wait(house: House) -> Iterator[None]:
    """Another writer holds the partition, for 0.4 s at a time."""
    path = records_path(house.home / "topics", USER_TAGS.name, PLACES[0])
    for _ in range(8):
        with ThreadPoolExecutor(20) as clients, path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for _ in range(20):
                clients.submit(house.requests, 1, "POST", "/user_tags")
            time.sleep(0.4)
    yield


@contextmanager
def a_worker_hangs(house: House) -> Iterator[None]:
    pid = house.pids()[1]
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


@contextmanager
def clickhouse_hangs(house: House) -> Iterator[None]:
    """For less than the minute after which writers give up waiting; many records come."""
    house.gateway.choose = lambda: waits(55)
    house.shop.rate = 10 * RATE
    yield
    house.shop.rate = RATE
    house.gateway.choose = None


@contextmanager
def inserts_are_slow(house: House) -> Iterator[None]:
    house.gateway.choose = lambda: waits(7)
    yield
    house.gateway.choose = None


@contextmanager
def clickhouse_is_gone(house: House) -> Iterator[None]:
    house.gateway.down()
    yield
    house.gateway.up()


@contextmanager
def queries_fail(house: House) -> Iterator[None]:
    """Ask for aggregates while ClickHouse is gone."""
    house.requests(15, "GET", AGGREGATES)
    yield


@contextmanager
def the_clock_stands(house: House) -> Iterator[None]:
    house.shop.speed, house.shop.rate = 0, 2 * RATE
    yield
    house.shop.speed, house.shop.rate = 10, RATE


@contextmanager
def a_worker_dies_again_and_again(house: House) -> Iterator[None]:
    for _ in range(4):
        killed = house.pids()[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(partial(house.runs_as_another, killed), "it runs again", STARTS_WITHIN_S)
        # The observer sees that it runs: it is not told as missing.
        time.sleep(6)
    yield


AGGREGATES = (
    "/aggregates?time_range=2022-03-22T12:15:00_2022-03-22T12:16:00&action=BUY&aggregates=COUNT"
)
