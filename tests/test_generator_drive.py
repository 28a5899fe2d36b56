"""Pushing at a pace: how much is sent when, what is reported, and how soon it stops."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from footfall.generator.csv_replay import CsvReplay
from footfall.generator.drive import BATCH_ROWS_MAX, PushReport, push
from footfall.generator.progress import ProgressFile
from footfall.generator.store import StoreWorld
from footfall.generator.tags import START_MS, TagWorld
from footfall.schemas.times import parse_time_ms
from footfall.streams.source import SourceError
from tests.api_process_support import eventually
from tests.generator_support import MemoryTopics, SimulatedClock, csv_file, csv_row


@dataclass
class TimedTopics(MemoryTopics):
    """Topics that note when each record came."""

    clock: SimulatedClock = field(default_factory=SimulatedClock)
    times_s: list[float] = field(default_factory=list)

    def write(self, topic: str, records: list[tuple[bytes | None, bytes]]) -> None:  # type: ignore[override]
        self.times_s += [self.clock.now_s] * len(records)
        super().write(topic, records)


def test_a_rate_is_kept_in_small_batches() -> None:
    clock = SimulatedClock()
    topics = TimedTopics(clock=clock)
    result = push(
        TagWorld(1), topics, rate_per_s=1_000, total=5_000, clock=clock, sleep=clock.sleep
    )
    began_s = topics.times_s[0]
    assert topics.times_s[-1] - began_s == pytest.approx(5.0, abs=0.1)
    for number, at_s in enumerate(topics.times_s):
        assert at_s - began_s == pytest.approx(number / 1_000, abs=0.06)
    assert max(topics.writes) <= 50
    assert result.finished
    assert result.report.rate_per_s == pytest.approx(1_000, rel=0.02)


def test_a_slow_rate_waits_for_each_record() -> None:
    clock = SimulatedClock()
    topics = TimedTopics(clock=clock)
    push(TagWorld(1), topics, rate_per_s=0.5, total=4, clock=clock, sleep=clock.sleep)
    assert [at_s - topics.times_s[0] for at_s in topics.times_s] == pytest.approx(
        [0, 2, 4, 6], abs=0.1
    )


def test_a_push_that_fell_behind_catches_up_by_one_second_at_most() -> None:
    clock = SimulatedClock()
    topics = TimedTopics(clock=clock)
    naps = 0

    def stall() -> None:
        nonlocal naps
        naps += 1
        if naps == 10:
            clock.now_s += 60

    clock.on_sleep = stall
    push(TagWorld(1), topics, rate_per_s=1_000, total=3_000, clock=clock, sleep=clock.sleep)
    assert max(topics.writes) == 1_000
    assert topics.times_s[-1] - topics.times_s[0] > 60


def replay(tmp_path: Path, rows: list[str]) -> CsvReplay:
    (tmp_path / "shop.csv").write_bytes(csv_file(rows))
    return CsvReplay(tmp_path / "shop.csv")


def test_a_replay_keeps_to_event_time_and_waits_out_quiet_stretches(tmp_path: Path) -> None:
    seconds = [0, 0, 0, 6, 12, 12, 600, 606, 606]
    rows = [csv_row(n, second=second) for n, second in enumerate(seconds)]
    clock = SimulatedClock()
    topics = TimedTopics(clock=clock)
    result = push(
        replay(tmp_path, ["broken", *rows]), topics, speed=6, clock=clock, sleep=clock.sleep
    )
    times = [at_s - topics.times_s[0] for at_s in topics.times_s]
    assert times == pytest.approx([0, *(second / 6 for second in seconds)], abs=0.1)
    assert (result.report.sent, result.report.dead) == (10, 1)
    assert result.report.event_time_ms == parse_time_ms("2019-10-01 00:10:06 UTC")


def test_a_wrong_time_stalls_no_replay(tmp_path: Path) -> None:
    rows = [csv_row(n) for n in range(60)]
    rows[20] = rows[20].replace("2019", "2099")
    clock = SimulatedClock()
    topics = TimedTopics(clock=clock)
    push(replay(tmp_path, rows), topics, speed=1, clock=clock, sleep=clock.sleep)
    assert len(topics.times_s) == 60
    assert topics.times_s[-1] - topics.times_s[0] == pytest.approx(57, abs=2)


def test_worlds_can_be_sent_by_their_event_time_too() -> None:
    clock = SimulatedClock()
    topics = TimedTopics(clock=clock)
    push(TagWorld(1), topics, speed=2, total=4_000, clock=clock, sleep=clock.sleep)
    assert topics.times_s[-1] - topics.times_s[0] == pytest.approx(2.0, abs=0.1)
    world = StoreWorld(1, events_per_s=50)
    begin = len(topics.times_s)
    push(world, topics, speed=2, total=200, clock=clock, sleep=clock.sleep)
    assert topics.times_s[-1] - topics.times_s[begin] == pytest.approx(1.5, abs=0.1)


def test_as_fast_as_it_goes_sends_large_batches_and_never_sleeps() -> None:
    clock = SimulatedClock()
    topics = MemoryTopics()
    push(TagWorld(1), topics, total=12_000, clock=clock, sleep=clock.sleep)
    assert topics.writes == [BATCH_ROWS_MAX, BATCH_ROWS_MAX, 2_000]
    assert clock.slept == []


def test_a_report_comes_once_a_second_and_says_how_far_it_is() -> None:
    clock = SimulatedClock()
    reports: list[PushReport] = []
    lines: list[str] = []
    result = push(
        TagWorld(1),
        MemoryTopics(),
        rate_per_s=200,
        total=2_000,
        startup_delay_s=3,
        report=reports.append,
        log=lines.append,
        clock=clock,
        sleep=clock.sleep,
    )
    assert 8 <= len(reports) <= 11
    for report in reports[1:]:
        assert report.rate_per_s == pytest.approx(200, rel=0.1)
        assert report.event_time_ms == START_MS + report.rows - 1
    assert reports[0].line().startswith(f"{reports[0].rows:,} rows, ")
    assert result.line().startswith("finished: 2,000 rows, 2,000 sent, ")
    assert "event time 2022-03-22T12:15:01.999Z" in result.line()
    assert len(lines) > 100
    assert sum(clock.slept[:15]) == pytest.approx(3, abs=0.01)


def test_a_slow_quiet_stretch_is_reported_too(tmp_path: Path) -> None:
    clock = SimulatedClock()
    reports: list[PushReport] = []
    source = replay(tmp_path, [csv_row(0), csv_row(1, second=10)])
    push(source, MemoryTopics(), speed=1, report=reports.append, clock=clock, sleep=clock.sleep)
    assert len(reports) >= 8


@pytest.mark.parametrize("pace", [{"rate_per_s": 0.01}, {"speed": 0.000001}, {"rate_per_s": 500}])
def test_a_stop_is_followed_promptly_and_keeps_the_progress(
    tmp_path: Path, pace: dict[str, float]
) -> None:
    topics, stop = MemoryTopics(), Event()
    progress = ProgressFile(tmp_path / "p.json", topics.view)
    results = []

    def run() -> None:
        results.append(push(TagWorld(1), topics, progress=progress, stop=stop, **pace))  # type: ignore[arg-type]

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: bool(topics.writes))
    stop.set()
    thread.join(timeout=5)
    assert not thread.is_alive()
    [result] = results
    assert not result.finished
    assert result.line().startswith("stopped: ")
    sent = result.report.sent
    assert sent >= 1
    resumed = push(TagWorld(1), topics, progress=progress, total=sent + 10)
    assert (resumed.report.sent, resumed.report.skipped) == (10, 0)


def test_a_stop_during_the_startup_delay_sends_nothing() -> None:
    clock, stop = SimulatedClock(), Event()
    clock.on_sleep = stop.set
    topics = MemoryTopics()
    result = push(
        TagWorld(1), topics, startup_delay_s=100, stop=stop, clock=clock, sleep=clock.sleep
    )
    assert (result.report.sent, result.finished) == (0, False)
    assert len(clock.slept) == 1
    assert clock.slept[0] <= 0.5


def test_a_replay_that_cannot_be_read_on_keeps_what_was_sent(tmp_path: Path) -> None:
    rows = [csv_row(n, price=f"{n * 7919 % 9000}.{n % 100:02d}") for n in range(9_000)]
    packed = gzip.compress(csv_file(rows))
    (tmp_path / "shop.csv.gz").write_bytes(packed[: len(packed) * 9 // 10])
    source = CsvReplay(tmp_path / "shop.csv.gz")
    topics = MemoryTopics()
    progress = ProgressFile(tmp_path / "p.json", topics.view)
    for _ in range(2):
        with pytest.raises(SourceError, match="cannot be read past line"):
            push(source, topics, progress=progress)
        sent = sum(map(len, topics.logs.values()))
        assert sent > BATCH_ROWS_MAX
    assert sum(topics.writes) == sent


@pytest.mark.parametrize(
    ("pace", "message"),
    [
        ({"rate_per_s": 0.0}, "more than 0 records a second, not 0"),
        ({"rate_per_s": float("nan")}, "not nan"),
        ({"speed": -1.0}, "more than 0 event seconds"),
        ({"rate_per_s": 1.0, "speed": 1.0}, "not both"),
    ],
)
def test_a_pace_that_is_none_is_refused(pace: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        push(TagWorld(1), MemoryTopics(), **pace)  # type: ignore[arg-type]
