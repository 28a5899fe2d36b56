"""Minute buckets in Aerospike: rows in, records of bins out, and sums read back."""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aerospike
import polars as pl
import pytest
from aerospike_helpers.batch.records import BatchRecords
from hypothesis import given
from hypothesis import strategies as st

from flows import minute_buckets as flow
from flows._wiring import TeeWriter, minute_buckets
from schemas.settings import read_settings
from schemas.times import iso_ms
from sinks import SinkRefusedError, SinkUnavailableError
from sinks._clickhouse_rows import RowsError
from sinks.aerospike_aggregates import (
    AerospikeAggregates,
    BucketSum,
    Group,
    bin_name,
    by_span,
    fitted,
    operations,
    read_sums,
    record_key,
)
from streams.progress import Progress
from streams.testing import run_flow

NO_AEROSPIKE = "AEROSPIKE_HOSTNAME is not set: no Aerospike server to test against"
NOON = datetime(2022, 3, 22, 12, tzinfo=UTC)
GROUP = Group("VIEW", "phone", "brand", "shoes")
WIDTHS = (1, 30, 60)

SCHEMA = {
    "bucket": pl.Datetime("ms", "UTC"),
    "action": pl.String(),
    "origin": pl.String(),
    "brand_id": pl.String(),
    "category_id": pl.String(),
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
    partition: int = 0,
    count: int = 1,
    sum_price: int = 10,
    version: int = 1,
) -> Row:
    return (at(minute), *group, partition, count, sum_price, version)


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


class Model:
    """A client whose server is a dictionary; it knows the one operation that buckets need."""

    def __init__(self) -> None:
        self.records: dict[Any, dict[str, dict[int, Any]]] = {}
        self.generations: Counter[Any] = Counter()
        self.results: list[int] = []
        """Of the next records to be written; all are written when it is empty."""
        self.sizes: list[int] = []
        """Records in each call."""

    def batch_write(self, batch: BatchRecords) -> None:
        keys = [record.key for record in batch.batch_records]
        assert len(set(keys)) == len(keys), "a record is asked once"
        self.sizes.append(len(keys))
        for record in batch.batch_records:
            record.result = self.results.pop(0) if self.results else 0
            expected = record.meta["gen"] if record.meta else None
            if record.result == 0 and expected not in (None, self.generations[record.key]):
                record.result = 3
            if record.result == 0:
                self.generations[record.key] += 1
                apply(record.ops, self.records.setdefault(record.key, {}))

    def batch_read(self, keys: list[Any], bins: list[str] | None = None) -> BatchRecords:
        from aerospike_helpers.batch.records import Read

        found = BatchRecords([Read(key, ops=None) for key in keys])
        for record in found.batch_records:
            record.result = 0 if record.key in self.records else 2
            if record.result == 0:
                read = self.records[record.key] if bins is None else {}
                record.record = (record.key, {"gen": self.generations[record.key]}, read)
        return found

    def close(self) -> None:
        self.records = {}


def apply(asked: list[dict[str, Any]], bins: dict[str, dict[int, Any]]) -> None:
    for operation in asked:
        assert operation["op"] == aerospike.OP_MAP_PUT_ITEMS
        assert operation["map_policy"] == {"map_order": aerospike.MAP_KEY_ORDERED}
        assert len(operation["bin"]) <= 15
        bins.setdefault(operation["bin"], {}).update(operation["val"])


def writer(model: Model, width: int = 60, **others: Any) -> AerospikeAggregates:
    return AerospikeAggregates(
        "model",
        3000,
        namespace="aggregates",
        buckets_per_key=width,
        connect=lambda config: model,
        **others,
    )


def newest(rows: Sequence[Row]) -> dict[Identity, tuple[int, int, int]]:
    """(version, count, sum_price) of each row; of equal versions the last."""
    best: dict[Identity, tuple[int, int, int]] = {}
    for *identity, count, sum_price, version in rows:
        key = tuple(identity)
        if key not in best or version >= best[key][0]:
            best[key] = (version, count, sum_price)
    return best


def sums(rows: Sequence[Row], group: Group) -> list[BucketSum]:
    """What a reader must find of a group."""
    counts: Counter[datetime] = Counter()
    prices: Counter[datetime] = Counter()
    for (bucket, *texts, _), (_, count, sum_price) in newest(rows).items():
        if Group(*texts) == group:
            counts[bucket] += count
            prices[bucket] += sum_price
    return [BucketSum(bucket, counts[bucket], prices[bucket]) for bucket in sorted(counts)]


