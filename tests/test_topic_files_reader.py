"""Reading embedded topics while others write: whole lines, once each, from any place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.schemas.topic_files import records_path, segments
from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.streams import _segment
from footfall.streams.batch import UNKNOWN_MS
from footfall.streams.source import LATEST, Position, SourceError
from footfall.streams.topic_files import FileTopic
from tests.topic_files_support import read, reader, write


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
    write(tmp_path, b"first of a killed writer", b"its second")
    path = records_path(tmp_path, "t", 0)
    os.truncate(path, path.stat().st_size - 3)
    os.utime(path, (0, 0))
    found = reader(tmp_path)
    assert read(found) == [(0, b"a"), (1, b"first of a killed writer")]
    assert found.poll(0).lag == 0
    assert read(reader(tmp_path, end=LATEST)) == [(0, b"a"), (1, b"first of a killed writer")]
    write(tmp_path, b"b")
    assert read(found) == [(2, b"b")]


def test_a_line_that_a_person_left_without_its_newline_is_a_record(tmp_path: Path) -> None:
    write(tmp_path, b"a")
    path = records_path(tmp_path, "t", 0)
    with path.open("ab") as file:
        file.write(b"by hand\r\n\r\nunfinished")
    found = reader(tmp_path)
    # More of it may be on its way.
    assert read(found) == [(0, b"a"), (1, b"by hand\r"), (2, b"\r")]
    assert found.poll(0).lag == 0
    os.utime(path, (0, 0))
    assert read(found) == [(3, b"unfinished")]
    with path.open("ab") as file:
        file.write(b"another")
    # Who reads to the end waits for it; a writer does not.
    assert read(reader(tmp_path, end=LATEST))[-1] == (4, b"another")
    with path.open("ab") as file:
        file.write(b"third")
    write(tmp_path, b"b")
    assert read(found) == [(4, b"another"), (5, b"third"), (6, b"b")]


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


@pytest.mark.parametrize("keep_entries", [True, False])
@pytest.mark.parametrize("poll_bytes_max", [64, 150_000])
def test_reading_starts_and_ends_at_an_offset(
    tmp_path: Path, keep_entries: bool, poll_bytes_max: int
) -> None:
    records = [b"%04d" % number + b"x" * 1_000 for number in range(500)]
    for start in range(0, 500, 50):
        write(tmp_path, *records[start : start + 50])
    if not keep_entries:
        segments(tmp_path, "t", 0)[-1].appends.unlink()
    for first, last in ((0, 500), (123, 456), (70, 71), (499, 500), (500, 500)):
        found = reader(
            tmp_path,
            start=Position("offset", first),
            end=Position("offset", last),
            poll_bytes_max=poll_bytes_max,
        )
        assert [offset for offset, _ in read(found)] == list(range(first, last))
        assert found.finished()
    assert reader(tmp_path, start=LATEST).state().offset == 500
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
    monkeypatch.setattr(_segment, "LINE_BYTES_MAX", RECORD_BYTES_MAX + 1_000)
    write(tmp_path, b"a", b"x" * 4_000_000, b"b")
    found = read(reader(tmp_path))
    assert [(n, len(line)) for n, line in found] == [(0, 1), (1, RECORD_BYTES_MAX + 1), (2, 1)]


def test_a_missing_topic_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no topic t in .*footfall init"):
        FileTopic(tmp_path, "t").partitions()


@pytest.mark.parametrize("poll_bytes_max", [8, 40, 1_000])
def test_a_poll_tells_when_its_records_were_appended(tmp_path: Path, poll_bytes_max: int) -> None:
    write(tmp_path, b"a", b"b", wall_ms=1_000)
    write(tmp_path, b"c", wall_ms=2_000)
    with records_path(tmp_path, "t", 0).open("ab") as file:
        file.write(b"by hand\n")
    write(tmp_path, b"d", b"e", wall_ms=3_000)
    found, times = reader(tmp_path, poll_bytes_max=poll_bytes_max), []
    while (poll := found.poll(0)).count:
        times += [UNKNOWN_MS] * poll.count if poll.appended_ms is None else [*poll.appended_ms]
    assert times == [1_000, 1_000, 2_000, UNKNOWN_MS, 3_000, 3_000]


def test_nothing_is_known_of_a_file_that_a_person_made(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "topic.json").write_text('{"partitions": 1}')
    assert read(reader(tmp_path)) == []
    records_path(tmp_path, "t", 0).write_bytes(b"a\nb\n")
    found = reader(tmp_path)
    assert found.poll(0).appended_ms is None
    assert read(reader(tmp_path, state=found.state())) == []
    write(tmp_path, b"c", wall_ms=5)
    assert read(found) == [(2, b"c")]
    record = FileTopic(tmp_path, "t").record_at(0, 2)
    assert (record.value, record.timestamp_ms) == (b"c", 5)
