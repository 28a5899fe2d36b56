"""time_online: records and events in, sessions out."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.flows import _sessions, time_online
from footfall.flows._sessions import USER_ID
from footfall.schemas.tables.sessions import SESSIONS
from footfall.streams.batch import Poll
from footfall.streams.testing import DrivenStep, newest, run_flow
from tests.sessions_support import (
    DELAY,
    LOGIN,
    LOGOUT,
    RECORD,
    TIMEOUT,
    S,
    Told,
    Turn,
    after_ms,
    assert_levels_off,
    driven,
    log,
    model,
    shop_event,
    streams,
    table,
    turns,
)

Session = tuple[str, int, int, str]
LOGS = time_online.FLOW.readings()["platform_logs"]
EVENTS = time_online.FLOW.readings()["shop_events"]


def told(rows: pl.DataFrame) -> list[Session]:
    if rows.is_empty():
        return []
    assert set(rows.columns) == set(SESSIONS.columns)
    columns = (USER_ID, after_ms("login"), after_ms("ended").alias("end"), "ended_by")
    found = sorted(rows.select(*columns, "spent_s").rows())
    assert all(row[4] == (row[2] - row[1]) / 1000 for row in found)
    return [row[:4] for row in found]


def sessions(*events: Told, cuts: tuple[int, ...] = (1_000,)) -> list[Session]:
    """Return the sessions that the flow makes of records of platform_logs."""
    result = run_flow(of("platform_logs"), [log(event) for event in events], cuts=cuts)
    assert not result.dead
    assert result.rows.is_empty() or (result.rows["spent_s"] > 0).all()
    return told(newest(result.rows, SESSIONS.order_by))


def of(topic: str) -> Any:
    return lambda source, outputs, progress: time_online.FLOW.dataflow(
        {topic: source}, outputs, progress
    )


def test_a_session_lasts_from_the_login_to_the_logout() -> None:
    assert sessions(("a", 1 * S, LOGIN), ("a", 5 * S, RECORD), ("a", 9 * S, LOGOUT)) == [
        ("a", 1 * S, 9 * S, "logout")
    ]


def test_the_next_login_ends_it_and_begins_another() -> None:
    assert sessions(("a", 0, LOGIN), ("a", 7, LOGIN), ("a", 9, LOGOUT)) == [
        ("a", 0, 7, "relogin"),
        ("a", 7, 9, "logout"),
    ]


def test_without_a_record_it_ends_by_the_timeout() -> None:
    assert sessions(("a", 0, LOGIN), ("a", 10 * S, RECORD)) == [
        ("a", 0, 10 * S + TIMEOUT, "timeout")
    ]
    # Every record goes on with it, up to the last millisecond before the timeout.
    assert sessions(("a", 0, LOGIN), ("a", TIMEOUT - 1, RECORD), ("a", TIMEOUT, LOGOUT)) == [
        ("a", 0, TIMEOUT, "logout")
    ]


@pytest.mark.parametrize("what", [RECORD, LOGOUT, LOGIN])
def test_a_record_at_the_timeout_finds_it_ended(what: str) -> None:
    after = [("a", TIMEOUT, 2 * TIMEOUT, "timeout")] if what == LOGIN else []
    assert sessions(("a", 0, LOGIN), ("a", TIMEOUT, what)) == [
        ("a", 0, TIMEOUT, "timeout"),
        *after,
    ]


def test_logouts_and_records_without_a_session_begin_none() -> None:
    assert sessions(("a", 0, LOGOUT), ("a", 1, RECORD), ("b", 2, RECORD), ("a", 3, LOGOUT)) == []
    assert sessions(("a", 0, LOGIN), ("a", 1, LOGOUT), ("a", 2, RECORD), ("a", 3, LOGOUT)) == [
        ("a", 0, 1, "logout")
    ]


@pytest.mark.parametrize("cuts", [(1_000,), (1,), (2,)])
def test_what_comes_in_one_millisecond_is_taken_in_an_order_of_its_own(cuts: Any) -> None:
    at_5 = [("a", 5, LOGIN), ("a", 5, LOGOUT), ("a", 5, RECORD), ("a", 5, LOGIN)]
    for order in (at_5, at_5[::-1]):
        assert sessions(("a", 0, LOGIN), *order, cuts=cuts) == [
            ("a", 0, 5, "logout"),
            ("a", 5, 5 + TIMEOUT, "timeout"),
        ]


def test_users_are_told_apart_and_ids_of_either_kind_are_one() -> None:
    nested = log(("7", 2, LOGOUT)).replace(b'"userId":"7"', b'"userId":{"userId":7}')
    records = [log(("7", 0, LOGIN)), log(("70", 1, LOGIN)), nested, log(("70", 5, LOGOUT))]
    found = run_flow(of("platform_logs"), records).rows
    assert told(found) == [("7", 0, 2, "logout"), ("70", 1, 5, "logout")]


def test_a_login_that_failed_is_a_record_like_any_other() -> None:
    failed = log(("a", 9, LOGIN)).replace(b"Valid", b"Invalid")
    rows = run_flow(of("platform_logs"), [log(("a", 0, LOGIN)), failed]).rows
    assert told(rows) == [("a", 0, 9 + TIMEOUT, "timeout")]


def test_an_event_within_the_delay_counts_where_it_belongs_and_a_late_one_nowhere() -> None:
    events = [("a", 0, LOGIN), ("b", 20 * S, RECORD), ("a", 15 * S, LOGOUT)]
    assert sessions(*events) == [("a", 0, 15 * S, "logout")]
    late = [*events[:2], ("a", 15 * S - 1, LOGOUT)]
    result = run_flow(of("platform_logs"), [log(event) for event in late])
    assert told(result.rows) == [("a", 0, TIMEOUT, "timeout")]
    assert [letter.offset for letter in result.late] == [2]


def test_a_stream_that_pauses_for_days_ends_sessions_by_their_own_time() -> None:
    days = 3 * 86_400 * S
    assert sessions(("a", 0, LOGIN), ("b", 1, LOGIN), ("a", days, RECORD), ("b", days, LOGIN)) == [
        ("a", 0, TIMEOUT, "timeout"),
        ("b", 1, 1 + TIMEOUT, "timeout"),
        ("b", days, days + TIMEOUT, "timeout"),
    ]


def test_each_partition_has_sessions_of_its_own() -> None:
    parts = [[log(("a", 0, LOGIN)), log(("a", 3, LOGOUT))], [log(("a", 0, LOGIN))]]
    rows = newest(run_flow(of("platform_logs"), parts).rows, SESSIONS.order_by)
    assert rows["topic_partition"].to_list() == [0, 1]
    assert rows["ended_by"].to_list() == ["logout", "timeout"]


def test_shop_events_begin_with_logging_in_and_know_no_logout() -> None:
    events = [("1", 0, LOGIN), ("1", 5, RECORD), ("2", 6, RECORD), ("1", 9, LOGIN)]
    result = run_flow(of("shop_events"), [shop_event(event) for event in events])
    assert told(result.rows) == [("1", 0, 9, "relogin"), ("1", 9, 9 + TIMEOUT, "inactivity")]
    assert set(result.rows["source"]) == {"shop_events"}


def test_shop_events_are_checked_against_their_whole_schema() -> None:
    wrong = shop_event(("1", 1, LOGIN)).replace(b'"login_type":1', b'"login_type":7')
    result = run_flow(of("shop_events"), [shop_event(("1", 0, LOGIN)), wrong, b'{"event":"Nap"}'])
    assert told(result.rows) == [("1", 0, TIMEOUT, "inactivity")]
    assert [letter.code for letter in result.dead] == ["wrong_field", "wrong_field"]


def test_a_session_is_written_when_its_end_has_passed_and_when_nothing_comes_any_more() -> None:
    events = [("a", 0, LOGIN), ("b", 1 * S, LOGIN), ("a", 2 * S, LOGOUT)]
    records = [log(event) for event in events]
    # The watermark is 3 s before the first of them, and moves with the wall clock.
    until_b_ms = 3 * S + 1 * S + TIMEOUT - (DELAY + 1)
    turns = (Turn(3), Turn(0, DELAY), Turn(0, 1), Turn(0, until_b_ms - 1), Turn(0, 1), Turn(0, 1))
    step = DrivenStep(LOGS.step)
    found = []
    wall_ms = 1_900_000_000_000
    for turn in turns:
        wall_ms += turn.after_ms
        taken = records if turn.size else []
        data = b"".join(value + b"\n" for value in taken)
        poll = Poll("memory", 0, 3 - len(taken), data, len(taken), 0, wall_ms, agreeing=1)
        rows = step.on_batch(LOGS.records.decode("flow", poll)).rows
        found.append([] if rows is None else told(rows))
    assert found == [
        [],
        [],
        [("a", 0, 2 * S, "logout")],
        [],
        [("b", 1 * S, 1 * S + TIMEOUT, "timeout")],
        [],
    ]


def assert_as_the_model(
    reading: Any, encode: Any, timeout: str, events: list[Told], drawn: list[Turn]
) -> None:
    rows = driven(reading.step, reading.records, [encode(e) for e in events], drawn)
    assert all((frame["spent_s"] > 0).all() for frame in rows)
    assert told(table(rows, SESSIONS.name, SESSIONS.order_by)) == model(events, timeout)[0]


@settings(max_examples=200, deadline=None)
@given(streams(), turns)
def test_any_stream_however_it_is_cut_gives_what_a_slow_model_gives(
    events: list[Told], drawn: list[Turn]
) -> None:
    assert_as_the_model(LOGS, log, "timeout", events, drawn)


@settings(max_examples=50, deadline=None)
@given(streams(), turns)
def test_so_does_any_stream_of_shop_events(events: list[Told], drawn: list[Turn]) -> None:
    without_logouts = [
        (user, at_ms, RECORD if what == LOGOUT else what) for user, at_ms, what in events
    ]
    assert_as_the_model(EVENTS, shop_event, "inactivity", without_logouts, drawn)


@settings(max_examples=60, deadline=None)
@given(events=streams(), drawn=turns, bits=st.sampled_from((0, 1)))
def test_users_with_the_same_hash_are_told_apart(
    events: list[Told], drawn: list[Turn], bits: int
) -> None:
    def few(ids: pl.Series) -> Any:
        return (ids.str.len_bytes() & bits).cast(pl.UInt64).to_numpy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sessions, "hashes", few)
        assert_as_the_model(LOGS, log, "timeout", events, drawn)


def test_the_state_levels_off() -> None:
    assert_levels_off(time_online.Stays("platform_logs", 0, None))
