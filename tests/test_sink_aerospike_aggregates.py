"""Minute buckets in Aerospike: rows in, records of bins out, and sums read back."""

# ruff: noqa: E402  (the contract's asserts are rewritten only if that is asked for first)

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import aerospike
import polars as pl
import pytest

pytest.register_assert_rewrite("profile_store_contract", "aerospike_contract")

from hypothesis import given
from hypothesis import strategies as st

from footfall.flows import minute_buckets as flow
from footfall.flows._writers import TeeWriter
from footfall.schemas.settings import read_settings
from footfall.schemas.times import iso_ms
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks._clickhouse_rows import RowsError
from footfall.sinks.aerospike_aggregates import (
    OPERATIONS_MAX,
    AerospikeAggregates,
    BucketSum,
    Group,
    bin_name,
    by_span,
    fitted,
    operations,
    parts,
    read_sums,
    record_key,
)
from footfall.streams.run import Run
from footfall.streams.testing import run_flow
from tests.aerospike_contract import (
    GROUP,
    NOON,
    WIDTHS,
    AggregatesContract,
    Identity,
    OneWidthContract,
    Row,
    at,
    newest,
    row,
    sums,
)
from tests.aerospike_contract import rows_frame as frame
from tests.aerospike_support import ModelServer, Place, model_place


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with model_place(ModelServer()) as place:
        yield place


class TestOfModel(AggregatesContract):
    pass


class TestOfModelOfOneWidth(OneWidthContract):
    pass


def writer(model: ModelServer, width: int = 60, **others: Any) -> AerospikeAggregates:
    return AerospikeAggregates(
        "model",
        3000,
        namespace="aggregates",
        buckets_per_key=width,
        connect=model.connect,
        **others,
    )


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
            for place, values in span.bins.get(bin_name(offset), {}).items():
                minute = span.start_minute + offset
                bucket = datetime.fromtimestamp(minute * 60, UTC)
                topic, _, partition = place.rpartition("/")
                identity = (bucket, *span.group, topic, int(partition))
                assert identity not in places
                places[identity] = values
    assert len(set(keys)) == len(keys)
    assert places == {one: list(values) for one, values in newest(rows).items()}

    model = ModelServer()
    aggregates = writer(model, width)
    aggregates.write([frame(rows)])
    for group in {GROUP, *(Group(*found[1:5]) for found in rows)}:
        assert aggregates.get(group, at(-200), at(200)) == sums(rows, group)
    aggregates.close()


@pytest.mark.parametrize("width", WIDTHS)
@given(rows=ROWS)
def test_writing_again_changes_nothing(width: int, rows: list[Row]) -> None:
    model = ModelServer()
    aggregates = writer(model, width)
    aggregates.write([frame(rows)])
    before = dict(model.records)
    aggregates.write([frame(rows[:20]), frame([]), frame(rows[20:])])
    assert model.records == before
    aggregates.close()


def test_the_lower_version_of_a_write_loses_wherever_it_stands() -> None:
    old, new = row(count=9, version=3), row(count=2, version=2**48)
    for frames in ([frame([old, new])], [frame([new]), frame([old])]):
        (span,) = by_span(fitted(frames), 60)
        assert span.bins == {"b00": {"tags/0": [2**48, 2, 10]}}


def test_a_record_has_a_bin_a_minute_and_puts_in_each() -> None:
    rows = [row(0), row(1, partition=2, version=4), row(59), row(60), row(1, partition=1)]
    first, second = by_span(fitted([frame(rows)]), 60)
    assert second.start_minute - first.start_minute == 60
    asked = operations(first)
    puts, trims = asked[::2], asked[1::2]
    assert [(put["bin"], put["key"], put["val"]) for put in puts] == [
        ("b00", 1, [1, 10]),
        ("b01", 1, [1, 10]),
        ("b01", 4, [1, 10]),
        ("b59", 1, [1, 10]),
    ]
    for put, trim, partition in zip(puts, trims, (0, 1, 2, 0), strict=True):
        assert put["op"] == aerospike.OP_MAP_PUT
        assert put["map_policy"]["map_order"] == aerospike.MAP_KEY_ORDERED
        assert [step.value for step in put["ctx"] + trim["ctx"]] == [f"tags/{partition}"] * 2
        # Where index and amount are swapped, or it is not inverted, it loses what it must keep.
        assert (trim["bin"], trim["index"], trim["val"]) == (put["bin"], -1, 1)
        assert trim["inverted"] is True
    assert len(list(by_span(fitted([frame(rows)]), 1))) == 4
    assert len({bin_name(offset) for offset in range(1440)}) == 1440


def test_what_is_too_much_for_one_operate_comes_in_parts() -> None:
    rows = [row(m, partition=p, count=p) for m in range(60) for p in range(50)]
    (span,) = by_span(fitted([frame(rows)]), 60)
    cut = list(parts(operations(span)))
    assert [len(part) for part in cut] == [OPERATIONS_MAX, 6_000 - OPERATIONS_MAX]
    assert all(
        put["bin"] == trim["bin"] for p in cut for put, trim in zip(*[iter(p)] * 2, strict=True)
    )
    model = ModelServer()
    aggregates = writer(model)
    aggregates.write([frame([*rows, row(60)])])
    assert model.sizes == [2, 1]
    assert aggregates.get(GROUP, at(0), at(60)) == sums(rows, GROUP)
    aggregates.close()


def test_keys_of_other_groups_spans_and_widths_differ() -> None:
    assert record_key(GROUP, 60, 60) == '["VIEW","phone","brand","shoes",60,60]'
    groups = [Group("a", "b|c", "", ""), Group("a|b", "c", "", ""), Group("a", "b", "c", "")]
    keys = [record_key(group, at, width) for group in groups for at, width in ((0, 30), (0, 60))]
    assert len(set(keys)) == len(keys)
    assert "\0" not in record_key(Group("\0", "", "", ""), 0, 1)


