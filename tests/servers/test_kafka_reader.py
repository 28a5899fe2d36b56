"""Records of a real Kafka in, polls with exact offsets out: gaps, markers, tombstones, ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from footfall.operations.topic_records import ends, last_records, listing
from footfall.schemas.records import TopicRecord
from footfall.schemas.settings import read_settings
from footfall.schemas.topics import RECORD_BYTES_MAX, RECORD_BYTES_TAKEN_MAX
from footfall.streams.batch import Poll
from footfall.streams.kafka import KafkaTopic
from footfall.streams.source import EARLIEST, LATEST, Position, Reader, SourceError
from footfall.streams.wire_format import CONFLUENT, is_confluent
from tests.kafka_support import Broker, Server

READ_S_MAX = 60.0
Found = list[tuple[int, bytes]]


def topic_of(kafka: Server, name: str, **options: Any) -> KafkaTopic:
    return KafkaTopic(kafka.bootstrap, name, group=kafka.name("reader"), **options)


def read_to_end(reader: Reader) -> Found:
    """Read until the reader says that it has finished; fail where it never does."""
    found: Found = []
    deadline = time.monotonic() + READ_S_MAX
    while not reader.finished():
        assert time.monotonic() < deadline, f"it waits for ever, after {found[-1:]}"
        found += taken(reader)
    return found


def read_some(reader: Reader, count: int) -> Found:
    found: Found = []
    deadline = time.monotonic() + READ_S_MAX
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} of {count}"
        found += taken(reader)
    return found


def polls_to_end(reader: Reader) -> Iterator[Poll]:
    """Yield what a reader gives until it says that it has finished."""
    deadline = time.monotonic() + READ_S_MAX
    while not reader.finished():
        assert time.monotonic() < deadline
        yield reader.poll(0)


def taken(reader: Reader) -> Found:
    poll = reader.poll(0)
    lines = poll.data.split(b"\n")
    assert lines.pop() == b"" and len(lines) == poll.count
    return [(poll.offset_of(row), line) for row, line in enumerate(lines)]


def all_of(kafka: Server, name: str, **options: Any) -> Found:
    reader = topic_of(kafka, name, end=LATEST, **options).open(0, None)
    try:
        return read_to_end(reader)
    finally:
        reader.close()


def test_aborted_records_are_not_read_and_their_offsets_are_a_gap(kafka: Server) -> None:
    topic = kafka.topic("gaps")
    kafka.produce(topic, [b"0", b"1"])
    kafka.transaction(topic, [b"gone"] * 3, commit=False)  # 2 to 4, and the marker 5
    kafka.produce(topic, [b"6"])
    kafka.transaction(topic, [b"7", b"8"])  # and the marker 9
    kafka.produce(topic, [b"10"])
    expected = [(n, b"%d" % n) for n in (0, 1, 6, 7, 8, 10)]
    assert all_of(kafka, topic) == expected
    assert all_of(kafka, topic, poll_records_max=2) == expected
    assert [(r.offset, r.value) for r in kafka.consume_all(topic)] == expected


@pytest.mark.parametrize("commit", [True, False])
def test_the_end_is_reached_where_a_marker_is_the_last_offset(kafka: Server, commit: bool) -> None:
    topic = kafka.topic("ends")
    kafka.produce(topic, [b"0"])
    kafka.transaction(topic, [b"1", b"2"], commit=commit)
    assert kafka.end_offsets(topic) == [4]
    found = [(0, b"0"), (1, b"1"), (2, b"2")] if commit else [(0, b"0")]
    reader = topic_of(kafka, topic, end=LATEST).open(0, None)
    assert read_to_end(reader) == found
    assert reader.state().offset == 4
    reader.close()
    # And where nothing but markers and aborted records is left to read.
    reader = topic_of(kafka, topic, end=LATEST).open(0, 3)
    assert read_to_end(reader) == []
    reader.close()


def test_a_topic_of_aborted_records_alone_ends(kafka: Server) -> None:
    topic = kafka.topic("aborted")
    kafka.transaction(topic, [b"gone"] * 5, commit=False)
    assert all_of(kafka, topic) == []
    assert all_of(kafka, kafka.topic("empty")) == []


def test_an_end_within_a_gap_is_reached(kafka: Server) -> None:
    topic = kafka.topic("within")
    kafka.produce(topic, [b"0"])
    kafka.transaction(topic, [b"gone"] * 4, commit=False)  # 1 to 4, and the marker 5
    kafka.produce(topic, [b"6", b"7"])
    for end, expected in ((3, [(0, b"0")]), (6, [(0, b"0")]), (7, [(0, b"0"), (6, b"6")])):
        reader = topic_of(kafka, topic, end=Position("offset", end)).open(0, None)
        assert read_to_end(reader) == expected, end
        reader.close()


def test_compaction_gaps_keep_the_offsets_of_what_is_left(own_kafka: Broker) -> None:
    topic = own_kafka.topic(
        "compacted",
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        delete_retention_ms="1",
    )
    own_kafka.produce(topic, [b"%d" % n for n in range(10)], keys=[b"a", b"b"] * 5)
    time.sleep(0.2)
    own_kafka.produce(topic, [b"10"], keys=[b"c"])  # closes the segment
    own_kafka.eventually(lambda: len(own_kafka.consume_all(topic)) == 3)
    assert all_of(own_kafka, topic) == [(8, b"8"), (9, b"9"), (10, b"10")]


def test_newlines_become_spaces_and_tombstones_are_empty(kafka: Server) -> None:
    topic = kafka.topic("odd")
    kafka.produce(topic, [b'{\n"a":\r\n1}', None, b"", b"\n", b"\xff\x00"])
    assert all_of(kafka, topic) == [
        (0, b'{ "a":\r 1}'),
        (1, b""),
        (2, b""),
        (3, b" "),
        (4, b"\xff\x00"),
    ]


def test_headers_and_keys_are_no_part_of_a_record(kafka: Server) -> None:
    topic = kafka.topic("headers")
    kafka.produce(topic, [b"v"], keys=[b"k\n"], headers={"trace": b"1\n2"})
    assert all_of(kafka, topic) == [(0, b"v")]


def test_a_tombstone_is_known_from_an_empty_record_wherever_polls_are_cut(kafka: Server) -> None:
    topic = kafka.topic("tombstones")
    values = [b"0", None, b"", b"3", None, None, b"", b"7"]
    kafka.produce(topic, values)
    for records_max in (1, 3, 100):
        reader = topic_of(kafka, topic, end=LATEST, poll_records_max=records_max).open(0, None)
        tombstones = [
            poll.offset_of(place) for poll in polls_to_end(reader) for place in poll.tombstones
        ]
        assert tombstones == [1, 4, 5]
        reader.close()


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_a_poll_says_when_its_records_were_appended(kafka: Server, kind: str) -> None:
    topic = kafka.topic("appended", message_timestamp_type=kind)
    base_ms = time.time_ns() // 1_000_000
    sent_ms = [base_ms - 3_600_000 + n * 7 for n in range(40)]
    for at_ms in sent_ms:
        kafka.produce(topic, [b"x"], timestamp_ms=at_ms)
    reader = topic_of(kafka, topic, end=LATEST, poll_records_max=9).open(0, None)
    found: list[int] = []
    for poll in polls_to_end(reader):
        if poll.count:
            assert poll.appended_ms is not None and len(poll.appended_ms) == poll.count
            found += poll.appended_ms.tolist()
    reader.close()
    if kind == "CreateTime":
        assert found == sent_ms
    else:
        assert found == sorted(found)
        assert base_ms <= found[0] and found[-1] <= time.time_ns() // 1_000_000


def test_confluents_wire_format_is_left_out_where_it_is_set(kafka: Server) -> None:
    topic = kafka.topic("confluent")
    # The id of the second schema has a newline in it, which must go before newlines do.
    headed = [b'\0\0\0\0\1{"a": 1}', b'\0\0\0\n\n{"a":\n2}']
    kafka.produce(topic, [*headed, b'{"a": 3}', None, b"\0\0\0\0\1", b"\0"])
    assert all_of(kafka, topic, wire_format=CONFLUENT) == [
        (0, b'{"a": 1}'),
        (1, b'{"a": 2}'),
        (2, b'{"a": 3}'),
        (3, b""),
        (4, b"\0\0\0\0\1"),
        (5, b"\0"),
    ]
    plain = [value for _, value in all_of(kafka, topic)]
    assert [is_confluent(value) for value in plain] == [True, True, False, False, False, False]


def test_one_record_is_given_with_all_that_the_topic_keeps_of_it(kafka: Server) -> None:
    name = kafka.topic("single")
    kafka.produce(name, [b"0"])
    kafka.transaction(name, [b"gone"], commit=False)
    at_ms = time.time_ns() // 1_000_000 - 60_000
    kafka.produce(
        name, [b"\0\n{}"], keys=[b"k\n"], headers={"a": b"1", "b": b""}, timestamp_ms=at_ms
    )
    kafka.produce(name, [b"last"])
    topic = topic_of(kafka, name, wire_format=CONFLUENT)
    assert topic.record_at(0, 3) == TopicRecord(
        b"\0\n{}", b"k\n", (("a", b"1"), ("b", b"")), at_ms
    )
    assert topic.record_at(0, 4).value == b"last"
    assert topic.record_at(0, 0).key is None
    assert topic.kept(0) == (0, 5)
    assert [offset for offset, _ in topic.records(0, 0, 5)] == [0, 3, 4]
    assert [offset for offset, _ in topic.records(0, 1, 4)] == [3]
    newest = [seen.offset for seen in last_records(topic, ends(topic), 2)]
    assert newest == [3, 4], "the ones that a transaction left out do not count"
    for offset in (1, 2, 5, 99):
        with pytest.raises(SourceError, match=f"no record at offset {offset}: it has .* 0 to 4"):
            topic.record_at(0, offset)
    kafka.delete_records(name, {0: 4})
    with pytest.raises(SourceError, match="no record at offset 3: it has offsets 4 to 4"):
        topic.record_at(0, 3)
    (facts,) = listing(read_settings({"TOPICS_URL": f"kafka://{kafka.bootstrap}"}))[name]
    assert (facts.oldest, facts.end, facts.size_bytes) == (4, 5, None)
    assert facts.newest_ms == topic.record_at(0, 4).timestamp_ms
    # And the topic is read beside it.
    assert all_of(kafka, name) == [(4, b"last")]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy"])
def test_compressed_batches_are_read_whole(kafka: Server, codec: str) -> None:
    topic = kafka.topic(codec)
    values = [b'{"n": %d, "filler": "%s"}' % (n, b"x" * (n % 90)) for n in range(5_000)]
    kafka.produce(topic, values, compression_type=codec, batch_num_messages=700)
    found = all_of(kafka, topic, poll_records_max=333)
    assert found == list(enumerate(values))


def test_a_record_over_the_limit_is_read_like_any_other(kafka: Server) -> None:
    topic = kafka.topic("large", max_message_bytes=str(RECORD_BYTES_TAKEN_MAX))
    large = b"x" * (RECORD_BYTES_MAX + 1)
    limit = RECORD_BYTES_TAKEN_MAX
    kafka.produce(topic, [b"0", large, b"2"], message_max_bytes=limit, linger_ms=0)
    assert all_of(kafka, topic) == [(0, b"0"), (1, large), (2, b"2")]


def test_reading_starts_and_ends_at_a_time(kafka: Server) -> None:
    topic = kafka.topic("times")
    base_ms = time.time_ns() // 1_000_000 - 3_600_000
    for n in range(10):
        kafka.produce(topic, [b"%d" % n], timestamp_ms=base_ms + n * 1_000)

    def between(start_ms: int, end_ms: int) -> list[int]:
        options = {
            "start": Position("time", base_ms + start_ms),
            "end": Position("time", base_ms + end_ms),
        }
        reader = topic_of(kafka, topic, **options).open(0, None)
        try:
            return [offset for offset, _ in read_to_end(reader)]
        finally:
            reader.close()

    assert between(3_000, 6_000) == [3, 4, 5]
    assert between(2_001, 6_001) == [3, 4, 5, 6]
    assert between(-9_000, 1_000) == [0]
    assert between(8_000, 99_000) == [8, 9]
    assert between(99_000, 100_000) == []


def test_reading_starts_at_either_end_or_an_offset(kafka: Server) -> None:
    topic = kafka.topic("starts")
    kafka.produce(topic, [b"%d" % n for n in range(10)])
    kafka.delete_records(topic, {0: 4})
    assert [o for o, _ in all_of(kafka, topic, start=EARLIEST)] == [4, 5, 6, 7, 8, 9]
    assert [o for o, _ in all_of(kafka, topic, start=Position("offset", 7))] == [7, 8, 9]
    reader = topic_of(kafka, topic, start=LATEST).open(0, None)
    kafka.produce(topic, [b"10", b"11"])
    assert read_some(reader, 2) == [(10, b"10"), (11, b"11")]
    assert not reader.finished()
    reader.close()


def test_an_offset_that_retention_removed_is_an_error_with_the_way_on(kafka: Server) -> None:
    topic = kafka.topic("removed")
    kafka.produce(topic, [b"x"] * 10)
    kafka.delete_records(topic, {0: 6})
    with pytest.raises(SourceError, match=r"offset 3 was removed by retention.* 6"):
        topic_of(kafka, topic).open(0, 3)
    reader = topic_of(kafka, topic).open(0, 6)
    assert len(read_some(reader, 4)) == 4
    reader.close()
    with pytest.raises(SourceError, match=r"offset 99 is past .* 10"):
        topic_of(kafka, topic).open(0, 99)


def test_records_removed_under_a_reader_are_an_error_and_no_jump(kafka: Server) -> None:
    topic = kafka.topic("removed-live")
    kafka.produce(topic, [b"x"] * 3)
    reader = topic_of(kafka, topic).open(0, None)
    assert len(read_some(reader, 3)) == 3
    # A reader that waits at the end sees nothing of what goes and comes before it asks again.
    kafka.produce(topic, [b"y" * 1_000] * 2_000)
    kafka.delete_records(topic, {0: 2_003})
    kafka.produce(topic, [b"z"])
    try:
        found = read_some(reader, 1)
    except SourceError as error:
        assert "removed by retention" in str(error)
    else:
        # It had them fetched before they went: then each is there.
        assert found[0][0] == 3
    finally:
        reader.close()


def test_a_reader_outlives_kill_9_of_the_broker(own_kafka: Broker) -> None:
    topic = own_kafka.topic("outlives")
    own_kafka.produce(topic, [b"%d" % n for n in range(100)])
    reader = topic_of(own_kafka, topic, poll_records_max=10).open(0, None)
    found = read_some(reader, 100)
    own_kafka.kill()
    for _ in range(20):
        assert taken(reader) == []
    own_kafka.start()
    own_kafka.produce(topic, [b"%d" % n for n in range(100, 200)])
    found += read_some(reader, 100)
    reader.close()
    assert found == [(n, b"%d" % n) for n in range(200)]


def test_a_process_ends_soon_though_no_broker_takes_its_last_commit(own_kafka: Broker) -> None:
    topic = own_kafka.topic("ends-soon", partitions=3)
    for partition in range(3):
        own_kafka.produce(topic, [b"x"] * 10, partition=partition)
    code = f"""
