"""Reading embedded topics while others write: whole lines, once each, from any place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.topic_files import index_path, records_path
from schemas.topics import RECORD_BYTES_MAX
from sinks.topic_files import FileTopics
from streams import topic_files
from streams.source import EARLIEST, LATEST, Position, SourceError
from streams.topic_files import FileReader, FileTopic


def write(folder: Path, *records: bytes, wall_ms: int = 0) -> None:
    topics = FileTopics(folder, clock_ms=lambda: wall_ms)
    topics.create("t", 1)
    topics.write("t", [(None, record) for record in records])
    topics.close()


def reader(
    folder: Path,
    *,
    start: Position = EARLIEST,
    end: Position | None = None,
    state: tuple[int, int] | None = None,
    poll_bytes_max: int = 64,
) -> FileReader:
    topic = FileTopic(folder, "t", start=start, end=end, poll_bytes_max=poll_bytes_max)
    return topic.open(0, state)


def read(found: FileReader) -> list[tuple[int, bytes]]:
    """(offset, record) of all that stands there now."""
    records: list[tuple[int, bytes]] = []
    while not found.finished() and (poll := found.poll(0)).count:
        lines = poll.data.split(b"\n")
        assert lines.pop() == b""
        assert len(lines) == poll.count
        records += [(poll.offset_of(row), line) for row, line in enumerate(lines)]
    return records


def test_records_are_read_in_order_with_their_offsets(tmp_path: Path) -> None:
    write(tmp_path, b"a", b"", b"c")
    assert read(reader(tmp_path)) == [(0, b"a"), (1, b""), (2, b"c")]


def test_what_is_appended_later_is_read_too(tmp_path: Path) -> None:
    write(tmp_path)
    found = reader(tmp_path)
    assert found.poll(0).lag == 0
    write(tmp_path, b"a")
    assert read(found) == [(0, b"a")]
    write(tmp_path, b"b")
    assert read(found) == [(1, b"b")]


def test_a_torn_line_is_not_read_and_the_next_writer_cuts_it_off(tmp_path: Path) -> None:
    write(tmp_path, b"a")
    with records_path(tmp_path, "t", 0).open("ab") as file:
        file.write(b'{"half": ')
    found = reader(tmp_path)
    assert read(found) == [(0, b"a")]
    assert found.poll(0).lag == 0
    write(tmp_path, b"b")
    assert read(found) == [(1, b"b")]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 200), max_size=60),
    poll_bytes_max=st.integers(1, 500),
    stop_after=st.integers(0, 60),
)
def test_reading_goes_on_exactly_where_its_state_says(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    poll_bytes_max: int,
    stop_after: int,
) -> None:
    folder = tmp_path_factory.mktemp("topics")
    records = [b"%d" % number * (size // 2) for number, size in enumerate(sizes)]
    write(folder, *records)
    first = reader(folder, poll_bytes_max=poll_bytes_max)
    taken: list[tuple[int, bytes]] = []
    while len(taken) < stop_after and (poll := first.poll(0)).count:
        assert poll.lag == len(records) - poll.next_offset
        lines = poll.data.split(b"\n")[:-1]
        taken += [(poll.offset_of(row), line) for row, line in enumerate(lines)]
    rest = read(reader(folder, state=first.state(), poll_bytes_max=poll_bytes_max))
    assert taken + rest == list(enumerate(records))


@pytest.mark.parametrize("keep_index", [True, False])
@pytest.mark.parametrize("poll_bytes_max", [64, 150_000])
def test_reading_starts_and_ends_at_an_offset(
    tmp_path: Path, keep_index: bool, poll_bytes_max: int
) -> None:
    records = [b"%04d" % number + b"x" * 1_000 for number in range(500)]
    for start in range(0, 500, 50):
        write(tmp_path, *records[start : start + 50])
    index = index_path(tmp_path, "t", 0)
    assert index.stat().st_size > 24
    if not keep_index:
        index.unlink()
    for first, last in ((0, 500), (123, 456), (70, 71), (499, 500), (500, 500)):
        found = reader(
            tmp_path,
            start=Position("offset", first),
            end=Position("offset", last),
            poll_bytes_max=poll_bytes_max,
        )
        assert [offset for offset, _ in read(found)] == list(range(first, last))
        assert found.finished()
    assert reader(tmp_path, start=LATEST).state()[0] == 500
    with pytest.raises(SourceError, match="ends at offset 500, before 501"):
        reader(tmp_path, start=Position("offset", 501))


def test_reading_once_ends_where_the_topic_ended_when_it_began(tmp_path: Path) -> None:
    write(tmp_path, b"a", b"b")
    found = reader(tmp_path, end=LATEST)
    write(tmp_path, b"c")
    assert read(found) == [(0, b"a"), (1, b"b")]
    assert found.finished()


def test_a_start_by_time_misses_nothing_that_was_appended_from_then_on(tmp_path: Path) -> None:
    for second in range(20):
        block = [b"%02d" % second + b"x" * 10_000 for _ in range(8)]
        write(tmp_path, *block, wall_ms=second * 1_000)
    found = read(reader(tmp_path, start=Position("time", 7_000), poll_bytes_max=100_000))
    seconds = [int(record[:2]) for _, record in found]
    assert seconds[0] in (6, 7)
    assert [second for second in seconds if second >= 7] == [
        s for s in range(7, 20) for _ in "8" * 8
    ]
    until = read(reader(tmp_path, end=Position("time", 7_000), poll_bytes_max=100_000))
    assert {int(record[:2]) for _, record in until} >= set(range(7))


def test_a_line_too_long_for_a_poll_is_read(tmp_path: Path) -> None:
    write(tmp_path, b"a", b"x" * 2_000_000, b"b")
    assert [(n, len(line)) for n, line in read(reader(tmp_path))] == [
        (0, 1),
        (1, 2_000_000),
        (2, 1),
    ]


def test_of_an_endless_line_only_the_beginning_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_files, "LINE_BYTES_MAX", RECORD_BYTES_MAX + 1_000)
    write(tmp_path, b"a", b"x" * 4_000_000, b"b")
    found = read(reader(tmp_path))
    assert [(n, len(line)) for n, line in found] == [(0, 1), (1, RECORD_BYTES_MAX + 1), (2, 1)]


def test_a_missing_topic_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no topic t in .*footfall init"):
        FileTopic(tmp_path, "t").partitions()


def test_a_topic_that_was_replaced_is_not_read_from_the_middle(tmp_path: Path) -> None:
    write(tmp_path, b"a")
    with pytest.raises(SourceError, match=r"shorter now.*--fresh"):
        reader(tmp_path, state=(10, 1_000))