TEXTS = st.sampled_from(["a", "b", "a|b", "", "|", '"', 'a","b', "\0", "a\0b", "ą", "1"])
ROWS = st.lists(
    st.builds(
        row,
        st.integers(-70, 130),
        group=st.builds(Group, TEXTS, TEXTS, TEXTS, TEXTS) | st.just(GROUP),
        partition=st.integers(0, 3),
        count=st.integers(0, 2**40),
        sum_price=st.integers(-(2**40), 2**40),
        version=st.integers(0, 5),
    ),
    max_size=40,
)


@pytest.mark.parametrize("width", WIDTHS)
@given(rows=ROWS)
def test_every_row_is_in_one_place_and_is_read_back(width: int, rows: list[Row]) -> None:
    places: dict[Identity, list[int]] = {}
    keys = []
    for span in by_span(fitted([frame(rows)]), width):
        keys.append(record_key(span.group, span.start_minute, width))
        assert span.start_minute % width == 0
        for offset in range(width):
            for partition, values in span.bins.get(bin_name(offset), {}).items():
                minute = span.start_minute + offset
                bucket = datetime.fromtimestamp(minute * 60, UTC)
                place = (bucket, *span.group, partition)
                assert place not in places
                places[place] = values
    assert len(set(keys)) == len(keys)
    assert places == {place: list(values) for place, values in newest(rows).items()}

    model = Model()
    aggregates = writer(model, width)
    aggregates.write([frame(rows)])
    for group in {GROUP, *(Group(*found[1:5]) for found in rows)}:
        assert aggregates.get(group, at(-200), at(200)) == sums(rows, group)
    aggregates.close()


@pytest.mark.parametrize("width", WIDTHS)
@given(rows=ROWS)
def test_writing_again_changes_nothing(width: int, rows: list[Row]) -> None:
    model = Model()
    aggregates = writer(model, width)
    aggregates.write([frame(rows)])
    before = {key: {name: dict(bin) for name, bin in bins.items()} for key, bins in
              model.records.items()}  # fmt: skip
    aggregates.write([frame(rows[:20]), frame([]), frame(rows[20:])])
    assert model.records == before
    aggregates.close()


def test_the_lower_version_of_a_write_loses_wherever_it_stands() -> None:
    old, new = row(count=9, version=3), row(count=2, version=2**48)
    for frames in ([frame([old, new])], [frame([new]), frame([old])]):
        (span,) = by_span(fitted(frames), 60)
        assert span.bins == {"b00": {0: [2**48, 2, 10]}}


def test_a_record_has_a_bin_a_minute_and_puts_in_each() -> None:
    rows = [row(0), row(1, partition=2, version=4), row(59), row(60), row(1, partition=1)]
    first, second = by_span(fitted([frame(rows)]), 60)
    assert second.start_minute - first.start_minute == 60
    asked = operations(first)
    assert [operation["bin"] for operation in asked] == ["b00", "b01", "b59"]
    assert [operation["val"] for operation in asked] == [
        {0: [1, 1, 10]},
        {1: [1, 1, 10], 2: [4, 1, 10]},
        {0: [1, 1, 10]},
    ]
    assert len(list(by_span(fitted([frame(rows)]), 1))) == 4
    assert len({bin_name(offset) for offset in range(1440)}) == 1440


def test_keys_of_other_groups_spans_and_widths_differ() -> None:
    assert record_key(GROUP, 60, 60) == '["VIEW","phone","brand","shoes",60,60]'
    groups = [Group("a", "b|c", "", ""), Group("a|b", "c", "", ""), Group("a", "b", "c", "")]
    keys = [record_key(group, at, width) for group in groups for at, width in ((0, 30), (0, 60))]
    assert len(set(keys)) == len(keys)
    assert "\0" not in record_key(Group("\0", "", "", ""), 0, 1)


def test_a_reader_gets_the_minutes_it_asked_for() -> None:
    aggregates = writer(Model(), 30)
    aggregates.write([frame([row(minute, partition=p) for minute in range(100) for p in (0, 1)])])
    found = aggregates.get(GROUP, at(29), at(61))
    assert found == [BucketSum(at(minute), 2, 20) for minute in range(29, 61)]
    part = aggregates.get(GROUP, at(29) + timedelta(seconds=1), at(31) + timedelta(seconds=1))
    assert [bucket.bucket for bucket in part] == [at(30), at(31)]
    assert aggregates.get(GROUP, at(5), at(5)) == []
    assert aggregates.get(GROUP, at(6), at(5)) == []
    assert aggregates.get(GROUP._replace(origin="tv"), at(0), at(100)) == []
    with pytest.raises(SinkRefusedError, match=r"44641 minutes are more .* at most 44640"):
        aggregates.get(GROUP, at(0), at(44_641))
    aggregates.close()


