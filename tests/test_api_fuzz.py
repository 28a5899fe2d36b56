"""Whatever comes to the api is stored or refused by name, and never an error of the server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from footfall.api.records import INCOMING
from footfall.schemas.times import parse_time_ms
from tests.api_support import Client, Reply, Shop, serving
from tests.fuzz_support import EXAMPLES, every_value, some_values

SEED = int(os.environ.get("FOOTFALL_FUZZ_SEED", "9"))
COUNT = int(os.environ.get("FOOTFALL_FUZZ_COUNT", "300"))
"""Records of each topic with several odd values, beside those with each value at each field."""

NAMED = re.compile(r"(record 0: )?(body|[a-zA-Z_][\w.\[\]]*): \S")
TYPES = {topic: incoming.decoder for topic, incoming in INCOMING.items()}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Shop, Client]]:
    shop = Shop()
    with serving(shop) as client:
        yield shop, client


def check(topic: str, record: bytes, reply: Reply, shop: Shop) -> None:
    stored = [value for _, value in shop.topics.records.pop(topic, ())]
    said = f"{record[:300]!r}: {reply.status} {reply.body[:300]!r}"
    if reply.status == 200:
        assert stored == [record], said
        # What was taken in can be read again, as flows do.
        value = TYPES[topic].decode(record)
        time = getattr(getattr(value, "commonData", value), TIME_FIELDS[topic])
        assert parse_time_ms(time) > 0, said
        return
    assert reply.status in (400, 413), said
    assert stored == [], said
    assert NAMED.match(reply.error), said
    assert len(reply.error) < 1000, said
    assert "Traceback" not in reply.error, said


TIME_FIELDS = {
    "user_tags": "time",
    "store_events": "event_time",
    "platform_logs": "time",
    "shop_events": "timestamp",
    "visits": "time",
    "activities": "time",
}


def test_every_topic_that_clients_may_write_is_tried() -> None:
    assert EXAMPLES.keys() == INCOMING.keys() == TIME_FIELDS.keys()


@pytest.mark.parametrize("topic", INCOMING)
def test_every_value_at_every_field_is_stored_or_refused_by_name(
    topic: str, served: tuple[Shop, Client]
) -> None:
    shop, client = served
    statuses = {}
    for path, name, record in every_value(topic):
        reply = client.post(f"/events/{topic}", record)
        check(topic, record, reply, shop)
        statuses[path, name] = reply.status
    assert set(statuses.values()) >= {200, 400}
    assert all(statuses[("unknown",), name] == 200 for name in ("null", "2^64", "emoji", "{}"))


@pytest.mark.parametrize("topic", INCOMING)
def test_several_at_once(topic: str, served: tuple[Shop, Client]) -> None:
    shop, client = served
    for record in some_values(topic, SEED, COUNT):
        check(topic, record, client.post(f"/events/{topic}", record), shop)
