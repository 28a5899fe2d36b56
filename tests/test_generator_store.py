"""The store_events world: rows as a shop's export has them, the same bytes however it is cut."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.generator.store import SHARES, StoreWorld
from footfall.schemas.store_events import CSV_COLUMNS, StoreEvent
from footfall.schemas.times import parse_time_ms

decode = msgspec.json.Decoder(StoreEvent).decode


def test_an_event_is_one_row_of_the_export() -> None:
    [(key, value)] = StoreWorld(seed=1).batch(0, 1)
    event = json.loads(value)
    assert tuple(event) == CSV_COLUMNS
    assert event["event_time"] == "2019-10-01 00:00:00 UTC"
    assert key == b"%d" % event["user_id"]
    assert b'"price":%.2f,' % event["price"] in value


@given(
    start=st.integers(0, 10**12),
    cuts=st.lists(st.integers(0, 400), min_size=1, max_size=8),
    seed=st.integers(-(2**70), 2**70),
    events_per_s=st.sampled_from([1, 7, 1_000, 1_000_000]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_batches_cut_anywhere_are_the_same_bytes(
    start: int, cuts: list[int], seed: int, events_per_s: int
) -> None:
    world = StoreWorld(seed=seed, events_per_s=events_per_s)
    start %= events_per_s * 86_400 * 365
    whole = world.batch(start, sum(cuts))
    parts, at = [], start
    for count in cuts:
        parts += world.batch(at, count)
        at += count
    assert parts == whole


def test_the_same_seed_gives_the_same_bytes_in_every_process_and_version() -> None:
    digest = hashlib.sha256()
    for key, value in StoreWorld(seed=3).batch(999_000, 2_000):
        digest.update((key or b"") + b"\n" + value + b"\n")
    assert digest.hexdigest() == (
        "b7874eadad41a2566e6a581e65b344bf0362d0f109fa56c4a441eabfea598a5b"
    )
    assert StoreWorld(seed=3).batch(0, 50) != StoreWorld(seed=4).batch(0, 50)


def test_events_are_spread_as_in_a_shop() -> None:
    world = StoreWorld(seed=6, events_per_s=100)
    records = world.batch(0, 60_000)
    events = [decode(value) for _, value in records]
    for index, event in enumerate(events):
        assert parse_time_ms(event.event_time) == world.time_ms(index)
    assert sum(len(value) for _, value in records) / len(records) == pytest.approx(257, abs=6)
    kinds = Counter(event.event_type for event in events)
    for kind, share in SHARES.items():
        assert kinds[kind] / len(events) == pytest.approx(share, rel=0.15)
    assert len({event.product_id for event in events}) > 10_000
    products = {
        event.product_id: (event.brand, event.category_id, event.price) for event in events
    }
    assert all(
        products[event.product_id] == (event.brand, event.category_id, event.price)
        for event in events
    )
    assert any(event.brand is None for event in events)
    assert any(event.category_code is None for event in events)


def test_a_session_is_of_one_user_and_lasts_five_minutes_at_most() -> None:
    world = StoreWorld(seed=6, events_per_s=100)
    seconds: dict[str, list[int]] = defaultdict(list)
    users: dict[str, set[int]] = defaultdict(set)
    for index, (_, value) in enumerate(world.batch(0, 60_000)):
        event = decode(value)
        assert event.user_session is not None
        seconds[event.user_session].append(index // 100)
        users[event.user_session].add(event.user_id)
    assert max(map(len, users.values())) == 1
    assert max(max(times) - min(times) for times in seconds.values()) < 300
    assert sum(map(len, seconds.values())) / len(seconds) == pytest.approx(4, abs=1.5)


def test_rows_are_due_by_the_second() -> None:
    world = StoreWorld(seed=1, events_per_s=10)
    start_ms = world.time_ms(0)
    assert world.index_after(start_ms - 1) == 0
    assert world.index_after(start_ms) == 10
    assert world.index_after(start_ms + 999) == 10
    assert world.index_after(start_ms + 1000) == 20


@pytest.mark.parametrize("events_per_s", [0, -1, 1_000_001])
def test_a_world_that_cannot_be_is_refused(events_per_s: int) -> None:
    with pytest.raises(ValueError, match="events a second takes 1 to 1,000,000"):
        StoreWorld(events_per_s=events_per_s)
