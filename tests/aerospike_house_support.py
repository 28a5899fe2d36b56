"""A home whose worker writes tags to an Aerospike server, and its rows counted by hand."""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aerospike
import msgspec
from aerospike import exception

from footfall.schemas.profiles import SET_NAME
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.times import iso_ms
from footfall.schemas.topics import USER_TAGS
from footfall.sinks.aerospike_aggregates import SET_NAME as AGGREGATES_SET
from footfall.sinks.aerospike_aggregates import BucketSum, Group, record_key
from footfall.sinks.profiles import ProfileStore
from footfall.sinks.topic_files import FileTopics
from tests.aerospike_support import Server
from tests.cli_support import Running, footfall, running
from tests.faulty_flow import WRONG_ORIGIN

START = datetime(2022, 3, 22, 12, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
COOKIES, KEPT, PARTITIONS = 40, 50, 4
FOREVER_MS = 2**62
WIDTH = 30
WITHIN_S = 60.0

Profiles = dict[str, tuple[list[bytes], list[bytes]]]
"""(views, buys) by cookie."""


@dataclass
class House:
    """A home whose topic is filled by the test; names of its own, for the server is shared."""

    home: Path
    at: Server
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    sent: list[dict[str, Any]] = field(default_factory=list)
    topics: FileTopics = field(init=False)

    def __post_init__(self) -> None:
        self.topics = FileTopics(self.home / "topics")
        self.topics.create(USER_TAGS.name, PARTITIONS)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PROFILES_URL": f"aerospike://{self.at.host}:{self.at.port}",
            "AEROSPIKE_PROFILES_NAMESPACE": self.at.profiles,
            "AEROSPIKE_AGGREGATES_NAMESPACE": self.at.aggregates,
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

    def send(self, number: int) -> None:
        """Send so many more tags, 10 ms apart, of all cookies in turn and out of order."""
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
        self.topics.write(
            USER_TAGS.name,
            [(tag["cookie"].encode(), msgspec.json.encode(tag)) for tag in self.sent[first:]],
        )

    def found(self, store: ProfileStore) -> Profiles:
        """Return the profiles in a store."""
        cookies = [self.cookie(number) for number in range(COOKIES)]
        return {cookie: store.get(cookie, 0, FOREVER_MS, KEPT) for cookie in cookies}

    def profiles(self) -> Profiles:
        """Return the right profiles, counted by hand."""
        kinds: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for tag in self.sent:
            kinds[tag["cookie"]][tag["action"]].append(tag)

        def newest(tags: list[dict[str, Any]]) -> list[bytes]:
            last = sorted(tags, key=lambda tag: str(tag["time"]), reverse=True)[:KEPT]
            return [msgspec.json.encode(tag) for tag in last]

        return {c: (newest(kind["VIEW"]), newest(kind["BUY"])) for c, kind in kinds.items()}

    def buckets(self, action: str) -> list[BucketSum]:
        """Return the right sums, counted by hand."""
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
        """Remove what it wrote from the server."""
        minutes = round(START.timestamp()) // 60
        right = [self.group(action) for action in ("VIEW", "BUY")]
        groups = right + [group._replace(origin=WRONG_ORIGIN) for group in right]
        starts = range(minutes - minutes % WIDTH - WIDTH, minutes + 120, WIDTH)
        keys = [(self.at.profiles, SET_NAME, self.cookie(n)) for n in range(COOKIES)] + [
            (self.at.aggregates, AGGREGATES_SET, record_key(group, start, WIDTH))
            for group in groups
            for start in starts
        ]
        with closing(aerospike.client({"hosts": [(self.at.host, self.at.port)]})) as client:
            for key in keys:
                with suppress(exception.RecordNotFound):
                    client.remove(key)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until_s, f"never {what}"
        time.sleep(0.02)