import sys
from footfall.streams.kafka import KafkaTopic
readers = [
    KafkaTopic({own_kafka.bootstrap!r}, {topic!r}, group="g").open(partition, None)
    for partition in range(3)
]
for reader in readers:
    while not reader.poll(0).count:
        pass
print("read", flush=True)
sys.stdin.readline()
for reader in readers:
    reader.state()
    reader.close()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"read\n"
        own_kafka.kill()
        process.stdin.write(b"\n")
        process.stdin.flush()
        # Of the client's own accord it would be 45 s for each consumer.
        assert process.wait(40) == 0


def test_an_open_transaction_does_not_hold_up_a_reader_for_ever(kafka: Server) -> None:
    from confluent_kafka import Producer

    topic = kafka.topic("open-transaction")
    kafka.produce(topic, [b"0"])
    writer = Producer(kafka.client(transactional_id=kafka.name("t")))
    writer.init_transactions(10)
    writer.begin_transaction()
    writer.produce(topic, b"1")
    assert writer.flush(10) == 0
    finished = threading.Event()
    found: Found = []

    def read() -> None:
        found.extend(all_of(kafka, topic))
        finished.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    # The end is what may be read at the start, so the reader waits for nobody's commit.
    assert finished.wait(READ_S_MAX), "it waits for the transaction"
    assert found == [(0, b"0")]
    writer.abort_transaction(10)