def test_a_reader_gets_the_minutes_it_asked_for() -> None:
    aggregates = writer(ModelServer(), 30)
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
    places = {"b100": {"t/0": {1: [2, 3]}}, "b02": {"t/1": {9: [1, -5]}, "t/0": {1: [2, 3]}}}
    assert read_sums(0, places) == [
        BucketSum(datetime(1970, 1, 1, 0, 2, tzinfo=UTC), 3, -2),
        BucketSum(datetime(1970, 1, 1, 1, 40, tzinfo=UTC), 2, 3),
    ]
    assert read_sums(0, {}) == []


def test_rows_of_before_that_name_no_topic_count_until_theirs_are_written_again() -> None:
    model = ModelServer()
    aggregates = writer(model, 1)
    aggregates.write([frame([row(partition=1, count=7)])])
    ((key, bins),) = model.records.items()
    model.records[key] = {"b00": {0: {5: [3, 30]}, 1: {5: [6, 60]}} | bins["b00"]}
    assert aggregates.get(GROUP, at(0), at(1)) == [BucketSum(at(0), 3 + 7, 30 + 10)]
    aggregates.write([frame([row(partition=0, topic="eu"), row(partition=0, topic="us")])])
    assert aggregates.get(GROUP, at(0), at(1)) == [BucketSum(at(0), 1 + 1 + 7, 30)]
    aggregates.close()


def test_only_what_was_not_written_is_written_again() -> None:
    model = ModelServer()
    model.results = [0, 9, 0, 14]
    aggregates = writer(model, 1)
    aggregates.write([frame([row(minute) for minute in range(5)])])
    assert model.sizes == [5, 2]
    assert len(aggregates.get(GROUP, at(0), at(5))) == 5
    assert set(model.generations.values()) == {1}
    aggregates.close()


def test_what_a_killed_node_had_not_on_its_disk_is_written_again() -> None:
    model = ModelServer()
    aggregates = writer(model)
    aggregates.write([frame([row(0), row(60)])])
    on_disk = dict(model.records)
    aggregates.write([frame([row(0, count=5, version=5), row(120)])])
    model.records, model.uptime_s, model.results = on_disk, 0, [-15]
    aggregates.write([frame([row(60, count=2, version=2)])])
    found = aggregates.get(GROUP, at(0), at(121))
    assert [bucket.count for bucket in found] == [5, 2, 1]
    aggregates.close()


def test_rows_of_an_earlier_process_stand_at_their_highest_version() -> None:
    model = ModelServer()
    first = writer(model)
    first.write([frame([row(0, count=5, version=5), row(60)])])
    first.write([frame([row(0, count=2, version=2), row(1, partition=1)])])
    recent = pl.concat(first.recent())
    first.close()
    model.kill(lost_s=60.0)
    second = writer(model, keep_s=0.0)
    second.restore(recent)
    second.settle()
    found = second.get(GROUP, at(0), at(61))
    assert [bucket.count for bucket in found] == [5, 1, 1]
    assert second.recent() == []
    second.close()


def test_nothing_counts_as_written_or_read_where_no_node_is_left() -> None:
    model = ModelServer(nodes=False)
    aggregates = writer(model, give_up_after_s=0.2)
    with pytest.raises(SinkUnavailableError, match="no node is left"):
        aggregates.write([frame([row()])])
    with pytest.raises(SinkUnavailableError, match="no node is left"):
        aggregates.get(GROUP, at(0), at(1))
    aggregates.close()


def test_many_records_go_in_calls_of_500() -> None:
    model = ModelServer()
    aggregates = writer(model, 1, max_parallel_writes=2)
    aggregates.write([frame([row(minute) for minute in range(1_201)])])
    assert sorted(model.sizes) == [201, 500, 500]
    assert len(aggregates.get(GROUP, at(0), at(1_201))) == 1_201
    aggregates.close()


def test_a_policy_of_generations_is_kept_to() -> None:
    model = ModelServer()
    aggregates = writer(model, generation_policy="EQ")
    for version in (1, 2):
        aggregates.write([frame([row(count=version, version=version), row(60)])])
    assert set(model.generations.values()) == {2}
    assert aggregates.get(GROUP, at(0), at(1)) == [BucketSum(at(0), 2, 10)]
    aggregates.close()


def test_a_record_that_is_too_big_is_refused_with_what_to_do() -> None:
    model = ModelServer()
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
    aggregates = writer(ModelServer())
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

    result = run_flow(flow.FLOW.dataflow, [[tag(0, 5), tag(70, 7)], [tag(59, 11)]])
    aggregates = writer(ModelServer())
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
        return flow.FLOW.writes.open(read_settings(variables), Run(), {})._open_writer()

    server = {"PROFILES_URL": "aerospike://127.0.0.1:3999", "AEROSPIKE_BUCKETS_PER_KEY": "30"}
    both = opened(**server, AEROSPIKE_AGGREGATES="1")
    assert isinstance(both, TeeWriter)
    assert type(both._first).__name__ == "ClickHouseTable"
    aggregates = both._second
    assert isinstance(aggregates, AerospikeAggregates)
    assert aggregates._width == 30
    assert "127.0.0.1:3999, namespace aggregates" in aggregates._about
    both.close()
    alone = opened(**server)
    assert type(alone._first).__name__ == "ClickHouseTable"
    assert alone._second is None
    # Of a table alone nothing is forgotten, nor waited for.
    assert not alone.recent()
    alone.restore(frame([row()]))
    alone.settle()
    alone.close()
