"""Flows as their workers run, on a real Aerospike server: killed in the middle, and exact."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aerospike
import msgspec
import pytest
from aerospike import exception

from schemas.profiles import SET_NAME
from schemas.settings import Settings, read_settings
from schemas.times import iso_ms
from schemas.topics import USER_TAGS
from sinks.aerospike_aggregates import SET_NAME as AGGREGATES_SET
from sinks.aerospike_aggregates import AerospikeAggregates, BucketSum, Group, record_key
from sinks.open import open_profiles
from sinks.topic_files import FileTopics
from tests.aerospike_support import server
from tests.cli_support import Running, footfall, running
from tests.clickhouse_support import serving

AT = server()

START = datetime(2022, 3, 22, 12, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
COOKIES, KEPT, PARTITIONS = 40, 50, 4
FOREVER_MS = 2**62
WIDTH = 30
WITHIN_S = 60.0


@dataclass
class House:
    """A home whose topic is filled by the test; names of its own, for the server is shared."""

    home: Path
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    sent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PROFILES_URL": f"aerospike://{AT.host}:{AT.port}",
            "AEROSPIKE_PROFILES_NAMESPACE": AT.profiles,
            "AEROSPIKE_AGGREGATES_NAMESPACE": AT.aggregates,
            "AEROSPIKE_BUCKETS_PER_KEY": str(WIDTH),
            "NUM_TAGS_TO_KEEP": str(KEPT),
            "KAFKA_MAX_POLL_RECORDS": "200",
            "FOOTFALL_HOME": str(self.home),
        }

    @property
    def settings(self) -> Settings:
        return read_settings(self.environ)

    def worker(self, flow: str, **others: str) -> AbstractContextManager[Running]:
        return running(self.home, "run", flow, **(self.environ | others))

    def ask(self, *arguments: str, **others: str) -> None:
        ended = footfall(self.home, *arguments, **(self.environ | others))
        assert ended.returncode == 0, ended.stderr

    def to_the_end(self, flow: str, **others: str) -> None:
        self.ask("run", flow, "--once", **others)

    def cookie(self, number: int) -> str:
        return f"{self.run}-{number}"

    def group(self, action: str) -> Group:
        return Group(action, self.run, "brand", "shoes")

    def send(self, number: int, topics: FileTopics) -> None:
        """So many more tags, 10 ms apart, each cookie's in its turn and out of order."""
        first = len(self.sent)
        for place in range(first, first + number):
            # Of ten tags the third comes last: later than others of its cookie, and not late.
            late = 4_000 if place % 10 == 3 else 0
            time_ms = START_MS + place * 10 - late
            self.sent.append(
                {
                    "time": iso_ms(time_ms),
                    "cookie": self.cookie(place % COOKIES),
                    "country": "PL",
                    "device": "PC",
                    "action": "BUY" if place % 7 == 0 else "VIEW",
                    "origin": self.run,
                    "product_info": {
                        "product_id": place,
                        "brand_id": "brand",
                        "category_id": "shoes",
                        "price": place % 1_000,
                    },
                }
            )
        topics.write(
            USER_TAGS.name,
            [(tag["cookie"].encode(), msgspec.json.encode(tag)) for tag in self.sent[first:]],
        )

    def profiles(self) -> dict[str, tuple[list[bytes], list[bytes]]]:
        """By hand."""
        kinds: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for tag in self.sent:
            kinds[tag["cookie"]][tag["action"]].append(tag)

        def newest(tags: list[dict[str, Any]]) -> list[bytes]:
            last = sorted(tags, key=lambda tag: str(tag["time"]), reverse=True)[:KEPT]
            return [msgspec.json.encode(tag) for tag in last]

        return {c: (newest(kind["VIEW"]), newest(kind["BUY"])) for c, kind in kinds.items()}

    def buckets(self, action: str) -> list[BucketSum]:
        """By hand."""
        counts: Counter[str] = Counter()
        prices: Counter[str] = Counter()
        for tag in self.sent:
            if tag["action"] == action:
                counts[tag["time"][:16]] += 1
                prices[tag["time"][:16]] += tag["product_info"]["price"]
        return [
            BucketSum(datetime.fromisoformat(f"{minute}+00:00"), counts[minute], prices[minute])
            for minute in sorted(counts)
        ]

    def forget(self) -> None:
        """Take what it wrote off the server."""
        minutes = round(START.timestamp()) // 60
        groups = [self.group(action) for action in ("VIEW", "BUY")]
        starts = range(minutes - minutes % WIDTH - WIDTH, minutes + 120, WIDTH)
        keys = [(AT.profiles, SET_NAME, self.cookie(n)) for n in range(COOKIES)] + [
            (AT.aggregates, AGGREGATES_SET, record_key(group, start, WIDTH))
            for group in groups
            for start in starts
        ]
        with closing(aerospike.client({"hosts": [(AT.host, AT.port)]})) as client:
            for key in keys:
                with suppress(exception.RecordNotFound):
                    client.remove(key)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "home")
    yield house
    house.forget()


