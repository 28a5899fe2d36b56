"""Retention of embedded topics, as Kafka has it: whole old segments go, and offsets go on."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from footfall.api.tails import FileTail
from footfall.operations.topic_ends import file_topics
from footfall.schemas.topic_files import end_offset, first_offset, records_path, segments
from footfall.sinks import topic_files
from footfall.sinks.topic_files import FileTopics, Retention
from footfall.streams.source import LATEST, Position, ReadState, SourceError
from footfall.streams.topic_files import FileTopic
from tests.topic_files_support import TOPIC, read, reader, write

RECORDS = [b"%05d" % number + b"x" * 994 for number in range(1_000)]


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_files, "SEGMENT_BYTES_MAX", 65_536)


def keeping(folder: Path, kept_bytes: int = 10**9) -> FileTopics:
    return FileTopics(folder, retention=Retention(bytes=kept_bytes))


def write_all(folder: Path, writer: FileTopics) -> None:
    for start in range(0, len(RECORDS), 20):
        write(folder, *RECORDS[start : start + 20], writer=writer)


def test_a_partition_over_its_size_loses_its_oldest_segments(tmp_path: Path) -> None:
    write_all(tmp_path, keeping(tmp_path, 300_000))
    low = first_offset(tmp_path, TOPIC, 0)
    assert 600 < low < 800
    assert end_offset(tmp_path, TOPIC, 0) == 1_000
    assert sum(path.stat().st_size for path in (tmp_path / TOPIC).iterdir()) < 400_000
    firsts = {int(path.name.split(".")[1]) for path in (tmp_path / TOPIC).glob("0.*.appends")}
    assert min(firsts) == low
    assert read(reader(tmp_path, poll_bytes_max=100_000)) == [*enumerate(RECORDS)][low:]
    assert read(reader(tmp_path, end=LATEST)) == [*enumerate(RECORDS)][low:]
    assert file_topics(tmp_path)[TOPIC].ends == {0: (low, 1_000)}
    assert FileTopics(tmp_path).first_offset(TOPIC, 0) == low


def test_who_reads_too_late_is_told_and_goes_on_when_asked(tmp_path: Path) -> None:
    writer = keeping(tmp_path, 300_000)
    write(tmp_path, *RECORDS[:5], writer=writer)
    early, running = reader(tmp_path), reader(tmp_path)
    assert len(read(early)) == len(read(running)) == 5
    write_all(tmp_path, writer)
    low = first_offset(tmp_path, TOPIC, 0)
    text = rf"next offset 5 was removed by retention, the oldest left is {low}; nothing was .*"
    remedy = "`footfall run f --skip-removed` goes on from there"
    with pytest.raises(SourceError, match=text + remedy):
        reader(tmp_path, state=early.state())
    with pytest.raises(SourceError, match=text):
        reader(tmp_path, start=Position("offset", 5))
    said: list[str] = []
    late = reader(tmp_path, state=early.state(), skipped=said.append)
    assert [offset for offset, _ in read(late)] == list(range(low, 1_005))
    assert said == [
        f"t/0: skipped offsets 5 to {low - 1}, which retention removed: {low - 5} offsets; "
        f"goes on at {low}"
    ]
    # Its segment is still open here, and read to its end before something is missing.
    with pytest.raises(SourceError, match=r"was removed by retention, the oldest left is"):
        read(running)
    assert 5 < running.bounds()[0] < low


def test_segments_go_when_all_of_their_records_are_too_old(tmp_path: Path) -> None:
    write_all(tmp_path, keeping(tmp_path))
    old, *_, active = segments(tmp_path, TOPIC, 0)
    assert old.first == 0
    os.utime(old.records, (time.time() - 7_200, time.time() - 7_200))
    hour = FileTopics(tmp_path, retention=Retention(hours=1))
    write(tmp_path, b"now", writer=hour)
    low = hour.first_offset(TOPIC, 0)
    assert low == segments(tmp_path, TOPIC, 0)[0].first > 0
    assert not old.appends.exists()
    in_a_day_ms = time.time_ns() // 1_000_000 + 86_400_000
    later = FileTopics(tmp_path, retention=Retention(hours=1), clock_ms=lambda: in_a_day_ms)
    write(tmp_path, b"in a day", writer=later)
    assert read(reader(tmp_path)) == [(1_001, b"in a day")]
    assert active.first < 1_001


def test_a_quiet_partition_begins_a_new_segment_after_some_time(tmp_path: Path) -> None:
    clock = [1_000]
    writer = FileTopics(tmp_path, retention=Retention(hours=8), clock_ms=lambda: clock[-1])
    for hour in range(4):
        clock.append(1_000 + hour * 3_600_000)
        write(tmp_path, b"%d" % hour, b"and", writer=writer)
    assert [segment.first for segment in segments(tmp_path, TOPIC, 0)] == [0, 2, 4, 6]
    for value, offset in ((0, 0), (1_001, 2), (3_601_000, 2), (7_201_001, 6), (10**9, 8)):
        assert reader(tmp_path, start=Position("time", value)).bounds()[0] == offset
        assert reader(tmp_path, end=Position("time", value)).bounds()[1] == offset


def test_states_and_looks_work_at_the_edges_of_segments(tmp_path: Path) -> None:
    write_all(tmp_path, keeping(tmp_path))
    firsts = [segment.first for segment in segments(tmp_path, TOPIC, 0)]
    assert len(firsts) > 10
    topic = FileTopic(tmp_path, TOPIC)
    for first in firsts[1:]:
        for offset in (first - 1, first, first + 1):
            assert topic.record_at(0, offset).value == RECORDS[offset]
            start = Position("offset", offset)
            one = reader(tmp_path, start=start, end=Position("offset", offset + 1))
            assert read(one) == [(offset, RECORDS[offset])]
            # Saved at the end of a segment, or at the beginning of the next one.
            again = reader(tmp_path, state=ReadState(*one.state()), poll_bytes_max=10**6)
            assert [offset for offset, _ in read(again)] == list(range(offset + 1, 1_000))
    with pytest.raises(SourceError, match="ends at offset 1000, before 1001"):
        reader(tmp_path, start=Position("offset", 1_001))
    newest = FileTail(tmp_path).newest(TOPIC, 200)
    assert newest == RECORDS[:-201:-1]


def test_a_roll_that_was_broken_off_is_carried_on(tmp_path: Path) -> None:
    writer = keeping(tmp_path)
    write(tmp_path, *RECORDS[:10], writer=writer)
    running = reader(tmp_path)
    assert len(read(running)) == 10
    # The writer was killed when it had renamed the file.
    path = records_path(tmp_path, TOPIC, 0)
    path.rename(path.with_name("0.0.jsonl"))
    assert (running.poll(0).count, running.poll(0).lag) == (0, 0)
    assert end_offset(tmp_path, TOPIC, 0) == 10
    write(tmp_path, b"more", writer=writer)
    assert read(running) == [(10, b"more")]
    assert [segment.first for segment in segments(tmp_path, TOPIC, 0)] == [0, 10]


def test_topics_are_their_owners_own(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_all(tmp_path / "topics", keeping(tmp_path / "topics"))
    finally:
        os.umask(before)
    for path in (tmp_path / "topics").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert stat.S_IMODE((tmp_path / "topics").stat().st_mode) == 0o700
