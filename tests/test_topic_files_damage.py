"""Embedded topics that are not what they were: removed, cut, replaced, torn by a power cut.

No record is lost silently: a writer goes on in a new segment, and a reader goes on where nothing
is missing, or stops with a line that says what is missing and how to go on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from footfall.schemas.records import TopicRecord
from footfall.schemas.topic_files import ENTRY, Append, records_path, segments
from footfall.sinks import SinkRefusedError
from footfall.sinks.topic_files import FileTopics
from footfall.streams import topic_files
from footfall.streams.source import LATEST, Position, ReadState, SourceError
from footfall.streams.topic_files import FileTopic
from tests.api_process_support import Process, free_port
from tests.api_support import Client, encoded, tag
from tests.topic_files_support import entries_of, read, reader, write

GO_ON = r"stop the workers( of f)? and move FOOTFALL_HOME/recovery/f away \(the demo: --fresh\)"
RECORDS = [b"%03d" % number for number in range(100)]


def stopped_after(folder: Path, count: int = 100) -> ReadState:
    """Return the state of a reader that has read so many records."""
    found = reader(folder, end=Position("offset", count), poll_bytes_max=10**6)
    assert len(read(found)) == count
    found.close()
    return found.state()


def active(folder: Path) -> Path:
    return records_path(folder, "t", 0)


def in_two_appends(folder: Path) -> None:
    write(folder, *RECORDS[:50], wall_ms=1)
    write(folder, *RECORDS[50:], wall_ms=2)


def test_a_topic_made_anew_is_not_read_from_the_middle(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    state, running = stopped_after(tmp_path), reader(tmp_path, poll_bytes_max=10**6)
    assert len(read(running)) == 100
    shutil.rmtree(tmp_path / "t")
    in_two_appends(tmp_path)
    write(tmp_path, b"more")
    for go_on in (lambda: reader(tmp_path, state=state), lambda: running.poll(0)):
        with pytest.raises(SourceError, match=f"topic t was deleted and made again .*{GO_ON}"):
            go_on()


def test_a_partition_made_anew_is_not_read_from_the_middle(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    state, running = stopped_after(tmp_path), reader(tmp_path, poll_bytes_max=10**6)
    assert len(read(running)) == 100
    for path in (tmp_path / "t").glob("0.*"):
        path.unlink()
    in_two_appends(tmp_path)
    write(tmp_path, b"more")
    with pytest.raises(SourceError, match=f"files were removed and made again.*{GO_ON}"):
        reader(tmp_path, state=state)
    running_since = topic_files.time.monotonic
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topic_files.time, "monotonic", lambda: running_since() + 10)
        running.poll(0)
        patch.setattr(topic_files.time, "monotonic", lambda: running_since() + 20)
        with pytest.raises(SourceError, match=f"removed or replaced while it was read.*{GO_ON}"):
            running.poll(0)


def test_a_state_of_another_topic_is_not_used(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    state = stopped_after(tmp_path)._replace(topic="another")
    with pytest.raises(SourceError, match=r"the state of f is of topic another, not t"):
        reader(tmp_path, state=state)


def test_a_state_of_before_topics_had_ids_is_taken_over(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    assert read(reader(tmp_path, state=(98, 98 * 4))) == [(98, b"098"), (99, b"099")]
    with pytest.raises(SourceError, match=f"cut or replaced since offset 98 was read.*{GO_ON}"):
        reader(tmp_path, state=(98, 98 * 4 + 1))


@pytest.mark.parametrize("with_entries", [True, False])
@pytest.mark.parametrize("left", [0, 4 * 30, 4 * 99 + 2])
def test_a_file_cut_below_what_was_read_stops_the_reader(
    tmp_path: Path, with_entries: bool, left: int
) -> None:
    in_two_appends(tmp_path)
    if not with_entries:
        segments(tmp_path, "t", 0)[-1].appends.unlink()
    state, running = stopped_after(tmp_path), reader(tmp_path, poll_bytes_max=10**6)
    assert len(read(running)) == 100
    os.truncate(active(tmp_path), left)
    with pytest.raises(SourceError, match=f"cut or replaced since offset 100 was read.*{GO_ON}"):
        reader(tmp_path, state=state)
    with pytest.raises(SourceError, match="was cut while it was read"):
        running.poll(0)


def test_what_a_cut_took_is_missed_and_what_is_appended_after_it_is_read(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    at_30, at_100 = stopped_after(tmp_path, 30), stopped_after(tmp_path)
    os.truncate(active(tmp_path), 4 * 40)
    with pytest.raises(SourceError, match=r"next offset 40 was lost with its file or disk"):
        read(reader(tmp_path, state=at_30))
    write(tmp_path, b"more")
    assert read(reader(tmp_path, state=at_100)) == [(100, b"more")]
    late = reader(tmp_path, state=at_30)
    with pytest.raises(SourceError, match=r"offset 40 was lost .* left is 100.*--skip-removed"):
        read(late)
    said: list[str] = []
    found = read(reader(tmp_path, state=at_30, skipped=said.append))
    assert [offset for offset, _ in found] == [*range(30, 40), 100]
    assert said == ["t/0: skipped offsets 40 to 99, which were lost: 60 offsets; goes on at 100"]


def test_a_file_removed_under_a_writer_takes_no_record_that_comes_after(tmp_path: Path) -> None:
    writer = FileTopics(tmp_path)
    write(tmp_path, *RECORDS, writer=writer)
    running, behind = reader(tmp_path, poll_bytes_max=10**6), reader(tmp_path)
    assert len(read(running)) == 100
    assert behind.poll(0).count == 16
    at_10 = stopped_after(tmp_path, 10)
    active(tmp_path).unlink()
    write(tmp_path, b"more", b"and more", writer=writer)
    assert read(running) == [(100, b"more"), (101, b"and more")]
    # It has the file open: nothing is lost for it, either.
    assert [offset for offset, _ in read(behind)] == [*range(16, 102)]
    assert read(reader(tmp_path)) == [(100, b"more"), (101, b"and more")]
    with pytest.raises(SourceError, match=r"offset 10 was removed .* left is 100"):
        reader(tmp_path, state=at_10)


def test_files_removed_under_a_running_api_lose_no_tag_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    port = free_port()
    topics = tmp_path / "topics"
    server = Process(tmp_path, port)
    try:
        client = Client(port)
        for number in range(140):
            if number == 40:
                readers = [FileTopic(topics, "user_tags").open(part, None) for part in range(10)]
                for path in topics.glob("user_tags/*.jsonl"):
                    path.unlink()
            assert client.post("/user_tags", encoded(tag(cookie=f"c{number}"))).status == 204
    finally:
        server.close()
    late = [FileTopic(topics, "user_tags").open(part, None) for part in range(10)]
    for found, first in ((readers, 0), (late, 40)):
        cookies = [json.loads(line)["cookie"] for one in found for _, line in read(one)]
        assert sorted(cookies) == sorted(f"c{number}" for number in range(first, 140))


def test_a_file_removed_before_the_next_writer_starts_gives_no_offset_twice(
    tmp_path: Path,
) -> None:
    in_two_appends(tmp_path)
    state = stopped_after(tmp_path)
    active(tmp_path).unlink()
    waiting = reader(tmp_path, state=state)
    assert (waiting.poll(0).count, waiting.poll(0).lag) == (0, 0)
    new = reader(tmp_path, end=LATEST)
    assert (new.bounds(), new.finished()) == ((100, 100), True)
    with pytest.raises(SourceError, match=r"offset 10 was lost .* left is 100"):
        reader(tmp_path, state=state._replace(offset=10, position=40))
    write(tmp_path, b"more")
    assert read(waiting) == [(100, b"more")]
    assert read(reader(tmp_path, state=state)) == [(100, b"more")]


def lie(folder: Path, change: Callable[[list[Append]], list[Append]]) -> None:
    """Write other entries than those that are true."""
    entries = change(entries_of(folder))
    with segments(folder, "t", 0)[-1].appends.open("r+b") as file:
        file.seek(ENTRY.size)
        file.write(b"".join(ENTRY.pack(*entry) for entry in entries))
        file.truncate()


LIES: dict[str, Callable[[list[Append]], list[Append]]] = {
    "not at a line's start": lambda es: [es[0], es[1]._replace(position=es[1].position + 1)],
    "over the next one": lambda es: [es[0]._replace(size=250), es[1]],
    "other numbers": lambda es: [es[0], es[1]._replace(first=49)],
    "more records than lines": lambda es: [es[0], es[1]._replace(records=60)],
    "not in order": lambda es: [es[1], es[0]],
    "no numbers at all": lambda es: [Append(-1, -1, -1, -1, 1, 1)] * 2,
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("poll_bytes_max", [10, 64, 10**6])
def test_an_index_that_lies_is_named_with_a_remedy(
    tmp_path: Path, change: Callable[[list[Append]], list[Append]], poll_bytes_max: int
) -> None:
    in_two_appends(tmp_path)
    lie(tmp_path, change)
    with pytest.raises(SourceError, match=r"0\.appends does not fit its records .*remove 0\.0"):
        found = read(reader(tmp_path, end=LATEST, poll_bytes_max=poll_bytes_max))
        pytest.fail(f"{len(found)} records were read")
    segments(tmp_path, "t", 0)[-1].appends.unlink()
    assert [record for _, record in read(reader(tmp_path, end=LATEST))] == RECORDS


@pytest.mark.parametrize("name", ["not at a line's start", "more records than lines"])
def test_a_writer_does_not_append_behind_an_index_that_lies(tmp_path: Path, name: str) -> None:
    in_two_appends(tmp_path)
    lie(tmp_path, LIES[name])
    with pytest.raises(SinkRefusedError, match=r"0\.appends does not fit its records") as caught:
        write(tmp_path, b"more")
    assert "\n" not in str(caught.value)


def test_an_entry_far_beyond_the_file_gives_a_new_segment(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    lie(tmp_path, lambda es: [*es, Append(100, 10**12, 3, -1, 10, 99)])
    with pytest.raises(SourceError, match=r"next offset 100 was lost .* left is 110"):
        read(reader(tmp_path))
    write(tmp_path, b"more")
    said: list[str] = []
    assert read(reader(tmp_path, skipped=said.append))[-1] == (110, b"more")


def test_what_is_no_index_is_named(tmp_path: Path) -> None:
    in_two_appends(tmp_path)
    segments(tmp_path, "t", 0)[-1].appends.write_bytes(b"nonsense" * 20)
    for act in (lambda: reader(tmp_path), lambda: write(tmp_path, b"more")):
        with pytest.raises((SourceError, SinkRefusedError), match="does not begin as an index"):
            act()


def large_appends(folder: Path) -> list[bytes]:
    """Return ten appends of 9,900 bytes each."""
    records = [b"%098d" % number for number in range(1_000)]
    for start in range(0, 1_000, 100):
        write(folder, *records[start : start + 100], wall_ms=start)
    return records


@pytest.mark.parametrize(
    ("start", "size", "lost"),
    [
        # Within an append, over several, and from the middle of one to that of another.
        (20_000, 4_096, (200, 300)),
        (19_800, 19_800, (200, 400)),
        (24_000, 20_000, (200, 500)),
    ],
)
@pytest.mark.parametrize("poll_bytes_max", [5_000, 25_000, 10**6])
def test_a_hole_of_zeros_stops_the_reader_or_is_skipped_when_asked(
    tmp_path: Path, start: int, size: int, lost: tuple[int, int], poll_bytes_max: int
) -> None:
    records = large_appends(tmp_path)
    with active(tmp_path).open("r+b") as file:
        file.seek(start)
        file.write(bytes(size))
    found = reader(tmp_path, end=LATEST, poll_bytes_max=poll_bytes_max)
    given: list[tuple[int, bytes]] = []
    with pytest.raises(SourceError, match=rf"was lost .* left is {lost[1]}.*--skip-removed"):
        while poll := found.poll(0):
            lines = poll.data.split(b"\n")[:-1]
            given += zip(range(poll.first_offset, poll.next_offset), lines, strict=True)
    said: list[str] = []
    skipping = reader(tmp_path, end=LATEST, poll_bytes_max=poll_bytes_max, skipped=said.append)
    rest = read(skipping)
    assert given == rest[: len(given)]
    assert all(records[offset] == record for offset, record in rest)
    missing = set(range(1_000)) - {offset for offset, _ in rest}
    assert missing <= set(range(*lost))
    assert len(said) == 1
    assert f"to {lost[1] - 1}, which were lost" in said[0]


def test_zeros_at_the_end_are_not_read_and_the_next_writer_begins_after_them(
    tmp_path: Path,
) -> None:
    large_appends(tmp_path)
    size = active(tmp_path).stat().st_size
    with active(tmp_path).open("r+b") as file:
        file.seek(size - 15_000)
        file.write(bytes(15_000))
    with pytest.raises(SourceError, match=r"was lost .* left is 1000"):
        read(reader(tmp_path, end=LATEST))
    write(tmp_path, b"more")
    said: list[str] = []
    found = read(reader(tmp_path, end=LATEST, skipped=said.append))
    assert found[-1] == (1_000, b"more")
    assert len(said) == 1


def test_a_damaged_keys_file_is_told_by_who_needs_it_and_by_nobody_else(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    topics.create("t", 1)
    topics.write_to("t", 0, [TopicRecord(b"a", b"key", [("trace", b"1"), ("none", None)], 7)])
    topic = FileTopic(tmp_path, "t")
    assert topic.record_at(0, 0) == TopicRecord(b"a", b"key", [("trace", b"1"), ("none", None)], 7)
    with pytest.raises(SourceError, match="t/0 has no record at offset 1: its oldest is 0"):
        topic.record_at(0, 1)
    keys = segments(tmp_path, "t", 0)[-1].keys
    whole = keys.read_bytes()
    keys.write_bytes(whole.replace(b"key", b"kex"))
    with pytest.raises(SourceError, match=r"0\.keys is damaged at byte 0: the keys and headers"):
        topic.record_at(0, 0)
    keys.write_bytes(whole[:-1])
    with pytest.raises(SourceError, match=r"0\.keys is damaged at byte 0: the keys and headers"):
        topic.record_at(0, 0)
    keys.unlink()
    with pytest.raises(SourceError, match=r"0\.keys is damaged"):
        topic.record_at(0, 0)
    assert read(reader(tmp_path)) == [(0, b"a")]


def test_a_topic_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, b"a")
    path = tmp_path / "t" / "topic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))
    with pytest.raises(SourceError, match=r"topic.json is of a newer version \(format 3\)"):
        reader(tmp_path)
    with pytest.raises(SinkRefusedError, match="newer version"):
        FileTopics(tmp_path).write("t", [(None, b"b")])