def wait_until_other(found: Callable[[], object], before: object) -> None:
    until_s = time.monotonic() + WITHIN_S
    while found() == before:
        assert time.monotonic() < until_s, "nothing was written"
        time.sleep(0.02)


def test_profiles_are_exact_through_kills_of_the_worker(house: House, tmp_path: Path) -> None:
    topics = FileTopics(house.home / "topics")
    topics.create(USER_TAGS.name, PARTITIONS)
    with closing(open_profiles(house.settings)) as store:

        def found(number: int) -> tuple[list[bytes], list[bytes]]:
            return store.get(house.cookie(number), 0, FOREVER_MS, KEPT)

        def all_found() -> dict[str, tuple[list[bytes], list[bytes]]]:
            return {house.cookie(number): found(number) for number in range(COOKIES)}

        in_the_middle = 0
        for _ in range(3):
            before = found(0)
            house.send(10_000, topics)
            with house.worker("user_profiles") as worker:
                wait_until_other(lambda: found(0), before)
                worker.process.send_signal(signal.SIGKILL)
                worker.process.wait(30)
            in_the_middle += all_found() != house.profiles()
        assert in_the_middle, "it was killed too late to show anything"
        house.to_the_end("user_profiles")
        expected = house.profiles()
        assert all_found() == expected

    twin = f"sqlite:///{tmp_path / 'twin.sqlite'}"
    house.to_the_end(
        "user_profiles",
        FOOTFALL_HOME=str(tmp_path / "twin"),
        TOPICS_URL=f"file://{house.home / 'topics'}",
        PROFILES_URL=twin,
    )
    with closing(open_profiles(read_settings({"PROFILES_URL": twin}))) as store:
        for cookie, lists in expected.items():
            assert store.get(cookie, 0, FOREVER_MS, KEPT) == lists


def test_aggregates_are_exact_through_kills_of_the_worker(house: House, tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    topics = FileTopics(house.home / "topics")
    topics.create(USER_TAGS.name, PARTITIONS)
    aggregates = AerospikeAggregates(
        AT.host, AT.port, namespace=AT.aggregates, buckets_per_key=WIDTH
    )
    with serving(tmp_path / "clickhouse") as clickhouse, closing(aggregates):
        others = {"CLICKHOUSE_URL": clickhouse.url, "AEROSPIKE_AGGREGATES": "1"}
        house.ask("init", **others)

        def found(action: str = "VIEW") -> list[BucketSum]:
            end = START + timedelta(hours=1)
            return aggregates.get(house.group(action), START - timedelta(minutes=1), end)

        for _ in range(3):
            before = found()
            house.send(6_000, topics)
            with house.worker("minute_buckets", **others) as worker:
                wait_until_other(found, before)
                house.send(1_000, topics)
                worker.process.send_signal(signal.SIGKILL)
                worker.process.wait(30)
        assert found() != house.buckets("VIEW"), "it was killed too late to show anything"
        house.to_the_end("minute_buckets", **others)
        for action in ("VIEW", "BUY"):
            expected = house.buckets(action)
            assert found(action) == expected
            sql = (
                "SELECT toUnixTimestamp(bucket), count, sum_price FROM minute_buckets "
                f"WHERE origin = '{house.run}' AND action = '{action}' ORDER BY 1"
            )
            assert clickhouse.rows(sql) == [
                f"{bucket.bucket.timestamp():.0f}\t{bucket.count}\t{bucket.sum_price}"
                for bucket in expected
            ]
