"""Times from an acknowledged POST until a reader sees it, while every flow of the demo runs.

python -m footfall.benchmarks.freshness [--seconds N] [--rate N]

Probes are sent to the demo's api beside its simulated shop: a tag with a cookie and a brand of its
own, and a purchase with a price that no other has. A reader asks every store again and again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

from footfall.benchmarks.measure import ROOT, BenchmarkError
from footfall.cli.databases import ask_clickhouse, ask_store
from footfall.cli.servers import settings_for_clients
from footfall.infra.ports import free_port
from footfall.schemas.settings import Settings
from footfall.schemas.times import iso_ms

PROBE_EVERY_S = 0.5
ASK_EVERY_S = 0.05
SETTLE_S = 30.0
STARTED_WITHIN_S = 120.0
SEEN_WITHIN_S = 60.0
PROBE_CENTS = 10**9
"""The price of a probe, above all that the shop sells in a window."""

See = Callable[[Collection[int]], Collection[int]]
"""Numbers of probes -> the numbers of those that a reader sees."""


@dataclass(slots=True)
class Store:
    """Asks one store, and keeps how long each probe took to be there."""

    name: str
    see: See
    waiting: dict[int, float] = field(default_factory=dict)
    """Time at which each probe was acknowledged, in seconds of the monotonic clock."""
    seconds: list[float] = field(default_factory=list)

    def look(self, done: threading.Event) -> None:
        """Ask until all probes were seen and no more are to come (``done``)."""
        while not done.is_set() or self.waiting:
            seen = self.see(tuple(self.waiting)) if self.waiting else ()
            now_s = time.monotonic()
            for probe in seen:
                self.seconds.append(now_s - self.waiting.pop(probe))
            if any(now_s - at_s > SEEN_WITHIN_S for at_s in tuple(self.waiting.values())):
                raise BenchmarkError(f"{self.name} has not shown a probe in {SEEN_WITHIN_S:.0f} s")
            time.sleep(ASK_EVERY_S)


def main() -> int:
    """Measure, and print one line per store."""
    parser = argparse.ArgumentParser(prog="python -m footfall.benchmarks.freshness")
    parser.add_argument("--seconds", type=float, default=120.0, help="of probes (120)")
    parser.add_argument("--rate", type=int, default=1_000, help="records of the shop a second")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="footfall-bench-") as home:
        environ = {**os.environ, "FOOTFALL_HOME": home}
        port = free_port()
        with _demo(environ, port, args.rate):
            time.sleep(SETTLE_S)
            stores = _stores(settings_for_clients(environ), port)
            _probe(stores, port, args.seconds)
    for store in stores:
        print(_line(store))
    return 0


@contextmanager
def _demo(environ: dict[str, str], port: int, rate: int) -> Iterator[None]:
    command = [
        *(sys.executable, "-m", "footfall.cli.main", "demo"),
        *("--fresh", "--port", str(port), "--rate", str(rate)),
    ]
    log = Path(environ["FOOTFALL_HOME"], "demo.log")
    with log.open("wb") as out:
        demo = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=out)
    try:
        until_s = time.monotonic() + STARTED_WITHIN_S
        while not _answers(port):
            if demo.poll() is not None or time.monotonic() > until_s:
                raise BenchmarkError(f"the demo did not start: {log.read_text()[-500:]}")
            time.sleep(0.5)
        yield
    finally:
        demo.terminate()
        demo.wait(60)


def _answers(port: int) -> bool:
    with suppress(OSError):
        return _ask(port, "GET", "/readyz", b"")[0] == 200
    return False


def _ask(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _stores(settings: Settings, port: int) -> list[Store]:
    def profiles(probes: Collection[int]) -> list[int]:
        day = datetime.now(UTC).date().isoformat()
        path = f"?time_range={day}T00:00:00.000_{day}T23:59:59.999"
        answers = {
            one: _ask(port, "POST", f"/user_profiles/probe-{one}{path}", b"")[1] for one in probes
        }
        return [one for one, answer in answers.items() if json.loads(answer)["views"]]

    def aggregates(_probes: Collection[int]) -> set[int]:
        sql = "SELECT DISTINCT brand_id FROM minute_buckets WHERE startsWith(brand_id, 'probe-')"
        found = {int(brand.split("-")[1]) for (brand,) in ask_clickhouse(settings, sql)[1]}
        return found & set(_probes)

    def windows(probes: Collection[int]) -> list[int]:
        sql = f"SELECT coalesce(sum(value_items_sold_in_cent / {PROBE_CENTS}), 0) FROM events"
        [[count]] = ask_store(settings, sql)[1]
        # Probes are sold in the order of their numbers, each once.
        return [one for one in probes if one < count]

    return [
        Store("user_profiles, over the api", profiles),
        Store("minute_buckets, in ClickHouse", aggregates),
        Store("store_metrics, in the store's database", windows),
    ]


def _probe(stores: list[Store], port: int, seconds: float) -> None:
    profiles, aggregates, windows = stores
    done = threading.Event()
    failed: list[BaseException] = []

    def look(store: Store) -> None:
        try:
            store.look(done)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=look, args=(store,), daemon=True) for store in stores]
    for thread in threads:
        thread.start()
    until_s, probe = time.monotonic() + seconds, 0
    while time.monotonic() < until_s and not failed:
        now = iso_ms(time.time_ns() // 1_000_000)
        _send(port, "/user_tags", _tag(probe, now), 204)
        profiles.waiting[probe] = aggregates.waiting[probe] = time.monotonic()
        _send(port, "/events/store_events", _purchase(probe, now), 200)
        windows.waiting[probe] = time.monotonic()
        probe += 1
        time.sleep(PROBE_EVERY_S)
    done.set()
    for thread in threads:
        thread.join(SEEN_WITHIN_S)
    if failed:
        raise failed[0]


def _send(port: int, path: str, record: dict[str, object], expected: int) -> None:
    status, answer = _ask(port, "POST", path, json.dumps(record).encode())
    if status != expected:
        raise BenchmarkError(f"POST {path}: {status} {answer[:200]!r}")


def _tag(probe: int, now: str) -> dict[str, object]:
    name = f"probe-{probe}"
    return {
        "time": now, "cookie": name, "country": "PL", "device": "PC", "action": "VIEW",
        "origin": "probe",
        "product_info": {"product_id": 1, "brand_id": name, "category_id": "probe", "price": 1},
    }  # fmt: skip


def _purchase(probe: int, now: str) -> dict[str, object]:
    return {
        "event_time": f"{now[:10]} {now[11:19]} UTC", "event_type": "purchase",
        "product_id": probe, "category_id": 1, "price": PROBE_CENTS / 100, "user_id": 1,
    }  # fmt: skip


def _line(store: Store) -> str:
    last = quantiles(store.seconds, n=100)[98]
    return (
        f"{store.name}: median {median(store.seconds):.2f} s, 99th percentile {last:.2f} s, "
        f"longest {max(store.seconds):.2f} s, of {len(store.seconds)} probes"
    )


if __name__ == "__main__":
    sys.exit(main())
