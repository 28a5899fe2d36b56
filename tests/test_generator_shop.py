"""The simulated shop: the same bytes however it is cut, with the disorder that was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.generator.drive import push
from footfall.generator.progress import ProgressFile
from footfall.generator.shop_records import (
    A_LITTLE_OFF,
    AHEAD,
    BEHIND,
    LATE_AFTER_RECORDS,
    PARTITIONS,
    TOPICS,
    Disturbances,
)
from footfall.generator.shop_spoil import _SPOILERS, spoiled
from footfall.generator.shop_world import ShopStream, ShopWorld, user_of
from footfall.generator.sources import Source
from footfall.schemas.platform_logs import ACTIONS
from footfall.schemas.shop_events import KINDS
from footfall.schemas.times import parse_time_ms
from footfall.schemas.topic_files import partition_of
from tests.generator_support import CrashError, MemoryTopics
from tests.shop_recount import Records, read

MIXED = Disturbances(
    out_of_order=0.3,
    late=0.02,
    malformed=0.02,
    clocks_a_little_off=0.2,
    clocks_far_off=0.1,
    # In worlds as small as these every clock is believed at once.
    late_after_records=0,
)
TIME = re.compile(rb'"(?:time|timestamp|event_time)":"([^"]+)"')
DIGEST = "d11648f372097312f0faca059de0595554df68103dfc880f1e2018a9e92ca825"


def records_of(world: ShopWorld, cuts: list[int] | None = None) -> Records:
    """Return all records of a world, by topic, taken in batches of these sizes again and again."""
    stream = world.open(0)
    found: Records = {topic: [] for topic in TOPICS}
    rows = turns = 0
    sizes = cuts or [5_000]
    while not stream.at_end:
        batch = stream.take(sizes[turns % len(sizes)])
        turns += 1
        assert batch.rows == sum(len(records) for _, records in batch.writes)
        rows += batch.rows
        for topic, records in batch.writes:
            found[topic] += [(key or b"", value) for key, value in records]
    assert rows == world.total
    return found


def digest_of(records: Records) -> str:
    digest = hashlib.sha256()
    for topic in TOPICS:
        for key, value in records[topic]:
            digest.update(key + b"\n" + value + b"\n")
    return digest.hexdigest()


@given(seed=st.integers(-(2**70), 2**70), cuts=st.lists(st.integers(1, 700), min_size=1))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_batches_cut_anywhere_are_the_same_bytes(seed: int, cuts: list[int]) -> None:
    world = ShopWorld(seed=seed, total=3_000, disturbances=MIXED, records_per_s=20)
    assert records_of(world, cuts) == records_of(world)


@given(row=st.integers(0, 4_000))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_world_that_is_entered_later_goes_on_as_it_would_have(row: int) -> None:
    world = ShopWorld(seed=5, total=4_000, disturbances=MIXED, records_per_s=20)
    rest = world.open(row).take(10_000)
    before = world.open(0).take(row)
    whole = records_of(world)
    for topic in TOPICS:
        first = dict(before.writes).get(topic, [])
        assert first + dict(rest.writes).get(topic, []) == whole[topic]


def test_the_same_seed_gives_the_same_bytes_in_every_process_and_version() -> None:
    # A digest of the bytes: progress files and published figures rely on them.
    code = (
        "from tests.test_generator_shop import *; "
        "print(digest_of(records_of(ShopWorld(3, 4_000, MIXED, records_per_s=50))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    }
    assert found == {DIGEST}
    assert records_of(ShopWorld(1, 500)) != records_of(ShopWorld(2, 500))
    assert records_of(ShopWorld(-1, 500)) != records_of(ShopWorld(1, 500))


def test_all_actions_kinds_and_outcomes_appear() -> None:
    records = records_of(ShopWorld(seed=1, total=60_000, records_per_s=100, odd_shapes=0.3))
    logs = [json.loads(value) for _, value in records["platform_logs"]]
    known = {action for actions in ACTIONS.values() for action in actions}
    found = {log["action"] for log in logs}
    assert known <= found and len(found - known) == 1, "one that nobody knows"
    events = Counter(json.loads(value)["event"] for _, value in records["shop_events"])
    assert events.keys() == set(KINDS)
    kinds = Counter(json.loads(value)["event_type"] for _, value in records["store_events"])
    assert kinds.keys() == {"view", "cart", "remove_from_cart", "purchase"}
    tags = Counter(json.loads(value)["action"] for _, value in records["user_tags"])
    assert tags["VIEW"] == kinds["view"] == events["PageVisit"]
    assert tags["BUY"] == kinds["purchase"]
    statuses = {(log["action"], log["data"]["status"]) for log in logs if "status" in log["data"]}
    assert {status for action, status in statuses if action == "PaymentProviderRep"} == {
        "Ok", "Declined", "Timeout", "Overloaded", "Error",
    }  # fmt: skip
    assert {status for action, status in statuses if action == "LoginRep"} == {"Valid", "Invalid"}
    for field in ("userId", "requestId"):
        shapes = {type(log["commonData"][field]) for log in logs}
        assert shapes == {int, str, dict}
    assert any(log["data"].get("error") for log in logs)
    ends = {log["commonData"]["time"][19:].lstrip("0123456789.") for log in logs}
    assert ends == {"Z", "", "+01:00"}


def test_a_share_is_of_all_records_and_disorder_is_bounded() -> None:
    for share in (0.0, 0.1, 0.5):
        disturbances = Disturbances(out_of_order=share, clocks_a_little_off=share / 2)
        world = ShopWorld(seed=4, total=30_000, disturbances=disturbances, records_per_s=200)
        records = records_of(world)
        behind = []
        for topic in TOPICS:
            found = read(topic, records[topic], disturbances.disorder_ms)
            assert found.counts == {"records": len(records[topic]), "late": 0}
            behind += found.behind_ms
        assert max(behind) < disturbances.disorder_ms
        if share:
            moved = sum(ms > 0 for ms in behind) / len(behind)
            # With clocks that are off, records of others are behind as well.
            assert moved > 0.7 * share
            assert max(behind) > disturbances.disorder_ms / 2
        else:
            assert max(behind) <= 0


def test_late_and_malformed_records_and_wrong_clocks_are_as_many_as_asked_for() -> None:
    disturbances = Disturbances(0.2, 0.03, 0.02, clocks_a_little_off=0.2, clocks_far_off=0.1)
    world = ShopWorld(seed=8, disturbances=disturbances)
    clocks = Counter(user_of(world, number).clock for number in range(10_000))
    for clock, share in ((A_LITTLE_OFF, 0.2), (BEHIND, 0.075), (AHEAD, 0.025)):
        assert clocks[clock] / 10_000 == pytest.approx(share, rel=0.15)
    for wrong in (0.0, 0.1):
        disturbances = Disturbances(0.2, 0.03, 0.02, clocks_far_off=wrong, late_after_records=0)
        world = ShopWorld(seed=8, total=40_000, disturbances=disturbances, records_per_s=100)
        records = records_of(world)
        counts: Counter[str] = Counter()
        for topic in TOPICS:
            counts += read(topic, records[topic], disturbances.disorder_ms).counts
        assert counts["malformed"] / 40_000 == pytest.approx(0.02, rel=0.15)
        if wrong:
            assert counts["future"] > 400 and counts["late"] > 40_000 * 0.06
        else:
            # In the first minute nothing is late: there is nothing for it to be late behind.
            assert counts["future"] == 0
            assert counts["late"] / 40_000 == pytest.approx(0.03, rel=0.2)


def test_a_record_is_late_only_behind_as_many_as_the_flows_look_at() -> None:
    disturbances = Disturbances(late=0.5)
    world = ShopWorld(seed=8, total=20_000, disturbances=disturbances, records_per_s=100)
    for topic, records in records_of(world).items():
        by_partition: dict[int, list[int]] = defaultdict(list)
        for key, value in records:
            found = TIME.search(value)
            assert found is not None
            time_ms = parse_time_ms(found[1].decode())
            by_partition[partition_of(key, PARTITIONS)].append(time_ms)
        for times in by_partition.values():
            right = [time_ms >= world.start_ms for time_ms in times]
            late = [place for place, is_right in enumerate(right) if not is_right]
            assert all(sum(right[:place]) > LATE_AFTER_RECORDS for place in late)
            if topic == "platform_logs":
                assert late


def test_every_way_to_break_a_record_breaks_it() -> None:
    records = records_of(ShopWorld(seed=2, total=4_000, odd_shapes=0.5))
    random = Random(7)
    for number, topic in enumerate(TOPICS):
        values = [value for _, value in records[topic]]
        broken = [
            (b"k", spoil(number, random.choice(values), random.getrandbits(32)))
            for spoil in _SPOILERS
            for _ in range(150)
        ]
        broken += [(b"k", spoiled(number, values[0], lambda: 0.0))]
        found = read(topic, broken, 5_000)
        assert found.counts == {"records": len(broken), "malformed": len(broken)}, topic


def test_records_of_one_user_are_keyed_alike_and_stand_in_a_request_of_his() -> None:
    records = records_of(ShopWorld(seed=6, total=10_000, odd_shapes=0.5))
    users: dict[bytes, set[str]] = defaultdict(set)
    owner: dict[str, bytes] = {}
    for key, value in records["platform_logs"]:
        common = json.loads(value)["commonData"]
        user, request = common["userId"], json.dumps(common["requestId"])
        users[key].add(str(user["userId"] if isinstance(user, dict) else user))
        assert owner.setdefault(request, key) == key
    assert all(found == {key.decode()} for key, found in users.items())
    for topic, field in (("shop_events", "user_id"), ("store_events", "user_id")):
        for key, value in records[topic]:
            assert str(json.loads(value)[field]).encode() == key
    for key, value in records["user_tags"]:
        assert json.loads(value)["cookie"].encode() == key


def test_what_is_kept_does_not_grow_with_the_stream() -> None:
    """Two hours of event time: users that are away come back, and those who left are forgotten."""
    stream = ShopStream(ShopWorld(seed=2, records_per_s=25, disturbances=MIXED))
    held = []
    for _ in range(36):
        stream.take(5_000)
        held.append(stream.held)
    assert max(held[18:]) < 1.3 * max(held[6:18]), held


def test_a_push_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    world: Source = ShopWorld(seed=3, total=3_000, disturbances=MIXED, records_per_s=50)
    whole = MemoryTopics()
    push(world, whole)
    topics = MemoryTopics(random=Random(1))
    for crash_after in (1, 700, 1_000, None):
        topics.crash_after = crash_after
        progress = ProgressFile(tmp_path / "p.json", topics.view, window_rows=500)
        try:
            result = push(world, topics, progress=progress)
        except CrashError:
            continue
        assert result.finished
    assert topics.ours() == whole.ours()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records_per_s": 0}, "records a second takes 1 to 100,000"),
        ({"users": 0}, "users takes 1 to"),
        ({"total": 0}, "total takes 1 or more"),
        ({"odd_shapes": 2}, "odd shapes takes 0 to 1"),
        ({"start_ms": 0}, "opens between 1971 and 2085, not at 1970"),
    ],
)
def test_a_world_that_cannot_be_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShopWorld(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"0\.9 at most together"):
        Disturbances(out_of_order=0.95)
    with pytest.raises(ValueError, match="the disorder takes 3,000 to 60,000 ms, not 5"):
        Disturbances(disorder_ms=5)


def test_a_shop_may_open_at_any_moment() -> None:
    records = records_of(ShopWorld(total=500, start_ms=1_000_000_000_000))
    for _, value in records["shop_events"]:
        assert msgspec.json.decode(value)["timestamp"].startswith("2001-09-09T01:4")