def test_bins_are_read_in_order_of_time() -> None:
    assert read_sums(0, {"b100": {0: [1, 2, 3]}, "b02": {1: [9, 1, -5], 0: [1, 2, 3]}}) == [
        BucketSum(datetime(1970, 1, 1, 0, 2, tzinfo=UTC), 3, -2),
        BucketSum(datetime(1970, 1, 1, 1, 40, tzinfo=UTC), 2, 3),
    ]
    assert read_sums(0, {}) == []


def test_only_what_was_not_written_is_written_again() -> None:
    model = Model()
    model.results = [0, 9, 0, 14]
    aggregates = writer(model, 1)
    aggregates.write([frame([row(minute) for minute in range(5)])])
    assert model.sizes == [5, 2]
    assert len(aggregates.get(GROUP, at(0), at(5))) == 5
    assert set(model.generations.values()) == {1}
    aggregates.close()


def test_many_records_go_in_calls_of_500() -> None:
    model = Model()
    aggregates = writer(model, 1, max_parallel_writes=2)
    aggregates.write([frame([row(minute) for minute in range(1_201)])])
    assert sorted(model.sizes) == [201, 500, 500]
    assert len(aggregates.get(GROUP, at(0), at(1_201))) == 1_201
    aggregates.close()


def test_a_policy_of_generations_is_kept_to() -> None:
    model = Model()
    aggregates = writer(model, generation_policy="EQ")
    for version in (1, 2):
        aggregates.write([frame([row(count=version, version=version), row(60)])])
    assert set(model.generations.values()) == {2}
    assert aggregates.get(GROUP, at(0), at(1)) == [BucketSum(at(0), 2, 10)]
    aggregates.close()


def test_a_record_that_is_too_big_is_refused_with_what_to_do() -> None:
    model = Model()
    model.results = [13]
    aggregates = writer(model)
    with pytest.raises(SinkRefusedError, match=r"VIEW\|phone.*lower AEROSPIKE_BUCKETS_PER_KEY"):
        aggregates.write([frame([row()])])
    aggregates.close()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (frame([row()]).drop("version"), "lack the column version"),
        (frame([row()]).with_columns(extra=1), "no column extra"),
        (frame([row()]).with_columns(brand_id=pl.lit(None)), "brand_id takes no nulls"),
        (frame([row()]).with_columns(count=pl.lit("x")), "column count is UInt64"),
        (frame([row(version=2**63)]), "does not fit 64 bits with a sign"),
        (frame([row()]).with_columns(pl.col("bucket") + timedelta(seconds=7)), "at a minute"),
    ],
)
def test_rows_of_another_shape_are_refused(wrong: pl.DataFrame, reason: str) -> None:
    with pytest.raises(RowsError, match=reason):
        fitted([wrong])
    aggregates = writer(Model())
    with pytest.raises(SinkRefusedError, match=f"model:3000, namespace aggregates: .*{reason}"):
        aggregates.write([wrong])
    aggregates.close()


def test_nothing_to_write_needs_no_server() -> None:
    aggregates = AerospikeAggregates("127.0.0.1", 9, namespace="a", buckets_per_key=60)
    aggregates.write([])
    aggregates.write([frame([])])
    aggregates.close()


def test_no_aerospike_is_an_error_within_the_bound() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(4)
        for port in (9, silent.getsockname()[1]):
            aggregates = AerospikeAggregates(
                "127.0.0.1",
                port,
                namespace="aggregates",
                buckets_per_key=60,
                give_up_after_s=0.5,
                timeout_ms=200,
            )
            about = f"127.0.0.1:{port}, namespace aggregates: cannot connect"
            with pytest.raises(SinkUnavailableError, match=about):
                aggregates.write([frame([row()])])
            with pytest.raises(SinkUnavailableError, match=about):
                aggregates.get(GROUP, at(0), at(1))
            aggregates.close()


