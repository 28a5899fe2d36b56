"""The promises of the sinks on an Aerospike server; a dictionary and a server both run them.

The modules that run them give a fixture ``place``. Each promise holds at
every commit level and policy of generations.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aerospike
import polars as pl
import pytest
from aerospike_helpers.batch.records import BatchRecords, Write
from aerospike_helpers.operations import map_operations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.schemas.versions import FINAL, PROVISIONAL, version_of
from footfall.sinks import SinkRefusedError
from footfall.sinks.aerospike_aggregates import AerospikeAggregates, BucketSum, Group
from tests.aerospike_support import GENERATION, OK, POLICIES, Interposed, Place, no_answer
from tests.profile_store_contract import (
    FOREVER,
    KEEP,
    OpenStore,
    ProfileStoreContract,
    Tag,
    frame,
    names,
    tag,
)

NOON = datetime(2022, 3, 22, 12, tzinfo=UTC)
GROUP = Group("VIEW", "phone", "brand", "shoes")
WIDTHS = (1, 30, 60)
SCHEMA = {
    "bucket": pl.Datetime("ms", "UTC"),
    "action": pl.String(),
    "origin": pl.String(),
    "brand_id": pl.String(),
    "category_id": pl.String(),
    "topic": pl.String(),
    "topic_partition": pl.UInt16(),
    "count": pl.UInt64(),
    "sum_price": pl.Int64(),
    "version": pl.UInt64(),
}
Row = tuple[Any, ...]
Identity = tuple[Any, ...]


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def row(
    minute: int = 0,
    *,
    group: Group = GROUP,
    topic: str = "tags",
    partition: int = 0,
    count: int = 1,
    sum_price: int = 10,
    version: int = 1,
) -> Row:
    return (at(minute), *group, topic, partition, count, sum_price, version)


def rows_frame(rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def newest(rows: Sequence[Row]) -> dict[Identity, tuple[int, int, int]]:
    """Return (version, count, sum_price) of each row; of equal versions the last."""
    best: dict[Identity, tuple[int, int, int]] = {}
    for *identity, count, sum_price, version in rows:
        key = tuple(identity)
        if key not in best or version >= best[key][0]:
            best[key] = (version, count, sum_price)
    return best


def sums(rows: Sequence[Row], group: Group) -> list[BucketSum]:
    """Return what a reader must find of a group."""
    counts: Counter[datetime] = Counter()
    prices: Counter[datetime] = Counter()
    for (bucket, *texts, _, _), (_, count, sum_price) in newest(rows).items():
        if Group(*texts) == group:
            counts[bucket] += count
            prices[bucket] += sum_price
    # A minute in which nothing counts has no bucket.
    return [BucketSum(bucket, counts[bucket], prices[bucket]) for bucket in sorted(+counts)]


def at_first_write(
    place: Place,
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> tuple[Any, list[int]]:
    """Return a ``connect`` whose first write has calls before and after it, and all attempts."""
    attempts: list[int] = []

    def before_write() -> None:
        attempts.append(len(attempts) + 1)
        if len(attempts) == 1:
            before()

    def after_write() -> None:
        if len(attempts) == 1:
            after()

    return lambda config: Interposed(place.connect(config), before_write, after_write), attempts


class Policies:
    """Each test runs with each."""

    @pytest.fixture(params=POLICIES, ids="-".join)
    def policies(self, request: pytest.FixtureRequest) -> dict[str, str]:
        return dict(zip(("commit_level", "generation_policy"), request.param, strict=True))


class GenerationsContract:
    """The answers of a server to a write that expects a generation."""

    def test_a_record_that_is_not_there_has_generation_0(self, place: Place) -> None:
        namespace = place.namespaces[0]
        client = place.connect({"hosts": [(place.host, place.port)]})
        name = place.new_set(namespace)

        def result(key: str, policy: int, generation: int) -> int:
            put = map_operations.map_put_items(
                "tags_v", {b"k": b"v"}, map_policy={"map_order": aerospike.MAP_KEY_ORDERED}
            )
            write = Write(
                (namespace, name, key),
                [put],
                meta={"gen": generation},
                policy={"gen": policy},
            )
            client.batch_write(BatchRecords([write]))
            return int(write.result)

        equal, greater = aerospike.POLICY_GEN_EQ, aerospike.POLICY_GEN_GT
        assert result("a", equal, 5) == result("a", greater, 0) == GENERATION
        assert result("a", equal, 0) == result("b", greater, 1) == OK
        assert result("a", equal, 0) == result("a", greater, 1) == GENERATION
        assert result("a", equal, 1) == result("b", greater, 7) == OK
        client.close()


class AerospikeProfilesContract(Policies, ProfileStoreContract):
    """The promises of every store, and those of a server alone."""

    @pytest.fixture
    def open_store(self, place: Place, policies: dict[str, str]) -> OpenStore:
        return lambda keep: place.profiles(keep, **policies)

    def test_a_put_of_many_cookies_writes_each(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(n, cookie=f"c{n}") for n in range(1_201)]))
        for n in (0, 499, 500, 999, 1_000, 1_200):
            assert store.get(f"c{n}", 0, FOREVER, 9) == (names(n), [])

    def test_of_a_put_with_a_record_that_is_too_big_the_others_are_written(
        self, open_store: OpenStore
    ) -> None:
        store = open_store(200)
        store.put(frame([tag(0, cookie="big")]))
        big: list[Tag] = [
            ("big", "VIEW", n, "tags", 0, n, bytes([n]) * 100_000) for n in range(1, 12)
        ]
        fitting = [tag(n, cookie=f"c{n}") for n in range(20)]
        with pytest.raises(SinkRefusedError, match=r"'big'.*lower NUM_TAGS_TO_KEEP") as caught:
            store.put(frame([*big, *fitting]))
        assert "\n" not in str(caught.value)
        assert "more" not in str(caught.value)
        for n in range(20):
            assert store.get(f"c{n}", 0, FOREVER, 9) == (names(n), [])
        # Its own was all or nothing.
        assert store.get("big", 0, FOREVER, 99) == (names(0), [])
        store.put(frame(big[:8]))
        assert len(store.get("big", 0, FOREVER, 99)[0]) == 9

    def test_all_that_is_refused_is_counted(self, open_store: OpenStore) -> None:
        store = open_store(200)
        big: list[Tag] = [
            (f"c{cookie}", "VIEW", n, "tags", 0, n, b"x" * 300_000)
            for cookie in range(3)
            for n in range(4)
        ]
        with pytest.raises(SinkRefusedError, match=r"'c0'.*; 2 more cookies are refused"):
            store.put(frame(big))

    def test_a_bin_of_another_kind_is_told(
        self, place: Place, open_store: OpenStore, policies: dict[str, str]
    ) -> None:
        namespace = place.namespaces[0]
        name = place.new_set(namespace)
        place.put(namespace, name, "c1", {"tags_v": 7})
        store = place.profiles(KEEP, set_name=name, **policies)
        with pytest.raises(SinkRefusedError, match=r"'c1': .*another kind.*code 12"):
            store.put(frame([tag(1), tag(2, cookie="c2")]))
        assert store.get("c2", 0, FOREVER, 9) == (names(2), [])

    def test_a_record_that_another_wrote_in_between_is_written_again(
        self, place: Place, policies: dict[str, str]
    ) -> None:
        name = place.new_set(place.namespaces[0])
        other = place.profiles(KEEP, set_name=name, **policies)
        other.put(frame([tag(0)]))
        connect, attempts = at_first_write(place, before=lambda: other.put(frame([tag(1)])))
        store = place.profiles(KEEP, set_name=name, connect=connect, **policies)
        store.put(frame([tag(2), tag(3, cookie="c2")]))
        # Without generations nothing is in the way of a write that adds.
        assert attempts == ([1] if policies["generation_policy"] == "NONE" else [1, 2])
        assert store.get("c1", 0, FOREVER, 9) == (names(2, 1, 0), [])
        assert store.get("c2", 0, FOREVER, 9) == (names(3), [])

    def test_a_write_whose_answer_was_lost_is_made_again_and_counts_once(
        self, place: Place, policies: dict[str, str]
    ) -> None:
        connect, attempts = at_first_write(place, after=no_answer)
        store = place.profiles(2, connect=connect, **policies)
        store.put(frame([tag(1), tag(2), tag(3), tag(4, cookie="c2", action="BUY")]))
        assert attempts == [1, 2]
        assert store.get("c1", 0, FOREVER, 9) == (names(3, 2), [])
        assert store.get("c2", 0, FOREVER, 9) == ([], names(4))


# Equal versions of a row are equal rows.
versioned_rows = st.lists(
    st.builds(
        lambda minute, partition, version: row(
            minute,
            partition=partition,
            count=version * 7 % 11,
            sum_price=version - 3,
            version=version,
        ),
        st.integers(0, 3) | st.integers(29, 31) | st.integers(59, 61),
        st.integers(0, 2),
        st.integers(0, 6),
    ),
    max_size=30,
)


class AggregatesContract(Policies):
    """Each promise holds for every number of buckets in a record."""

    @pytest.fixture(params=WIDTHS)
    def width(self, request: pytest.FixtureRequest) -> int:
        width = request.param
        assert isinstance(width, int)
        return width

    @pytest.fixture
    def aggregates(
        self, place: Place, width: int, policies: dict[str, str]
    ) -> AerospikeAggregates:
        return place.aggregates(width, **policies)

    def test_sums_are_read_back(self, aggregates: AerospikeAggregates) -> None:
        groups = [GROUP, Group("BUY", "a|b", "", "\0ą")]
        rows = [
            row(minute, group=group, partition=partition, sum_price=minute - 50)
            for minute in range(0, 130, 3)
            for group in groups
            for partition in range(10)
        ]
        for _ in range(2):
            aggregates.write([rows_frame(rows)])
            for group in groups:
                assert aggregates.get(group, at(0), at(130)) == sums(rows, group)
        newer = row(3, partition=4, count=7, sum_price=-8, version=2**62)
        aggregates.write([rows_frame([newer, row(3, partition=4, count=5, version=2)])])
        assert aggregates.get(GROUP, at(0), at(130)) == sums([*rows, newer], GROUP)
        assert aggregates.get(GROUP, at(20), at(25)) == sums(rows, GROUP)[7:9]
        assert aggregates.get(GROUP, at(200), at(300)) == []

    def test_a_late_write_of_older_rows_changes_none_that_is_newer(
        self, aggregates: AerospikeAggregates
    ) -> None:
        old = [row(minute, partition=p, version=4) for minute in range(3) for p in (0, 1)]
        new = [row(0, partition=1, count=5, version=8), row(2, partition=0, count=6, version=9)]
        aggregates.write([rows_frame(new)])
        aggregates.write([rows_frame(old)])
        # In one record and one minute some are older, some newer, some not there.
        assert [bucket.count for bucket in aggregates.get(GROUP, at(0), at(9))] == [6, 2, 7]

    def test_a_correction_with_lower_counts_stays(self, aggregates: AerospikeAggregates) -> None:
        def write(generation: int, count: int, phase: int) -> None:
            version = version_of(generation, count, phase)
            aggregates.write([rows_frame([row(count=count, version=version)])])

        for generation, count, phase in [
            (0, 900, PROVISIONAL), (0, 1_000, FINAL), (1, 10, FINAL), (0, 1_001, FINAL),
        ]:  # fmt: skip
            write(generation, count, phase)
        assert aggregates.get(GROUP, at(0), at(1)) == [BucketSum(at(0), 10, 10)]

    @settings(
        deadline=None,
        max_examples=25,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(versioned_rows, st.data())
    def test_any_writes_in_any_order_leave_the_highest_version(
        self,
        place: Place,
        width: int,
        policies: dict[str, str],
        rows: list[Row],
        data: st.DataObject,
    ) -> None:
        group = GROUP._replace(origin=f"origin {next(place.numbers)}")
        mine = [(one[0], *group, *one[5:]) for one in rows]
        aggregates = place.shared_aggregates(width, **policies)
        left = data.draw(st.permutations(mine + mine[:5]))
        while left:
            cut = data.draw(st.integers(1, len(left)))
            aggregates.write([rows_frame(left[:cut])])
            left = left[cut:]
        assert aggregates.get(group, at(0), at(90)) == sums(mine, group)

    def test_a_writer_and_its_zombie_at_once(
        self, place: Place, width: int, policies: dict[str, str]
    ) -> None:
        name = place.new_set(place.namespaces[1])
        writers = [place.aggregates(width, set_name=name, **policies) for _ in range(2)]
        errors: list[Exception] = []

        def write(writer: AerospikeAggregates, first: int) -> None:
            try:
                for version in range(first, first + 20):
                    writer.write(
                        [rows_frame([row(m, count=version, version=version) for m in range(70)])]
                    )
            except Exception as error:
                errors.append(error)

        threads = [
            threading.Thread(target=write, args=(writer, first))
            for writer, first in zip(writers, (100, 90), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        found = writers[0].get(GROUP, at(0), at(70))
        assert [bucket.count for bucket in found] == [119] * 70

    def test_many_rows_of_a_record_are_all_written(self, aggregates: AerospikeAggregates) -> None:
        rows = [row(m, partition=p, count=p) for m in range(60) for p in range(80)]
        aggregates.write([rows_frame(rows)])
        assert aggregates.get(GROUP, at(0), at(60)) == sums(rows, GROUP)


class OneWidthContract(Policies):
    """The promises of aggregates that do not depend on the number of buckets per record."""

    def test_a_record_that_is_too_big_is_refused_with_what_to_do(self, place: Place) -> None:
        aggregates = place.aggregates(60)
        huge = 2**62
        rows = [
            row(m, partition=p, count=huge, sum_price=huge, version=huge)
            for m in range(60)
            for p in range(600)
        ]
        other = row(0, group=GROUP._replace(origin="small"))
        with pytest.raises(SinkRefusedError, match=r"phone.*lower AEROSPIKE_BUCKETS_PER_KEY"):
            aggregates.write([rows_frame([*rows, other])])
        assert len(aggregates.get(GROUP._replace(origin="small"), at(0), at(1))) == 1

    def test_both_sinks_may_share_a_namespace(
        self, place: Place, policies: dict[str, str]
    ) -> None:
        one = place.namespaces[0]
        store = place.profiles(KEEP, **policies)
        aggregates = place.aggregates(30, namespace=one, **policies)
        store.put(frame([tag(1)]))
        aggregates.write([rows_frame([row()])])
        assert store.get("c1", 0, FOREVER, 9) == (names(1), [])
        assert aggregates.get(GROUP, at(0), at(1)) == [BucketSum(at(0), 1, 10)]

    def test_a_record_that_another_wrote_in_between_is_written_again(
        self, place: Place, policies: dict[str, str]
    ) -> None:
        name = place.new_set(place.namespaces[1])
        other = place.aggregates(60, set_name=name, **policies)
        other.write([rows_frame([row(0, partition=1)])])
        connect, attempts = at_first_write(
            place, before=lambda: other.write([rows_frame([row(0, partition=2)])])
        )
        aggregates = place.aggregates(60, set_name=name, connect=connect, **policies)
        aggregates.write([rows_frame([row(0, partition=3), row(60)])])
        assert attempts == ([1] if policies["generation_policy"] == "NONE" else [1, 2])
        found = aggregates.get(GROUP, at(0), at(61))
        assert [bucket.count for bucket in found] == [3, 1]

    def test_a_write_whose_answer_was_lost_is_made_again_and_counts_once(
        self, place: Place, policies: dict[str, str]
    ) -> None:
        connect, attempts = at_first_write(place, after=no_answer)
        aggregates = place.aggregates(60, connect=connect, **policies)
        aggregates.write([rows_frame([row(0), row(0, partition=1), row(60)])])
        assert attempts == [1, 2]
        found = aggregates.get(GROUP, at(0), at(61))
        assert [bucket.count for bucket in found] == [2, 1]
