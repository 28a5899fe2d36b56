"""A push that is killed at any moment goes on where it was: each record once, in order."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.generator.csv_replay import CsvReplay
from footfall.generator.drive import PushResult, push
from footfall.generator.progress import WINDOW_ROWS, ProgressError, ProgressFile, standing
from footfall.generator.sources import Source
from footfall.generator.store import StoreWorld
from footfall.generator.tags import TagWorld
from footfall.schemas.topic_files import records_path
from footfall.streams.source import SourceError
from tests.generator_support import (
    CrashError,
    MemoryTopics,
    SimulatedClock,
    csv_file,
    csv_row,
)

Log = dict[tuple[str, int], list[bytes]]


@given(
    expected=st.lists(st.integers(0, 3), max_size=12),
    written=st.integers(0, 12),
    strange=st.lists(st.integers(0, 12), max_size=12),
)
@settings(derandomize=True)
def test_what_stands_is_found_between_the_records_of_others(
    expected: list[int], written: int, strange: list[int]
) -> None:
    values = [b"%d" % value for value in expected]
    tail = values[:written]
    for at in strange:
        tail.insert(min(at, len(tail)), b"of another writer")
    found = standing({("t", 0): values}, {("t", 0): tail, ("t", 1): values})
    assert found["t", 0] == min(written, len(values))


def uncrashed(source: Source, total: int | None, partitions: int) -> Log:
    topics = MemoryTopics(partitions)
    push(source, topics, total=total)
    return topics.ours()


def push_on(
    source: Source,
    topics: MemoryTopics,
    path: Path,
    total: int | None,
    *,
    rate_per_s: float | None = None,
    window_rows: int = WINDOW_ROWS,
) -> PushResult | None:
    """Run one life of a push; return None where it crashed."""
    clock = SimulatedClock()
    try:
        return push(
            source,
            topics,
            rate_per_s=rate_per_s,
            total=total,
            progress=ProgressFile(path, topics.view, window_rows=window_rows),
            clock=clock,
            sleep=clock.sleep,
        )
    except CrashError:
        return None


def sources(folder: Path) -> dict[str, tuple[Source, int | None]]:
    path = folder / "shop.csv"
    path.write_bytes(csv_file(["broken" if n % 9 == 0 else csv_row(n % 40) for n in range(400)]))
    mixed = TagWorld(seed=2, duplicate=0.3, malformed=0.2, malformed_kinds=("empty_line", "null"))
    return {"csv": (CsvReplay(path), None), "tags": (mixed, 400), "store": (StoreWorld(2), 400)}


@given(
    which=st.sampled_from(["csv", "tags", "store"]),
    lives=st.lists(
        st.tuples(
            st.integers(0, 250),
            st.sampled_from([None, 300.0]),
            st.sampled_from([10, 70, 1_000]),
        ),
        min_size=1,
        max_size=6,
    ),
    partitions=st.integers(1, 5),
    strange=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_push_killed_at_any_record_writes_each_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    which: str,
    lives: list[tuple[int, float | None, int]],
    partitions: int,
    strange: float,
    seed: int,
) -> None:
    """Each life has a record at which it ends, a pace and a window; the last one ends well."""
    folder = tmp_path_factory.mktemp("push")
    source, total = sources(folder)[which]
    topics = MemoryTopics(partitions, strange=strange, random=Random(seed))
    path = folder / "progress.json"
    for crash_after, rate_per_s, window_rows in lives:
        topics.crash_after = crash_after
        push_on(source, topics, path, total, rate_per_s=rate_per_s, window_rows=window_rows)
    topics.crash_after = None
    push_on(source, topics, path, total, window_rows=100)
    assert topics.ours() == uncrashed(source, total, partitions)
    again = push_on(source, topics, path, total)
    assert again is not None and again.was_finished and again.report.sent == 0
    assert topics.ours() == uncrashed(source, total, partitions)


@pytest.mark.parametrize("killed_at_save", range(2, 8))
def test_a_push_killed_between_a_write_and_its_progress(
    tmp_path: Path, killed_at_save: int
) -> None:
    source, total = TagWorld(seed=3), 700
    topics = MemoryTopics()
    asked, is_dying = 0, True

    def end_offsets(topic: str) -> list[int]:
        nonlocal asked
        asked += 1
        if is_dying and asked >= killed_at_save:
            raise CrashError
        return MemoryTopics.end_offsets(topics, topic)

    topics.end_offsets = end_offsets  # type: ignore[method-assign]
    assert push_on(source, topics, tmp_path / "p.json", total, rate_per_s=100.0) is None
    is_dying = False
    last = push_on(source, topics, tmp_path / "p.json", total, rate_per_s=100.0)
    assert last is not None and last.report.skipped > 0
    assert topics.ours() == uncrashed(source, total, 3)


@pytest.mark.parametrize("crashes", [[WINDOW_ROWS - 1], [WINDOW_ROWS + 4_000, 30_000, 17]])
def test_what_a_killed_push_wrote_past_its_progress_is_bounded(
    tmp_path: Path, crashes: list[int]
) -> None:
    source, total = StoreWorld(seed=1), 2 * WINDOW_ROWS + 7_000
    topics = MemoryTopics(random=Random(5))
    for crash_after in crashes:
        topics.crash_after = crash_after
        assert push_on(source, topics, tmp_path / "p.json", total) is None
    topics.crash_after = None
    assert push_on(source, topics, tmp_path / "p.json", total) is not None
    assert topics.ours() == uncrashed(source, total, 3)


def test_progress_counts_on_with_a_larger_total(tmp_path: Path) -> None:
    topics, source = MemoryTopics(), TagWorld(seed=4)
    first = push_on(source, topics, tmp_path / "p.json", 1_000)
    second = push_on(source, topics, tmp_path / "p.json", 1_500)
    assert first is not None and second is not None
    assert (first.report.sent, second.report.sent, second.report.rows) == (1_000, 500, 1_500)
    assert topics.ours() == uncrashed(source, 1_500, 3)


def test_fresh_starts_anew(tmp_path: Path) -> None:
    topics, source = MemoryTopics(), TagWorld(seed=4)
    for _ in range(2):
        progress = ProgressFile(tmp_path / "p.json", topics.view, fresh=True)
        assert push(source, topics, total=300, progress=progress).report.sent == 300
    once = uncrashed(source, 300, 3)
    assert topics.ours() == {slot: values * 2 for slot, values in once.items()}


def test_progress_is_of_one_source_and_one_target(tmp_path: Path) -> None:
    topics = MemoryTopics()
    path = tmp_path / "p.json"
    push(TagWorld(1), topics, total=9, progress=ProgressFile(path, topics.view, target="here"))
    with pytest.raises(ProgressError, match=r"another source.*start fresh"):
        push(TagWorld(2), topics, total=9, progress=ProgressFile(path, topics.view, target="here"))
    with pytest.raises(ProgressError, match="another target: 'here', not 'there'"):
        push(
            TagWorld(1), topics, total=9, progress=ProgressFile(path, topics.view, target="there")
        )
    assert sum(map(len, topics.logs.values())) == 9


def test_topics_that_were_removed_are_noticed(tmp_path: Path) -> None:
    topics = MemoryTopics()
    push(TagWorld(1), topics, total=99, progress=ProgressFile(tmp_path / "p", topics.view))
    for other in (MemoryTopics(), MemoryTopics(partitions=4)):
        with pytest.raises(ProgressError, match=r"not the one .* start fresh"):
            push(TagWorld(1), other, total=200, progress=ProgressFile(tmp_path / "p", other.view))


def test_a_topic_that_is_not_there_yet_has_no_partitions(tmp_path: Path) -> None:
    topics = MemoryTopics(crash_after=40)
    view = topics.view
    absent = ProgressFile(
        tmp_path / "p",
        type(view)(
            lambda topic: view.end_offsets(topic) if any(topics.logs.values()) else [],
            view.read_tail,
            view.partition_of,
        ),
    )
    with pytest.raises(CrashError):
        push(TagWorld(1), topics, total=99, progress=absent)
    topics.crash_after = None
    assert push(TagWorld(1), topics, total=99, progress=absent).report.skipped == 40
    assert topics.ours() == uncrashed(TagWorld(1), 99, 3)


@given(
    lives=st.lists(
        st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(0, 80))),
        min_size=1,
        max_size=6,
    ),
    ended=st.booleans(),
    packed=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_file_that_grows_between_pushes_is_sent_row_by_row_once(
    tmp_path_factory: pytest.TempPathFactory,
    lives: list[tuple[int, int | None]],
    ended: bool,
    packed: bool,
) -> None:
    """Each life adds rows, and ends at some record or well."""
    folder = tmp_path_factory.mktemp("grows")
    rows: list[str] = []
    topics = MemoryTopics(random=Random(1))

    def grown(more: int) -> CsvReplay:
        rows.extend("broken" if n % 9 == 0 else csv_row(n) for n in range(more))
        content = csv_file(rows).removesuffix(b"" if ended else b"\r\n")
        (folder / "shop.csv").write_bytes(gzip.compress(content) if packed else content)
        return CsvReplay(folder / "shop.csv")

    for more, crash_after in [*lives, (7, None), (0, None)]:
        topics.crash_after = crash_after
        result = push_on(grown(more), topics, folder / "p.json", None)
    assert result is not None and result.was_finished
    assert topics.ours() == uncrashed(grown(0), None, 3)


@pytest.mark.parametrize("change", ["another row", "a row goes on", "rows are gone"])
def test_another_file_of_the_same_name_is_refused(tmp_path: Path, change: str) -> None:
    topics, rows = MemoryTopics(), [csv_row(n) for n in range(50)]
    (tmp_path / "shop.csv").write_bytes(csv_file(rows)[:-2])
    push_on(CsvReplay(tmp_path / "shop.csv"), topics, tmp_path / "p.json", None)
    before = topics.ours()
    if change == "another row":
        rows[49] = csv_row(70)
    elif change == "a row goes on":
        rows[49] += "-and-more"
    else:
        del rows[40:]
    (tmp_path / "shop.csv").write_bytes(csv_file(rows))
    said = "has 40 rows, not the 50" if change == "rows are gone" else "another file of this name"
    with pytest.raises((ProgressError, SourceError), match=said):
        push_on(CsvReplay(tmp_path / "shop.csv"), topics, tmp_path / "p.json", None)
    assert topics.ours() == before


def test_what_comes_out_of_a_pipe_is_sent_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    rows = csv_file([csv_row(n) for n in range(400)])
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(rows))
    writer.start()
    topics = MemoryTopics()
    source = CsvReplay(tmp_path / "pipe")
    assert (source.is_pipe, source.name) == (True, "pipe")
    assert push(source, topics).report.sent == 400
    writer.join()
    (tmp_path / "shop.csv").write_bytes(rows)
    assert topics.ours() == uncrashed(CsvReplay(tmp_path / "shop.csv"), None, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"identity":1}', b"\xff"])
def test_a_broken_progress_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.json").write_bytes(content)
    topics = MemoryTopics()
    with pytest.raises(ProgressError, match=r"p\.json is no progress file; start fresh"):
        push(TagWorld(1), topics, progress=ProgressFile(tmp_path / "p.json", topics.view))


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    topics = MemoryTopics()
    progress = ProgressFile(tmp_path / "file" / "p.json", topics.view)
    with pytest.raises(ProgressError, match=r"cannot keep the progress .* exists|Not a directory"):
        push(TagWorld(1), topics, progress=progress)


def test_two_pushes_of_one_source_at_once_are_refused(tmp_path: Path) -> None:
    topics = MemoryTopics()
    progress = ProgressFile(tmp_path / "p.json", topics.view)
    with progress.locked(), pytest.raises(ProgressError, match="by another process"):
        push(TagWorld(1), topics, progress=ProgressFile(tmp_path / "p.json", topics.view))
    assert push(TagWorld(1), topics, total=5, progress=progress).finished


PUSHER = """
import sys
import time
from pathlib import Path
from footfall.generator.drive import push
from footfall.generator.csv_replay import CsvReplay
from footfall.generator.progress import ProgressFile
from footfall.sinks.topic_files import FileTopics
from tests.generator_support import folder_view
csv, folder, progress = map(Path, sys.argv[1:4])
before, after = map(int, sys.argv[4:])

