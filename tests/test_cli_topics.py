"""Topics as commands see them, embedded and in Kafka: their ends, their records, their keys."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import Producer

from footfall.cli.topics import polls, records, topic_view
from footfall.operations import topic_records
from footfall.operations.topic_records import (
    NotThereError,
    ends,
    followed,
    last_records,
    one_record,
)
from footfall.schemas.records import TopicRecord
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.topics import STORE_EVENTS, USER_TAGS
from footfall.sinks import topic_files
from footfall.sinks.open import open_topics
from footfall.sinks.topic_files import FileTopics
from footfall.streams.open import open_topic
from footfall.streams.source import KeptTopic, Position, SourceError
from footfall.streams.topic_files import FileTopic
from tests.cli_support import footfall, one_line, running

PAIRS = [(f"user-{n}".encode(), b'{"n": %d}' % n) for n in range(200)]


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Yield the mock cluster within librdkafka, which speaks Kafka's protocol over TCP."""
    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    (found,) = producer.list_topics(timeout=10).brokers.values()
    # It makes a topic at its first record.
    producer.produce(USER_TAGS.name, b"{}", key=b"first")
    producer.flush(10)
    yield f"kafka://{found.host}:{found.port}"


@pytest.fixture(params=["files", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("broker") if request.param == "kafka" else ""
    return read_settings({"FOOTFALL_HOME": str(tmp_path), "TOPICS_URL": url})


def test_a_view_knows_ends_tails_and_where_a_key_goes(settings: Settings) -> None:
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS[:50])
    view = topic_view(settings)
    before = view.end_offsets(USER_TAGS.name)
    writer.write(USER_TAGS.name, PAIRS[50:])
    writer.close()
    after = view.end_offsets(USER_TAGS.name)
    assert sum(after) - sum(before) == 150
    expected: dict[int, list[bytes]] = {partition: [] for partition in range(len(before))}
    for key, value in PAIRS[50:]:
        expected[view.partition_of(USER_TAGS.name, key)].append(value)
    for partition, start in enumerate(before):
        found = list(view.read_tail(USER_TAGS.name, partition, start))
        assert found == expected[partition]
        assert len(found) == after[partition] - start


def test_polls_give_every_record_to_the_end_as_found(settings: Settings) -> None:
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS)
    writer.close()
    found = [record for poll in polls(settings, USER_TAGS.name) for record in records(poll)]
    assert {value for _, value in PAIRS} <= set(found)
    end = topic_view(settings).end_offsets(USER_TAGS.name)[0]
    last = Position("offset", end - 1)
    rest = list(polls(settings, USER_TAGS.name, start=last, partitions=(0,)))
    assert [poll.count for poll in rest] == [1]


def test_polls_that_follow_end_when_stopped(tmp_path: Path) -> None:
    settings = read_settings({"FOOTFALL_HOME": str(tmp_path)})
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS[:80])
    found: list[bytes] = []
    stop = Event()
    for poll in polls(settings, USER_TAGS.name, follow=True, stopped=stop.is_set):
        found += records(poll)
        if len(found) == 80:
            writer.write(USER_TAGS.name, PAIRS[80:])
        if len(found) == len(PAIRS):
            stop.set()
    writer.close()
    assert sorted(found) == sorted(value for _, value in PAIRS)


def test_kafka_topic_takes_the_place_of_the_world_s_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    renamed = {"KAFKA_TOPIC": "shop_42"}
    made = footfall(home, "init", **renamed)
    assert "topic shop_42 (10 partitions): made" in made.stdout
    for total, said in (("300", "300 sent"), ("500", "200 sent"), ("500", "nothing to send")):
        sent = footfall(home, "generate", "store", "--total", total, "--fast", **renamed)
        assert said in sent.stdout, sent.stderr
    settings = read_settings({"FOOTFALL_HOME": str(home)})
    assert sum(topic_view(settings).end_offsets("shop_42")) == 500
    assert sum(topic_view(settings).end_offsets(STORE_EVENTS.name)) == 0
    assert footfall(home, "run", "store_metrics", "--once", **renamed).returncode == 0
    asked = footfall(
        home, "query", "--db", "store", "--format", "csv", "SELECT sum(nr_of_events) FROM events"
    )
    assert asked.stdout.splitlines()[1] == "500"


