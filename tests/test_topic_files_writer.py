"""Embedded topics, the writing side: records in, whole lines out, whatever dies in between."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.schemas.records import TopicRecord
from footfall.schemas.topic_files import (
    ENTRY,
    end_offset,
    partition_of,
    partitions_of,
    records_path,
    segments,
)
from footfall.sinks import SinkRefusedError, SinkUnavailableError, _partition_file, topic_files
from footfall.sinks.topic_files import FileTopics, lock_exclusively
from footfall.streams.topic_files import FileTopic
from tests.topic_files_support import entries_of

ROOT = Path(__file__).parent.parent


def lines_of(folder: Path, topic: str, partition: int) -> list[bytes]:
    """Return the records of a partition; fail where the last of a segment is torn."""
    found: list[bytes] = []
    for segment in segments(folder, topic, partition):
        assert segment.first == len(found)
        lines = segment.records.read_bytes().split(b"\n")
        assert lines.pop() == b"", f"{segment.records} ends in a torn line"
        found += lines
    return found


def assert_entries_true(folder: Path, topic: str, partition: int) -> None:
    """Check that every entry names the lines that it came with, and that they are sorted."""
    data = records_path(folder, topic, partition).read_bytes()
    counted = segments(folder, topic, partition)[-1].first
    counted_to = 0
    entries = entries_of(folder, topic, partition)
    index = segments(folder, topic, partition)[-1].appends
    assert index.stat().st_size == (len(entries) + 1) * ENTRY.size
    for entry in entries:
        assert entry.position == 0 or data[entry.position - 1 : entry.position] == b"\n"
        counted += data.count(b"\n", counted_to, entry.position)
        assert counted == entry.first
        assert data.count(b"\n", entry.position, entry.end) == entry.records
        assert data[entry.end - 1 : entry.end] == b"\n"
        counted, counted_to = entry.next_offset, entry.end
    assert end_offset(folder, topic, partition) == counted + data.count(b"\n", counted_to)


def open_files() -> int:
    """Return the number of this process's descriptors; 0 on a system that does not show them."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def run_python(code: str, *args: object, **kwargs: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,  # type: ignore[call-overload]
    )


