"""Alerts of failed logins: the decision, the flow on embedded topics, the watch of a partition."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from bytewax.testing import run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.flows import login_alerts
from footfall.flows._alerts_place import QUIET_S, Place, Stretch
from footfall.flows._alerts_watch import Taken, Watch, partition_of
from footfall.generator.shop_sessions import Alerts
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.platform_logs import LOGIN_FAILURES_MAX, LOGIN_WINDOW_S
from footfall.schemas.settings import SettingError, read_settings
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.schemas.topic_files import partition_of as partition_of_key
from footfall.schemas.topic_files import records_path
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS, LOGIN_ALERTS, PLATFORM_LOGS
from footfall.sinks.topic_files import FileTopics
from footfall.streams.batch import Poll
from footfall.streams.bursts import KEPT_MAX, NONE, Failures, alert_of, decide, in_burst, is_over
from footfall.streams.clock import Clock
from footfall.streams.run import Run
from footfall.streams.testing import NOW_MS, run_flow

BASE_MS = 1_569_888_000_000  # 2019-10-01T00:00:00Z
DELAY_MS = 5_000
Alert = tuple[str, int]
"""(user id, time in ms): what a reader knows an alert by."""

_steps_ms = st.sampled_from(
    (0, 1, 999, 1_000, 5_000, 9_000, 14_999, 28_500, 30_000, 30_001, 31_000)
)
_times = st.lists(_steps_ms, max_size=40).map(
    lambda steps: [BASE_MS + sum(steps[: place + 1]) for place in range(len(steps))]
)


def failure(
    time_ms: int, user: object = "anna", *, action: str = "LoginRep", status: str = "Invalid"
) -> bytes:
    """Return a record of platform_logs."""
    common = {
        "time": iso_ms(time_ms),
        "userId": user,
        "requestId": f"r{time_ms}",
        "serverName": "Login",
    }
    return msgspec.json.encode(
        {"action": action, "commonData": common, "data": {"status": status}}
    )


def found_by(times: Sequence[int]) -> list[int]:
    """Return, slowly, the failures in the window that ends with the newest, in order of time."""
    opens_s = max(times) // 1000 - LOGIN_WINDOW_S
    return sorted(time_ms for time_ms in times if time_ms // 1000 > opens_s)


def slowly(times: Sequence[int]) -> list[list[int]]:
    """Return, slowly, the failures that raise each alert, in order of arrival."""
    raised, was_in_burst = [], False
    for count in range(1, len(times) + 1):
        found = found_by(times[:count])
        if len(found) > LOGIN_FAILURES_MAX and not was_in_burst:
            raised.append(found)
        was_in_burst = len(found) > LOGIN_FAILURES_MAX
    return raised


def decided(times: Sequence[int]) -> list[list[int]]:
    known: Failures = NONE
    raised = []
    for time_ms in times:
        known, raised_by = decide(known, time_ms)
        assert len(known) <= KEPT_MAX and list(known) == sorted(known)
        if raised_by is not None:
            raised.append(list(raised_by))
    return raised


@settings(deadline=None)
@given(_times)
def test_in_order_of_time_alerts_are_those_of_the_definition(times: list[int]) -> None:
    truth = Alerts()
    expected = [found for time_ms in times if (found := truth.failure("anna", time_ms))]
    assert decided(times) == expected == slowly(times)


@settings(deadline=None)
@given(_times.flatmap(st.permutations))
def test_in_any_order_what_is_forgotten_never_matters_and_no_alert_comes_twice(
    times: list[int],
) -> None:
    raised = decided(times)
    assert raised == slowly(times)
    assert len({found[-1] for found in raised}) == len(raised)


def test_the_window_holds_whole_seconds() -> None:
    just_inside = [999, 1_000, 2_000, 29_999]
    assert decided(just_inside) == [just_inside]
    just_outside = [999, 1_000, 2_000, 30_000]
    assert decided(just_outside) == []


def test_a_user_is_over_when_no_failure_can_find_one_of_theirs() -> None:
    known, _ = decide(NONE, 1_500)
    assert not is_over(known, 30_999) and is_over(known, 31_000)
    assert decide(known, 31_000) == decide(NONE, 31_000)
    assert is_over(NONE, 0)


def test_an_alert_tells_the_count_and_the_times() -> None:
    assert alert_of("17", (0, 1_000, 2_000, 3_500)) == LoginAlert(
        user_id="17",
        time="1970-01-01T00:00:03.500Z",
        failures=4,
        times=[
            "1970-01-01T00:00:00.000Z",
            "1970-01-01T00:00:01.000Z",
            "1970-01-01T00:00:02.000Z",
            "1970-01-01T00:00:03.500Z",
        ],
    )


# The flow on embedded topics.


def test_four_failures_in_both_shapes_of_an_id_are_one_alert_and_others_are_none() -> None:
    events = [
        failure(BASE_MS, 17),
        failure(BASE_MS + 1_000, {"userId": "17"}),
        failure(BASE_MS + 1_500, 17, status="Valid"),
        failure(BASE_MS + 2_000, "17"),
        failure(BASE_MS + 2_500, 17, action="Unheard"),
        failure(BASE_MS + 3_000, {"userId": 17}),
        failure(BASE_MS + 4_000, 17),
        *(failure(BASE_MS + time_ms, "18") for time_ms in (0, 1, 2)),
        b"nope",
    ]
    result = run_flow(login_alerts.FLOW.dataflow, events)
    assert result.rows.drop("version").to_dicts() == [
        {
            "user_id": "17",
            "time_ms": BASE_MS + 3_000,
            "times_ms": [BASE_MS, BASE_MS + 1_000, BASE_MS + 2_000, BASE_MS + 3_000],
        }
    ]
    assert [letter.code for letter in result.dead] == ["not_json"]
    (counts,) = result.partitions
    assert (counts.read, counts.used, counts.filtered, counts.dead) == (11, 8, 2, 1)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(_steps_ms, st.integers(0, 1), st.integers(0, DELAY_MS - 1)), max_size=30),
    st.lists(st.sampled_from((0, 1, 3, 9)), min_size=1, max_size=3).filter(any),
)
def test_in_any_order_within_the_delay_the_flow_gives_the_alerts_of_the_order_of_time(
    drawn: list[tuple[int, int, int]], cuts: list[int]
) -> None:
    time_ms, failures = BASE_MS, []
    truth, expected = Alerts(), set()
    for step_ms, user, held_up_ms in drawn:
        time_ms += step_ms
        failures.append((time_ms + held_up_ms, time_ms, str(user)))
        if truth.failure(str(user), time_ms):
            expected.add((str(user), time_ms))
    arrived = [failure(at_ms, user) for _, at_ms, user in sorted(failures)]
    result = run_flow(login_alerts.FLOW.dataflow, arrived, cuts=cuts)
    assert not result.late
    rows = [] if result.rows.is_empty() else result.rows.select("user_id", "time_ms").rows()
    assert set(rows) == expected


def test_on_embedded_topics_an_alert_stands_in_its_topic_keyed_by_user(tmp_path: Path) -> None:
    settings_of_home = read_settings({"FOOTFALL_HOME": str(tmp_path)})
    topics = FileTopics(tmp_path / "topics")
    for topic in (PLATFORM_LOGS, LOGIN_ALERTS, DEAD_LETTERS, LATE_EVENTS):
        topics.create(topic.name, topic.partitions)
    failures = [failure(BASE_MS + n) for n in range(6)]
    topics.write_each([(PLATFORM_LOGS.name, 7, failures)])
    topics.close()
    run_main(login_alerts.FLOW.wire(settings_of_home, Run(once=True)))
    home = partition_of_key(b"anna", LOGIN_ALERTS.partitions)
    (line,) = records_path(tmp_path / "topics", LOGIN_ALERTS.name, home).read_bytes().splitlines()
    alert = msgspec.json.decode(line, type=LoginAlert)
    assert alert == alert_of("anna", tuple(BASE_MS + n for n in range(4)))


def test_without_faust_the_flow_on_kafka_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("footfall.flows._alerts_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "faust", None)
    on_kafka = read_settings({"TOPICS_URL": "kafka://127.0.0.1:9092"})
    with pytest.raises(SettingError, match=r"pip install 'footfall\[alerts\]'"):
        run_on = login_alerts.FLOW.other_engine(on_kafka)
        assert run_on is not None
        run_on(Run())
    assert login_alerts.FLOW.other_engine(read_settings({})) is None


# The watch of a partition, which answers at once.


class Partition:
    """A partition, what its watch has written, and how it goes on after a crash."""

    def __init__(self, records: Sequence[bytes]) -> None:
        self.records = records
        self.changelog: dict[bytes, bytes] = {}
        self.alerts: list[Alert] = []
        self.letters: set[int] = set()
        self.start()

    def start(self) -> None:
        """Start as a worker that knows nothing but the changelog."""
        self.watch = Watch("login_alerts", 3, self.changelog)
        self.offset = self.watch.at.next_offset

    def take(self, count: int, crash_after: int | None = None) -> None:
        """Take the next records; write only so many things of what came of them."""
        records = self.records[self.offset : self.offset + count]
        poll = Poll(
            topic="platform_logs",
            partition=3,
            first_offset=self.offset,
            data=b"".join(record + b"\n" for record in records),
            count=len(records),
            lag=0,
            polled_at_ms=NOW_MS,
            agreeing=1,
        )
        self.offset += len(records)
        self._write(self.watch.take(poll), crash_after)
        if crash_after is not None:
            self.start()

    def _write(self, taken: Taken, at_most: int | None) -> None:
        self.letters |= {letter.offset for letter in (*taken.dead, *taken.late)}
        written: list[object] = [*taken.alerts, *taken.users, taken.partition_row]
        for item in written[:at_most]:
            if isinstance(item, LoginAlert):
                self.alerts.append((item.user_id, parse_time_ms(item.time)))
                continue
            assert isinstance(item, tuple)
            key, value = item
            assert partition_of(key) == 3
            if value is None:
                self.changelog.pop(key, None)
            else:
                self.changelog[key] = value


_stream = st.lists(
    st.one_of(
        st.tuples(st.sampled_from((0, 1_000, 4_000, 9_000, 31_000)), st.integers(0, 2)),
        st.just(None),
    ),
    max_size=40,
).map(
    lambda drawn: [
        b"nope"
        if item is None
        else failure(BASE_MS + sum(it[0] for it in drawn[: place + 1] if it), str(item[1]))
        for place, item in enumerate(drawn)
    ]
)


@settings(deadline=None)
@given(
    _stream,
    st.lists(
        st.tuples(st.integers(1, 9), st.one_of(st.none(), st.integers(0, 12))),
        min_size=1,
        max_size=30,
    ),
)
def test_a_crash_between_any_two_writes_loses_no_alert_and_adds_none(
    records: list[bytes], rounds: list[tuple[int, int | None]]
) -> None:
    calm, killed = Partition(records), Partition(records)
    calm.take(len(records))
    for count, crash_after in rounds:
        killed.take(count, crash_after)
    killed.take(len(records))
    assert killed.watch.at == calm.watch.at
    assert set(killed.alerts) == set(calm.alerts)
    assert killed.letters == calm.letters
    at = calm.watch.at
    assert at.read == len(records) == at.used + at.filtered + at.late + at.dead


def test_a_user_is_not_forgotten_while_failures_could_be_counted_again() -> None:
    anna = [failure(BASE_MS + n * 1_000) for n in range(8)]
    partition = Partition([*anna, failure(BASE_MS + 100_000, "bob"), failure(BASE_MS + 200_000)])
    partition.take(4)
    # Killed twice before the partition's row was written: once with the user's row written.
    partition.take(4, crash_after=1)
    partition.take(5, crash_after=2)
    partition.take(6)
    assert set(partition.alerts) == {("anna", BASE_MS + 3_000)}


def test_failures_that_are_late_are_kept_aside_and_counted() -> None:
    on_time = [failure(BASE_MS + 60_000 + n) for n in range(3)]
    partition = Partition([*on_time, failure(BASE_MS), failure(BASE_MS + 60_003 - DELAY_MS)])
    partition.take(5)
    assert (partition.watch.at.late, partition.letters) == (1, {3})
    assert partition.alerts == [("anna", BASE_MS + 60_002)]


def test_a_long_stream_leaves_neither_users_nor_rows_behind() -> None:
    seconds = 600
    records = [failure(BASE_MS + n * 100, f"user{n}") for n in range(seconds * 10)]
    partition = Partition(records)
    most = 0
    for _ in range(0, len(records), 500):
        partition.take(500)
        most = max(most, len(partition.watch))
    within_s = LOGIN_WINDOW_S + DELAY_MS // 1000 + 2
    assert most <= within_s * 10 + 500
    assert len(partition.changelog) == len(partition.watch) + 1
    # One who tries all the time is known by no more than a few failures.
    attack = Partition([failure(BASE_MS + n) for n in range(5_000)])
    attack.take(5_000)
    assert attack.alerts == [("anna", BASE_MS + LOGIN_FAILURES_MAX)]
    assert len(attack.watch.known("anna")) == KEPT_MAX and in_burst(attack.watch.known("anna"))
    assert len(attack.changelog) == 2
    assert all(len(row) < 150 + 2 * Clock.STATE_BYTES for row in attack.changelog.values())


# Where a partition stands, when records are lost on their way.


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 40), min_size=1),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40),
)
def test_what_is_lost_on_its_way_is_asked_for_again_and_taken_once_in_order(
    there: set[int], disturbances: list[tuple[int, int]]
) -> None:
    records = sorted(there)
    end = records[-1] + 1
    place, now_s = Place(0, 0.0), 0.0
    on_its_way = list(records)
    taken: list[int] = []
    is_asked = False
    for lost, given_now in [*disturbances, *[(0, 9)] * 200]:
        # What was asked for again comes.
        del on_its_way[: 0 if is_asked else lost]
        batch, on_its_way = on_its_way[:given_now], on_its_way[given_now:]
        taken += [offset for offset in batch if place.take(offset, now_s)]
        # Time passes only once all were given: gaps are not trusted before.
        if not on_its_way:
            now_s += QUIET_S
        if place.is_missing or place.is_quiet(end, now_s):
            place.asked()
            is_asked = True
            # Behind what is on its way already.
            on_its_way += [offset for offset in records if offset >= place.next_offset]
        if place.is_at_end(end, now_s):
            break
    assert taken == records


def test_a_partition_that_ends_in_no_record_is_at_its_end_after_a_while() -> None:
    place = Place(0, 0.0)
    assert place.take(0, 0.0)
    assert not place.is_at_end(2, 1.0) and not place.is_quiet(2, 1.0)
    assert place.is_quiet(2, QUIET_S)
    place.asked()
    assert not place.is_quiet(2, 2 * QUIET_S) and place.is_at_end(2, 2 * QUIET_S)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:6066"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "shop.example:6066", "Sec-Fetch-Site": "none"}, 200),
        ({"Host": "rebound.example:6066"}, 421),
        ({"Host": "127.0.0.1:6066", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_faust_s_page_is_called_by_its_own_names_and_by_no_foreign_page(
    headers: dict[str, str], status: int
) -> None:
    pytest.importorskip("faust", reason="faust is not installed")
    from footfall.flows._alerts_faust import door

    async def answer(_request: object) -> web.Response:
        return web.Response()

    async def status_of() -> int:
        request = make_mocked_request("GET", "/", headers=headers)
        try:
            response = await door(read_settings({"ALLOWED_HOSTS": "shop.example"}))(
                request, answer
            )
        except web.HTTPException as refused:
            return refused.status
        return int(response.status)

    assert asyncio.run(status_of()) == status


def test_what_stands_still_for_too_long_is_stuck_unless_it_may() -> None:
    stretch = Stretch(10.0)
    told = [stretch.is_stuck(value, now) for value, now in [({}, 0.0), ({}, 9.9), ({}, 10.0)]]
    assert told == [False, False, True]
    assert not stretch.is_stuck({"p": 1}, 20.0)
    assert not stretch.is_stuck(None, 40.0)
    assert not stretch.is_stuck(None, 60.0)
    assert not stretch.is_stuck({"p": 1}, 61.0)
    assert stretch.is_stuck({"p": 1}, 71.0)