def topic_of(settings: Settings) -> KeptTopic:
    return open_topic(settings, USER_TAGS.name, group="cli")


def test_the_newest_records_come_in_order_with_their_keys(settings: Settings) -> None:
    writer = open_topics(settings)
    for pair in PAIRS[:30]:
        # One by one, so that append times tell the order.
        writer.write(USER_TAGS.name, [pair])
        time.sleep(0.002)
    writer.close()
    topic = topic_of(settings)
    found = last_records(topic, ends(topic), 12)
    assert [(seen.record.key, seen.record.value) for seen in found] == PAIRS[18:30]
    assert [one_record(topic, seen.partition, seen.offset) for seen in found] == [
        seen.record for seen in found
    ]
    assert last_records(topic, ends(topic), 0) == []


def test_the_newest_records_of_a_key_are_found_behind_many_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_records, "BLOCK_RECORDS", 20)
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, [(b"one", b"%d" % n) for n in range(3)])
    for _ in range(15):
        writer.write(USER_TAGS.name, PAIRS)
    writer.close()
    topic = topic_of(settings)
    found = last_records(topic, ends(topic), 2, b"one")
    assert [seen.record.value for seen in found] == [b"1", b"2"]
    assert last_records(topic, ends(topic), 2, b"nobody") == []


def test_what_follows_comes_once_and_from_a_new_partition_too(settings: Settings) -> None:
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS[:80])
    topic, until, stop = topic_of(settings), ends(topic_of(settings)), Event()
    writer.write(USER_TAGS.name, PAIRS[80:])
    writer.close()
    # As if it was made after the first look.
    until.pop(max(until))
    found = []
    for seen in followed(topic, until, None, stopped=stop.is_set, skipped=pytest.fail):
        found.append(seen.record.value)
        if {value for _, value in PAIRS[80:]} <= {*found}:
            stop.set()
    assert len(found) == len({*found})


def test_a_record_that_is_not_there_is_told_with_those_that_are(settings: Settings) -> None:
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS)
    writer.close()
    topic = topic_of(settings)
    count = topic.partitions()
    low, end = topic.kept(0)
    with pytest.raises(NotThereError, match=f"no partition 99: .* partitions 0 to {count - 1}"):
        one_record(topic, 99, 0)
    with pytest.raises(NotThereError, match=f"not there yet; there are {low} to {end - 1}"):
        one_record(topic, 0, end)


def segmented(folder: Path) -> None:
    """Write two records an append and two appends a segment."""
    writer = FileTopics(folder)
    writer.create("t", 1)
    for number in range(3):
        rows = [(b"k%d" % number, b"%d" % (2 * number + at)) for at in (0, 1)]
        writer.write("t", rows)
    writer.close()


def test_records_are_read_across_segments_and_removed_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SEGMENT_BYTES_MIN", "SEGMENT_BYTES_MAX"):
        monkeypatch.setattr(topic_files, limit, 3)
    segmented(tmp_path)
    topic = FileTopic(tmp_path, "t")
    found = list(topic.records(0, 1, 5))
    assert [offset for offset, _ in found] == [1, 2, 3, 4]
    assert [(one.key, one.value) for _, one in found] == [
        (b"k0", b"1"), (b"k1", b"2"), (b"k1", b"3"), (b"k2", b"4")
    ]  # fmt: skip
    for path in (tmp_path / "t").glob("0.0.*"):
        path.unlink()
    assert topic.kept(0) == (2, 6)
    with pytest.raises(NotThereError, match="0 was removed by retention; there are 2 to 5"):
        one_record(topic, 0, 0)
    told: list[str] = []
    seen = next(followed(topic, {0: 0}, None, stopped=lambda: False, skipped=told.append))
    assert (seen.offset, seen.record.value) == (2, b"2")
    assert "t/0: skipped offsets 0 to 1" in told[0]
    with pytest.raises(SourceError, match="ends at 6, and was read to 9"):
        next(followed(topic, {0: 9}, None, stopped=lambda: False, skipped=told.append))