def test_what_the_flow_writes_is_read_back() -> None:
    def tag(second: int, price: int) -> dict[str, Any]:
        return {
            "time": iso_ms(round((NOON + timedelta(seconds=second)).timestamp() * 1000)),
            "cookie": "someone",
            "country": "PL",
            "device": "PC",
            "action": "VIEW",
            "origin": "phone",
            "product_info": {
                "product_id": 1, "brand_id": "brand", "category_id": "shoes", "price": price
            },
        }  # fmt: skip

    result = run_flow(flow.build, [[tag(0, 5), tag(70, 7)], [tag(59, 11)]])
    aggregates = writer(Model())
    aggregates.write([result.rows])
    assert aggregates.get(GROUP, at(0), at(60)) == [
        BucketSum(at(0), 2, 16),
        BucketSum(at(1), 1, 7),
    ]
    aggregates.close()


class Recorder:
    """A writer that notes what it is asked, and may fail."""

    def __init__(self, name: str, notes: list[str], *, fails: bool = False) -> None:
        self.name, self.notes, self.fails = name, notes, fails

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        if self.fails:
            raise SinkUnavailableError(self.name)
        self.notes.append(f"{self.name} {sum(map(len, frames))}")

    def close(self) -> None:
        self.notes.append(f"{self.name} closed")


def test_rows_go_to_the_first_and_then_to_the_second() -> None:
    notes: list[str] = []
    tee = TeeWriter(Recorder("table", notes), Recorder("aggregates", notes))
    tee.write([frame([row(), row(1)]), frame([row(2)])])
    tee.close()
    assert notes == ["table 3", "aggregates 3", "table closed", "aggregates closed"]
    for first_fails in (True, False):
        notes = []
        broken = TeeWriter(
            Recorder("table", notes, fails=first_fails), Recorder("aggregates", notes, fails=True)
        )
        with pytest.raises(SinkUnavailableError):
            broken.write([frame([row()])])
        assert notes == ([] if first_fails else ["table 1"])


def test_the_flow_writes_to_aerospike_where_that_is_switched_on() -> None:
    def opened(**variables: str) -> Any:
        return minute_buckets(read_settings(variables), Progress())._open_writer()

    server = {"PROFILES_URL": "aerospike://127.0.0.1:3999", "AEROSPIKE_BUCKETS_PER_KEY": "30"}
    both = opened(**server, AEROSPIKE_AGGREGATES="1")
    assert isinstance(both, TeeWriter)
    names = [type(one).__name__ for one in both._writers]
    assert names == ["ClickHouseTable", "AerospikeAggregates"]
    aggregates = both._writers[1]
    assert isinstance(aggregates, AerospikeAggregates)
    assert aggregates._width == 30
    assert "127.0.0.1:3999, namespace aggregates" in aggregates._about
    both.close()
    assert type(opened(**server)).__name__ == "ClickHouseTable"


@pytest.mark.skipif(not os.environ.get("AEROSPIKE_HOSTNAME"), reason=NO_AEROSPIKE)
class TestServer:
    @pytest.fixture(params=[("NONE", 1), ("NONE", 60), ("EQ", 60), ("NONE", 1440)])
    def aggregates(self, request: pytest.FixtureRequest) -> Iterator[AerospikeAggregates]:
        host = os.environ["AEROSPIKE_HOSTNAME"]
        port = int(os.environ.get("AEROSPIKE_PORT") or 3000)
        namespace = os.environ.get("AEROSPIKE_AGGREGATES_NAMESPACE") or "aggregates"
        policy, width = request.param
        name = f"test_{uuid.uuid4().hex[:12]}"
        opened = AerospikeAggregates(
            host,
            port,
            namespace=namespace,
            buckets_per_key=width,
            set_name=name,
            generation_policy=policy,
            give_up_after_s=10,
        )
        yield opened
        opened.close()
        client = aerospike.client({"hosts": [(host, port)]})
        client.truncate(namespace, name, 0)
        client.close()

    def test_sums_are_read_back(self, aggregates: AerospikeAggregates) -> None:
        groups = [GROUP, Group("BUY", "a|b", "", "\0ą")]
        rows = [
            row(minute, group=group, partition=partition, sum_price=minute - 50)
            for minute in range(0, 130, 3)
            for group in groups
            for partition in range(10)
        ]
        for _ in range(2):
            aggregates.write([frame(rows)])
            for group in groups:
                assert aggregates.get(group, at(0), at(130)) == sums(rows, group)
        newer = row(3, partition=4, count=7, sum_price=-8, version=2**48)
        aggregates.write([frame([newer, row(3, partition=4, count=5, version=2)])])
        assert aggregates.get(GROUP, at(0), at(130)) == sums([*rows, newer], GROUP)
        assert aggregates.get(GROUP, at(200), at(300)) == []