def test_records_go_to_the_partition_of_their_key_in_order(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    records = [(b"user-%d" % (n % 50), b'{"n":%d}' % n) for n in range(1000)]
    topics.write("user_tags", records[:300])
    topics.write("user_tags", records[300:])
    for partition in range(10):
        expected = [value for key, value in records if partition_of(key, 10) == partition]
        assert lines_of(tmp_path, "user_tags", partition) == expected
        assert end_offset(tmp_path, "user_tags", partition) == len(expected)


def test_records_without_a_key_go_to_partition_0(tmp_path: Path) -> None:
    FileTopics(tmp_path).write("visits", [(None, b"a"), (b"", b"b")])
    assert lines_of(tmp_path, "visits", 0) == [b"a", b"b"]


def test_a_newline_inside_a_record_becomes_a_space(tmp_path: Path) -> None:
    FileTopics(tmp_path).write(
        "visits", [(None, b"a\nb"), (None, b""), (None, b"\n"), (None, b"c")]
    )
    assert lines_of(tmp_path, "visits", 0) == [b"a b", b"", b" ", b"c"]


def test_records_appended_to_one_partition_are_numbered(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    topics.create("user_tags", 3)
    topics.write_to("user_tags", 2, [TopicRecord(b"a"), TopicRecord(b"b")])
    topics.write_to("user_tags", 2, [])
    FileTopics(tmp_path).write_each([("user_tags", 2, [b"c"])])
    topics.write_to("user_tags", 2, [TopicRecord(b"d")])
    assert lines_of(tmp_path, "user_tags", 2) == [b"a", b"b", b"c", b"d"]
    assert [entry.first for entry in entries_of(tmp_path, "user_tags", 2)] == [0, 2, 3]
    assert topics.end_offsets([("user_tags", 2), ("user_tags", 0)]) == [4, 0]
    with pytest.raises(SinkRefusedError, match="no partition 3"):
        topics.write_each([("user_tags", 3, [b"x"])])


def test_a_topic_of_the_catalogue_is_made_at_its_first_record(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path / "new" / "folder")
    assert topics.partitions("store_metrics_available") is None
    topics.write("store_metrics_available", [(b"k", b"v")])
    assert topics.partitions("store_metrics_available") == 1
    topics.write("user_tags", [(b"k", b"v")])
    assert topics.partitions("user_tags") == 10


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("clicks", "no topic clicks in .*footfall init"),
        ("../clicks", "no name for a topic"),
        ("..", "no name for a topic"),
        ("", "no name for a topic"),
        ("a" * 250, "no name for a topic"),
        ("clïcks", "no name for a topic"),
        ("clicks\n", "no name for a topic"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, topic: str, reason: str) -> None:
    with pytest.raises(SinkRefusedError, match=reason) as caught:
        FileTopics(tmp_path).write(topic, [(None, b"x")])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_create_is_idempotent_grows_and_never_shrinks(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    for partitions in (4, 4, 6):
        topics.create("clicks", partitions)
        assert partitions_of(tmp_path, "clicks") == partitions
    with pytest.raises(SinkRefusedError, match="has 6 partitions, 5 asked"):
        topics.create("clicks", 5)
    with pytest.raises(SinkRefusedError, match="takes 1 to"):
        topics.create("clicks", 0)
    assert sorted(path.name for path in (tmp_path / "clicks").glob("*.jsonl")) == [
        f"{n}.jsonl" for n in range(6)
    ]


def test_an_open_writer_sees_a_topic_grow_and_a_topic_made_anew(tmp_path: Path) -> None:
    writer, other = FileTopics(tmp_path), FileTopics(tmp_path)
    key = next(b"%d" % n for n in range(100) if partition_of(b"%d" % n, 20) == 15)
    writer.create("clicks", 2)
    writer.write("clicks", [(key, b"before")])
    other.create("clicks", 20)
    writer.write("clicks", [(key, b"after")])
    assert lines_of(tmp_path, "clicks", 15) == [b"after"]

    (tmp_path / "clicks").rename(tmp_path / "old")
    other.create("clicks", 20)
    writer.write("clicks", [(key, b"anew")])
    assert lines_of(tmp_path, "clicks", 15) == [b"anew"]


def test_processes_that_create_one_topic_at_once_agree(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from footfall.sinks import SinkRefusedError
        from footfall.sinks.topic_files import FileTopics
        topics = FileTopics(Path(sys.argv[1]))
        for partitions in range(1, 40):
            try:
                topics.create("clicks", partitions)
            except SinkRefusedError:
                assert topics.partitions("clicks") > partitions
        """
    processes = [run_python(code, tmp_path) for _ in range(4)]
    for process in processes:
        assert process.wait(60) == 0, process.communicate()[1]
        process.communicate()
    assert partitions_of(tmp_path, "clicks") == 39
    assert len(list((tmp_path / "clicks").glob("*.jsonl"))) == 39
    assert not list((tmp_path / "clicks").glob("*.tmp"))


def test_a_meta_file_that_is_nonsense_is_named(tmp_path: Path) -> None:
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks" / "topic.json").write_text("{")
    with pytest.raises(SinkRefusedError, match=r"topic.json does not say how many partitions"):
        FileTopics(tmp_path).write("clicks", [(None, b"x")])


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "topics").write_text("in the way")
    with pytest.raises(SinkRefusedError, match="topics cannot be a folder"):
        FileTopics(tmp_path / "topics").write("user_tags", [(None, b"x")])


def test_another_writer_that_never_lets_go_is_an_error_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    with path.open("wb") as holder, path.open("rb") as waiter:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(SinkUnavailableError, match=r"locked by another writer for 0\.05 s"):
            lock_exclusively(waiter.fileno(), path, 0.05)


def test_open_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_files, "OPEN_PARTITIONS_MAX", 5)
    topics = FileTopics(tmp_path)
    topics.create("clicks", 40)
    before = open_files()
    for round_ in range(3):
        topics.write("clicks", [(b"%d" % n, b"%d" % round_) for n in range(300)])
        assert open_files() <= before + 15
    total = sum(end_offset(tmp_path, "clicks", partition) for partition in range(40))
    topics.close()
    topics.close()
    assert total == 900


FULL_DISK = """
    import json, resource, signal, sys
    from pathlib import Path
    from footfall.sinks import SinkUnavailableError
    from footfall.sinks.topic_files import FileTopics
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    topics = FileTopics(Path(sys.argv[1]))
    topics.create("clicks", 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    acknowledged = 0
    try:
        while True:
            numbers = range(acknowledged, acknowledged + 70)
            topics.write("clicks", [(None, b"%07d" % n + b"x" * 1000) for n in numbers])
            acknowledged += 70
    except SinkUnavailableError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    topics.write("clicks", [(None, b"space again")])
    print(json.dumps([acknowledged, message]))
    """


def test_a_full_disk_is_one_clear_line_and_leaves_whole_records(tmp_path: Path) -> None:
    """A limit on the size of files fills the disk: first a short write, then an error."""
    process = run_python(FULL_DISK, tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    acknowledged, message = json.loads(out)
    assert "is full" in message
    assert "\n" not in message
    lines = lines_of(tmp_path, "clicks", 0)
    assert lines.pop() == b"space again"
    assert [int(line[:7]) for line in lines] == list(range(len(lines)))
    assert all(len(line) == 1007 for line in lines)
    assert acknowledged <= len(lines) < acknowledged + 70
    assert_entries_true(tmp_path, "clicks", 0)


WRITER = """
    import random, sys
    from pathlib import Path
    import footfall.sinks.topic_files
    from footfall.sinks.topic_files import FileTopics
    footfall.sinks.topic_files.SEGMENT_BYTES_MAX = int(sys.argv[4])
    folder, writer, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    rng = random.Random(seed)
    topics = FileTopics(folder)
    number = 0
    while True:
        count = rng.choice((1, 10, 2000))
        batch = []
        for _ in range(count):
            key = b"%d" % rng.randrange(3)
            filler = b"x" * rng.randrange(400)
            batch.append((key, b"<%s %d %s>" % (writer.encode(), number, filler)))
            number += 1
        topics.write("clicks", batch)
        print(number, flush=True)
    """


@pytest.mark.parametrize("segment_bytes", [100_000, 10**9])
def test_writers_killed_in_the_middle_lose_no_acknowledged_record(
    tmp_path: Path, segment_bytes: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    FileTopics(tmp_path).create("clicks", 3)
    topic = FileTopic(tmp_path, "clicks", poll_bytes_max=500_000)
    readers = [topic.open(partition, None) for partition in range(3)]
    read: list[list[bytes]] = [[], [], []]

    def read_on() -> None:
        """Read on beside the writers, resuming each time."""
        for partition, reader in enumerate(readers):
            poll = reader.poll(0)
            read[partition] += poll.data.split(b"\n")[:-1]
            reader.close()
            readers[partition] = topic.open(partition, reader.state())

    acknowledged: dict[str, int] = {}
    running: dict[str, subprocess.Popen[str]] = {}

    def start(name: str) -> None:
        seed = rng.randrange(2**32)
        running[name] = run_python(WRITER, tmp_path, name, seed, segment_bytes)

    def kill(name: str) -> None:
        process = running.pop(name)
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
        acknowledged[name] = int(out.split()[-1]) if out.split() else 0

    try:
        for round_ in range(2):
            for place in "abc":
                start(f"{place}{round_}")
            for process in running.values():
                assert process.stdout is not None
                assert process.stdout.readline(), "it never wrote"
            for name in rng.sample(sorted(running), 3):
                until_s = time.monotonic() + rng.uniform(0.01, 0.2)
                while time.monotonic() < until_s:
                    read_on()
                kill(name)
    finally:
        for name in list(running):
            kill(name)
    FileTopics(tmp_path).write("clicks", [(b"%d" % n, b"<end 0 >") for n in range(20)])

    seen: dict[str, list[int]] = {}
    for partition in range(3):
        for line in lines_of(tmp_path, "clicks", partition):
            assert line.startswith(b"<"), line[:60]
            assert line.endswith(b">"), line[-60:]
            name, number, _ = line[1:-1].split(b" ")
            seen.setdefault(name.decode(), []).append(int(number))
        assert_entries_true(tmp_path, "clicks", partition)
    rolls = sum(len(segments(tmp_path, "clicks", partition)) - 1 for partition in range(3))
    assert (rolls > 3) == (segment_bytes < 10**9)
    ends = [end_offset(tmp_path, "clicks", partition) for partition in range(3)]
    for _ in range(sum(ends)):
        if [*map(len, read)] == ends:
            break
        read_on()
    assert read == [lines_of(tmp_path, "clicks", partition) for partition in range(3)]
    assert acknowledged.keys() == seen.keys() - {"end"}
    for name, count in acknowledged.items():
        numbers = seen[name]
        assert len(numbers) == len(set(numbers)), f"{name} has a record twice"
        missing = set(range(count)) - set(numbers)
        assert not missing, f"{name} lost {len(missing)} acknowledged records"


lengths = st.lists(st.integers(0, 40_000), min_size=1, max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), lengths),
        st.tuples(st.just("writer dies"), st.integers(0, 1), lengths, st.integers(0, 150_000)),
        st.tuples(st.just("entries lost"), st.integers(0, 10)),
        st.tuples(st.just("power lost"), st.integers(0, 150_000), st.integers(0, 100)),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=120)
@given(steps)
def test_whatever_a_crash_left_behind_records_and_entries_stay_true(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writers = [FileTopics(folder), FileTopics(folder)]
        writers[0].create("clicks", 1)
        expected: list[bytes] = []
        records = records_path(folder, "clicks", 0)
        index = segments(folder, "clicks", 0)[-1].appends

        def write(writer: FileTopics, lengths: list[int]) -> None:
            values = [b"%d" % len(expected) + b"x" * length for length in lengths]
            writer.write("clicks", [(None, value) for value in values])
            expected.extend(values)
            assert_entries_true(folder, "clicks", 0)

        for step in steps:
            match step:
                case ("write", writer, lengths):
                    write(writers[writer], lengths)
                case ("writer dies", writer, lengths, cut_bytes):
                    write(writers[writer], lengths)
                    last = entries_of(folder, "clicks", 0)[-1]
                    # The entry is whole, the lines are not.
                    os.truncate(records, max(last.position, last.end - cut_bytes))
                    left = records.read_bytes()[last.position :].count(b"\n")
                    del expected[len(expected) - len(lengths) + left :]
                    writers[writer].close()
                case ("entries lost", kept):
                    write(writers[0], [1])
                    for writer in writers:
                        writer.close()
                    whole = entries_of(folder, "clicks", 0)[:kept]
                    os.truncate(index, (len(whole) + 1) * ENTRY.size)
                case ("power lost", zeros, zeros_of_index):
                    write(writers[0], [1])
                    for writer in writers:
                        writer.close()
                    with records.open("ab") as file:
                        file.write(bytes(zeros))
                    with index.open("ab") as file:
                        file.write(bytes(zeros_of_index))
            assert end_offset(folder, "clicks", 0) == len(expected)
        for writer in writers:
            write(writer, [1])
            writer.close()
        assert lines_of(folder, "clicks", 0) == expected


def test_a_torn_entry_is_cut_off_before_the_next(tmp_path: Path) -> None:
    record = [(None, b"x" * 70_000)]
    topics, other = FileTopics(tmp_path), FileTopics(tmp_path)
    topics.create("clicks", 1)
    for _ in range(3):
        topics.write("clicks", record)
    index = segments(tmp_path, "clicks", 0)[-1].appends
    os.truncate(index, 3 * ENTRY.size + 7)
    other.write("clicks", record * 2)
    assert_entries_true(tmp_path, "clicks", 0)
    assert len(entries_of(tmp_path, "clicks", 0)) == 3


def test_an_entry_tells_when_its_records_were_appended(tmp_path: Path) -> None:
    clock = [0]
    topics = FileTopics(tmp_path, clock_ms=lambda: clock[-1])
    topics.create("clicks", 1)
    for now_ms in (1000, 2000, 1500):
        clock.append(now_ms)
        topics.write("clicks", [(None, b"x")] * 70)
    topics.write_to("clicks", 0, [TopicRecord(b"y", timestamp_ms=ms) for ms in (7, 7, 5)])
    topics.write_to("clicks", 0, [TopicRecord(b"z")])
    entries = entries_of(tmp_path, "clicks", 0)
    assert [(entry.appended_ms, entry.records) for entry in entries] == [
        (1000, 70),
        (2000, 70),
        (1500, 70),
        (7, 2),
        (5, 1),
        (1500, 1),
    ]


def test_whoever_sees_a_line_can_see_its_entry_and_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = FileTopics(tmp_path, clock_ms=lambda: 5)
    topics.create("clicks", 1)
    write_all = _partition_file._write
    seen: list[tuple[int, int]] = []

    def watched(fd: int, data: bytes) -> None:
        keys = segments(tmp_path, "clicks", 0)[-1].keys
        seen.append((len(entries_of(tmp_path, "clicks", 0)), keys.stat().st_size))
        write_all(fd, data)
        if data.endswith(b"\n"):
            reader = FileTopic(tmp_path, "clicks").open(0, None)
            times = reader.poll(0).appended_ms
            assert times is not None
            assert set(times) == {5}
            assert FileTopic(tmp_path, "clicks").record_at(0, 0).key == b"key"

    monkeypatch.setattr(_partition_file, "_write", watched)
    topics.write("clicks", [(b"key", b"a"), (b"key", b"b")])
    topics.write("clicks", [(b"key", b"c")])
    # The keys, then the entry, then the lines.
    (first, empty), (second, some), (third, same), (fourth, more) = seen
    assert (first, second, third, fourth) == (0, 1, 1, 2)
    assert 0 == empty < some == same < more


def test_a_large_append_has_several_entries(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    topics.create("clicks", 1)
    topics.write("clicks", [(b"%d" % n, b"0123456789abcde") for n in range(200_000)])
    entries = entries_of(tmp_path, "clicks", 0)
    assert len(entries) == 4
    assert_entries_true(tmp_path, "clicks", 0)