GOOD = (
    b'{"event_time": "2019-10-01 00:00:00 UTC", "event_type": "view", "product_id": 1, '
    b'"category_id": 2, "price": 35.79, "user_id": 3}'
)
SENT = TopicRecord(b'{"price": "cheap"}', b"\xff\x1b", [("trace", b"1")], 1_569_888_000_123)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with two records: a good one and one that no flow takes."""
    home = tmp_path / "home"
    settings = read_settings({"FOOTFALL_HOME": str(home)})
    writer = open_topics(settings)
    writer.write_to(STORE_EVENTS.name, 0, [TopicRecord(GOOD, b"3"), SENT])
    writer.close()
    return home


def test_ls_lists_what_there_is(home: Path) -> None:
    text = footfall(home, "topics", "ls").stdout
    assert text.splitlines()[0].split() == [
        "topic", "partitions", "oldest", "end", "records", "bytes", "newest", "append"
    ]  # fmt: skip
    size = len(GOOD) + len(SENT.value) + 2
    assert f"store_events          10       0  0..2        2    {size}" in text
    (listed,) = json.loads(footfall(home, "topics", "ls", "store_events", "--json").stdout)
    first, second, *_ = listed["partitions"]
    assert {**first, "newest_append": None} == {
        "partition": 0, "oldest": 0, "end": 2, "records": 2, "bytes": size, "newest_append": None
    }  # fmt: skip
    assert (second["records"], second["bytes"], second["newest_append"]) == (0, 0, None)


def test_tail_prints_values_alone_where_there_is_no_terminal(home: Path) -> None:
    assert footfall(home, "topics", "tail", "store_events", "-n", "1").stdout == (
        SENT.value.decode() + "\n"
    )
    as_json = footfall(home, "topics", "tail", "store_events", "--json").stdout.splitlines()
    first, second = map(json.loads, as_json)
    assert (first["partition"], first["offset"], first["key"]) == (0, 0, "3")
    assert first["value"] == GOOD.decode()
    assert second["key_base64"] == "/xs="
    assert second["headers"] == [{"name": "trace", "value": "1"}]


def test_tail_follows_until_it_is_stopped(home: Path) -> None:
    with running(home, "topics", "tail", "store_events", "-n", "1", "--follow") as tail:
        tail.wait_for_text("cheap")
        writer = open_topics(read_settings({"FOOTFALL_HOME": str(home)}))
        writer.write(STORE_EVENTS.name, [(b"7", b"new")])
        tail.wait_for_text("new\n")
        writer.close()
        assert tail.end(signal.SIGINT) == 0
    assert tail.output() == f"{SENT.value.decode()}\nnew\n"


def test_show_tells_all_of_a_record_and_what_is_wrong_with_it(home: Path) -> None:
    good = footfall(home, "topics", "show", "store_events/0:0").stdout
    assert "wrong" not in good
    assert '    "price": 35.79,' in good
    bad = footfall(home, "topics", "show", "store_events/0:1").stdout
    assert "  key       \\xff\\x1b\n  header    trace = 1\n" in bad
    assert "  wrong     event_time: required, and missing\n" in bad
    assert "\x1b" not in bad


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls", "store_event"], "no such topic: store_event; did you mean store_events?"),
        (["tail", "zzzz"], "no such topic: zzzz; there are "),
        (["show", "store_event/0:0"], "no such topic: store_event; did you mean store_events?"),
        (["show", "store_events/10:0"], "no partition 10: it has partitions 0 to 9"),
        (["show", "store_events/0:2"], "offset 2 is not there yet; there are 0 to 1"),
        (["show", "store_events/1:0"], "store_events/1 has no record yet"),
        (["show", "store_events"], "takes TOPIC/PARTITION:OFFSET"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    arguments: list[str], said: str, home: Path
) -> None:
    result = footfall(home, "topics", *arguments)
    assert result.returncode in (1, 2)
    assert said in one_line(result)