class Holding(FileTopics):
    written = 0

    def hold(self, at):
        if self.written >= at:
            print("holds", flush=True)
            time.sleep(600)

    def write(self, topic, records):
        self.hold(before)
        super().write(topic, records)
        self.written += len(records)
        self.hold(after)

result = push(
    CsvReplay(csv), Holding(folder), rate_per_s=4000,
    progress=ProgressFile(progress, folder_view(folder)),
)
print(result.line())
"""


def test_kill_9_of_a_real_replay_into_topic_files(tmp_path: Path) -> None:
    rows = ["broken" if n % 100 == 0 else csv_row(n) for n in range(4_000)]
    (tmp_path / "shop.csv").write_bytes(csv_file(rows))
    folder = tmp_path / "topics"
    arguments = [str(tmp_path / name) for name in ("shop.csv", "topics", "progress.json")]
    never = 10**9
    # Rows that it writes before it is killed, and whether that is before or after a write.
    for before, after in ((200, never), (never, 1_000), (900, never), (never, never)):
        process = subprocess.Popen(
            [sys.executable, "-c", PUSHER, *arguments, str(before), str(after)],
            cwd=Path(__file__).resolve().parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        is_killed = min(before, after) < never
        try:
            if is_killed:
                assert process.stdout.readline() == "holds\n"
        finally:
            if is_killed:
                os.kill(process.pid, signal.SIGKILL)
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if is_killed else 0)
    assert printed.startswith("finished: 4,000 rows")
    written: Log = {
        (topic, partition): values
        for topic in ("store_events", "dead_letters")
        for partition in range(10)
        if (values := records_path(folder, topic, partition).read_bytes().split(b"\n")[:-1])
    }
    assert Counter({slot: len(values) for slot, values in written.items()}).total() == 4_000
    topics = MemoryTopics(partitions=10)
    push(CsvReplay(tmp_path / "shop.csv"), topics)
    assert written == topics.ours()
