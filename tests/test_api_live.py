"""The live page's data: rates of workers, ends of topics, one snapshot for all viewers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine, insert

from footfall.api.live import Live, offered_cookies, shown_letters
from footfall.api.refreshed import Refreshed
from footfall.api.snapshot import Minutes
from footfall.api.tables import WindowsSource, whole_until_ms
from footfall.api.tails import FileTail
from footfall.api.workers import WorkerMeter
from footfall.operations.flow_facts import STALE_MS, Ends, flows_now
from footfall.operations.observer import Look
from footfall.operations.positions import read_statuses
from footfall.schemas.dead_letters import DeadLetter
from footfall.schemas.status import WorkerStatus, status_folder
from footfall.schemas.tables.store_metrics import EVENTS, METADATA
from footfall.sinks import SinkUnavailableError
from footfall.sinks.topic_files import FileTopics
from tests.api_process_support import eventually
from tests.api_support import Client, MadeUpLive, Shop, encoded, serving, status, tag


def look(statuses: Sequence[WorkerStatus], now_ms: int, ends: Ends | None = None) -> Look:
    """Return a look at statuses as if all processes ran."""
    flows = flows_now(statuses, {}, ends or {}, {}, now_ms, is_alive=lambda _pid: True)
    return Look(now_ms, flows, ends or {}, statuses)


def test_rates_are_differences_of_what_was_read() -> None:
    meter = WorkerMeter()
    for second in range(10):
        meter.observe(
            look(
                [
                    status(
                        read=100 + 1000 * second,
                        updated_ms=second * 1000,
                        lag=7,
                        late=2,
                        workers=2,
                    ),
                    status(
                        read=500 * second, updated_ms=second * 1000, worker=1, dead=1, workers=2
                    ),
                    status("user_profiles", read=10 * second, updated_ms=second * 1000),
                    status(
                        "store_metrics", read=0, topic="store_events", updated_ms=second * 1000
                    ),
                ],
                second * 1000,
                {"user_tags": {0: (0, 9107), 1: (0, 4500)}, "store_events": {0: (0, 0)}},
            )
        )
    buckets, store, profiles = meter.flows()
    assert (buckets.flow, buckets.read_per_s, profiles.read_per_s) == ("minute_buckets", 1500, 10)
    assert (store.flow, store.read_per_s) == ("store_metrics", 0)
    assert (buckets.lag, buckets.late, buckets.dead, buckets.read) == (7, 2, 1, 13_600)
    rates = meter.rates()
    assert rates.times_ms == list(range(0, 10_000, 1000))
    assert rates.topics == {"user_tags": [0.0] + [1500.0] * 9, "store_events": [0.0] * 10}


def test_a_status_read_twice_or_late_changes_no_rate() -> None:
    meter = WorkerMeter()
    for now_ms, updated_ms in ((0, 0), (1000, 900), (2000, 900), (3000, 2700)):
        meter.observe(look([status(read=updated_ms, updated_ms=updated_ms)], now_ms))
        expected = 1000.0 if updated_ms else 0.0
        assert meter.flows()[0].read_per_s == expected


def test_a_restart_or_a_fresh_start_is_never_a_negative_rate() -> None:
    meter = WorkerMeter()
    reads = [(5000, 1), (6000, 1), (5500, 2), (6500, 2), (0, 3), (100, 3)]
    for second, (read, pid) in enumerate(reads):
        now_ms = second * 1000
        meter.observe(look([status(read=read, updated_ms=now_ms, pid=pid)], now_ms))
        assert meter.flows()[0].read_per_s >= 0
    assert meter.flows()[0].read_per_s == 100


def both(second: int) -> list[WorkerStatus]:
    """Return two workers of a flow, one of which has read to its end."""
    updated_ms = second * 1000
    return [
        status(read=second * 100, updated_ms=updated_ms, workers=2),
        status(read=second, updated_ms=updated_ms, worker=1, workers=2, finished=True),
    ]


def test_a_silent_worker_is_gone_and_a_finished_one_is_not() -> None:
    meter = WorkerMeter()
    for second in range(3):
        meter.observe(look(both(second), second * 1000))
    meter.observe(look(both(2), 2000 + STALE_MS))
    assert [worker.state for worker in meter.flows()[0].workers] == ["running", "finished"]
    meter.observe(look(both(2), 2001 + STALE_MS))
    flow = meter.flows()[0]
    assert [worker.state for worker in flow.workers] == ["gone", "finished"]
    assert flow.read_per_s == 0
    assert flow.workers[0].age_s == 15.0


def test_the_middle_watermark_is_not_moved_by_one_stray_event() -> None:
    meter = WorkerMeter()
    marks = [-1, 1000, 1100, 9_999_999_999]
    statuses = [
        status(read=1, updated_ms=0, worker=worker, watermark_ms=mark)
        for worker, mark in enumerate(marks)
    ]
    meter.observe(look(statuses, 0))
    assert meter.watermark_ms("minute_buckets") == 1100
    assert meter.watermark_ms("other") is None


def test_status_files_are_read_and_broken_ones_skipped(tmp_path: Path) -> None:
    assert read_statuses(tmp_path) == []
    folder = status_folder(tmp_path)
    folder.mkdir()
    good = status(read=5, updated_ms=1)
    (folder / "minute_buckets.0.json").write_bytes(msgspec.json.encode(good))
    (folder / "broken.0.json").write_text('{"flow": "x"')
    (folder / "other.txt").write_text("not a status")
    assert read_statuses(tmp_path) == [good]


def letter(offset: int, **changes: object) -> bytes:
    fields = {
        "flow": "f",
        "topic": "t",
        "partition": 0,
        "offset": offset,
        "code": "not_json",
        "reason": "why",
        "payload_bytes": 3,
        "payload": "abc",
    }
    return encoded({**fields, **changes})


def test_the_end_of_embedded_topics(tmp_path: Path) -> None:
    tail = FileTail(tmp_path)
    assert tail.newest("user_tags", 5) == []
    topics = FileTopics(tmp_path)
    records = [(b"%d" % (n % 7), b"%d %s" % (n, b"x" * (n * 100 % 3001))) for n in range(500)]
    topics.write("user_tags", records)
    found = tail.newest("user_tags", 3)
    by_partition: dict[int, list[bytes]] = {}
    for path in (tmp_path / "user_tags").glob("*.jsonl"):
        lines = path.read_bytes().split(b"\n")[:-1]
        by_partition[int(path.stem)] = lines[-3:]
    assert sorted(found) == sorted(line for lines in by_partition.values() for line in lines)
    # A half line of a writer that is at it, or died, is not a record yet.
    busy = max(by_partition, key=lambda partition: len(by_partition[partition]))
    with (tmp_path / "user_tags" / f"{busy}.jsonl").open("ab") as file:
        file.write(b"half")
    assert sorted(tail.newest("user_tags", 3)) == sorted(found)
    topics.write("user_tags", [(records[0][0], b"newest")])
    assert b"newest" in tail.newest("user_tags", 1)


def test_one_long_record_does_not_hide_the_end_of_a_topic(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    long = b"y" * 700_000
    topics.write("dead_letters", [(b"k", b"first"), (b"k", long), (b"k", b"last")])
    assert FileTail(tmp_path).newest("dead_letters", 2) == [b"last", long]


def test_letters_are_shown_once_each_and_cut() -> None:
    records = [
        letter(1, reason="r" * 9999, payload="p" * 9999),
        letter(1),
        b"not a letter",
        letter(2, payload=None, payload_base64="/w=="),
        *(letter(offset) for offset in range(3, 50)),
    ]
    shown = shown_letters(records)
    assert [one.offset for one in shown] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(shown[0].reason) == 500
    assert len(shown[0].payload) == 300
    assert shown[1].payload == "/w=="
    assert shown_letters([msgspec.json.encode(DeadLetter("f", "t", 0, 0, "empty", "r", 0))])


def test_the_busiest_cookies_are_offered_first() -> None:
    tags = [encoded(tag(cookie=cookie)) for cookie in "abcbdb"] + [b"broken", b"{}"]
    assert offered_cookies(tags) == ["b", "a", "c", "d"]


@pytest.mark.parametrize("layout", ["2019-10-01 00:00:00", "2019-10-01 00:00:00.250"])
def test_windows_come_oldest_first_from_the_table(layout: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a store.sqlite"
    source = WindowsSource(url)
    assert source.windows().start_ms == []
    assert not (tmp_path / "a store.sqlite").exists()
    engine = create_engine(url)
    METADATA.create_all(engine)
    start = datetime.fromisoformat(layout).replace(tzinfo=UTC)
    with engine.begin() as connection:
        for second in range(200):
            connection.execute(
                insert(EVENTS).values(
                    start_event_time=datetime.fromtimestamp(start.timestamp() + second, UTC),
                    end_event_time=datetime.fromtimestamp(start.timestamp() + second + 1, UTC),
                    nr_of_events=second,
                    nr_items_viewed=second * 2,
                    nr_items_put_in_cart=3,
                    nr_items_sold=4,
                    value_items_sold_in_cent=second * 100,
                    version=1,
                )
            )
    windows = source.windows()
    first_ms = round(start.timestamp() * 1000) + 80_000
    assert windows.start_ms == list(range(first_ms, first_ms + 120_000, 1000))
    assert windows.end_ms[-1] == windows.start_ms[-1] + 1000
    assert windows.viewed[-1] == 398
    assert windows.revenue_cents[-1] == 19_900
    source.close()
    engine.dispose()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_slow_question_is_asked_less_often_and_its_failure_keeps_the_last_answer() -> None:
    clock = Clock()
    took_s = 3.0
    answers: list[int] = []

    async def ask() -> int:
        clock.now_s += took_s
        if len(answers) == 1:
            answers.append(-1)
            raise SinkUnavailableError("no answer\nand a long story")
        answers.append(len(answers))
        return answers[-1]

    async def run() -> None:
        part = Refreshed(ask, -5, 2.0, clock)
        assert part.value == -5
        for expected, problem in ((0, None), (0, "no answer"), (2, None)):
            task = part.refresh()
            assert task is not None
            await task
            assert (part.value, part.problem) == (expected, problem)
            assert part.refresh() is None
            clock.now_s += took_s * 9 - 0.1
            assert part.refresh() is None
            clock.now_s += 0.2

    asyncio.run(run())


def test_one_snapshot_a_second_for_all_viewers() -> None:
    clock = Clock()
    made_up = MadeUpLive(minutes=Minutes([60_000], [3], [2], [100]))

    async def run() -> None:
        live = Live(made_up.sources(), clock=clock, now_ms=lambda: 5)

        async def receive() -> dict[str, object]:
            raise AssertionError("nobody reads the body")

        async def get(etag: bytes | None = None) -> tuple[int, bytes, bytes]:
            headers = [(b"if-none-match", etag)] if etag else []
            answer = await live.handle({"headers": headers}, receive)
            return answer.status, answer.body, answer.headers[0][1]

        views = await asyncio.gather(*(get() for _ in range(20)))
        assert len(set(views)) == 1
        code, body, etag = views[0]
        assert (code, json.loads(body)["minutes"]["views"]) == (200, [3])
        assert made_up.asked == 1
        assert (await get(etag))[0] == 304
        made_up.minutes = Minutes([60_000], [4], [2], [100])
        clock.now_s += 2.1
        await get(etag)
        await asyncio.sleep(0.01)
        clock.now_s += 1.1
        code, body, newer = await get(etag)
        assert (code, json.loads(body)["minutes"]["views"]) == (200, [4])
        assert newer != etag
        await live.close()

    asyncio.run(run())


def test_a_source_that_fails_makes_its_panel_old_and_nothing_else() -> None:
    shop = Shop()
    shop.live.failure = SinkUnavailableError("ClickHouse at http://x does not answer")
    shop.live.statuses = [status(read=1, updated_ms=0)]
    with serving(shop) as client:
        answer = client.get("/live.json").json()
        assert answer["problems"] == {"minutes": "ClickHouse at http://x does not answer"}
        assert answer["flows"][0]["flow"] == "minute_buckets"
        shop.live.failure = None

        def recovered(client: Client = client) -> bool:
            return client.get("/live.json").json()["problems"] == {}

        eventually(recovered)


@pytest.mark.parametrize(
    ("marks", "whole_min"),
    [
        ((None,), 10),
        ((), 10),
        # In the middle of the newest minute, of the one before, and past its end.
        ((10.5,), 10),
        ((9.9,), 9),
        ((11.2,), 11),
        ((500.0,), 11),
        # The flow that is least far decides; one that waits for records that agree does not.
        ((10.5, 9.5), 9),
        ((7.9,), 10),
    ],
)
def test_minutes_are_over_by_the_watermark_of_the_flow(
    marks: tuple[float | None, ...], whole_min: int
) -> None:
    watermarks = [None if mark is None else round(mark * 60_000) for mark in marks]
    assert whole_until_ms(10 * 60_000, *watermarks) == whole_min * 60_000
    # Windows of store metrics begin anywhere, and have any length.
    assert whole_until_ms(10_500, 10_400, length_ms=1_000) == 9_500
