"""online_users: records in; logins, and users by minute, out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from footfall.flows import online_users
from footfall.schemas.tables.sessions import ONLINE_PER_MINUTE, ONLINE_USER
from footfall.schemas.versions import PROVISIONAL, phase_of
from footfall.streams.batch import Poll
from footfall.streams.testing import NOW_MS, DrivenStep, Result, run_flow
from tests.sessions_support import (
    DELAY,
    LOGIN,
    LOGOUT,
    RECORD,
    TIMEOUT,
    M,
    S,
    Told,
    Turn,
    after_ms,
    assert_levels_off,
    driven,
    log,
    model,
    on_time,
    streams,
    table,
    turns,
)

Minute = tuple[int, int, int]
"""(number of the minute, active, online)"""
DAY = 24 * 60


def ran(*partitions: list[Told]) -> Result:
    return run_flow(
        online_users.FLOW.dataflow, [[log(event) for event in part] for part in partitions]
    )


def shown(rows: pl.DataFrame) -> list[Minute]:
    """Return what the view shows: the partitions together, without rows of nobody."""
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    if not rows.is_empty():
        for at_ms, active, online in rows.select(
            after_ms("minute"), "active", "online"
        ).iter_rows():
            counts[at_ms // M][0] += active
            counts[at_ms // M][1] += online
    return sorted((minute, *count) for minute, count in counts.items() if any(count))


def minutes(*events: Told) -> list[Minute]:
    return shown(ran(list(events)).table(ONLINE_PER_MINUTE))


def test_a_user_is_active_with_any_record_and_online_only_within_a_session() -> None:
    assert minutes(("a", 0, RECORD), ("a", 1, RECORD), ("b", 2, RECORD), ("b", M, LOGOUT)) == [
        (0, 2, 0),
        (1, 1, 0),
    ]
    assert minutes(("a", 0, LOGIN), ("a", 2 * M + 7, LOGOUT)) == [
        (0, 1, 1),
        (1, 0, 1),
        (2, 1, 0),
    ]


@pytest.mark.parametrize(
    ("login_ms", "logout_ms", "online"),
    [
        (0, M, {0}),
        (0, M - 1, set()),
        (M - 1, M, {0}),
        (M - 1, 2 * M - 1, {0}),
        (M, 3 * M + 5, {1, 2}),
    ],
)
def test_online_are_those_whose_session_holds_the_last_moment_of_the_minute(
    login_ms: int, logout_ms: int, online: set[int]
) -> None:
    found = minutes(("a", login_ms, LOGIN), ("a", logout_ms, LOGOUT))
    assert {minute for minute, _, count in found if count} == online


@pytest.mark.parametrize(("last_ms", "until"), [(0, 30), (M - 1, 30), (M, 31)])
def test_a_session_is_counted_up_to_its_timeout(last_ms: int, until: int) -> None:
    found = minutes(("a", last_ms, LOGIN))
    assert [minute for minute, _, count in found if count] == list(range(last_ms // M, until))


def test_a_relogin_changes_nothing_and_several_logins_at_once_are_one() -> None:
    again = [("a", 5, LOGIN), ("a", 5, LOGIN), ("a", 2 * S, LOGIN), ("a", M + 1, LOGOUT)]
    assert minutes(*again) == [(0, 1, 1), (1, 1, 0)]
    # Both are logins all the same.
    assert len(ran(again).table(ONLINE_USER)) == 3


def test_partitions_add_up() -> None:
    rows = ran([("a", 0, LOGIN), ("a", M, LOGOUT)], [("b", 1, LOGIN), ("b", M + 1, LOGOUT)])
    assert shown(rows.table(ONLINE_PER_MINUTE)) == [(0, 2, 2), (1, 2, 0)]
    assert set(rows.table(ONLINE_PER_MINUTE)["topic_partition"]) == {0, 1}


def test_a_row_for_each_login_tells_where_it_stands_in_the_topic() -> None:
    events = [("a", 0, LOGIN), ("b", 7 * S, RECORD), ("b", 6 * S, LOGIN), ("c", 1 * S, LOGIN)]
    result = ran(events)
    rows = result.table(ONLINE_USER)
    assert set(rows.columns) | {"version"} == set(ONLINE_USER.columns)
    assert rows.select("user_id", after_ms("time"), "offset").rows() == [
        ("a", 0, 0),
        ("b", 6 * S, 2),
    ]
    assert [letter.offset for letter in result.late] == [3]


def test_a_late_record_counts_nowhere() -> None:
    found = minutes(("a", 0, LOGIN), ("b", 2 * M, RECORD), ("c", 0, RECORD), ("a", 1, LOGOUT))
    assert found[:3] == [(0, 1, 1), (1, 0, 1), (2, 1, 1)]


def test_a_stream_that_pauses_for_days_has_no_row_for_each_minute_of_them() -> None:
    days = 3 * DAY
    result = ran([("a", 0, LOGIN), ("b", days * M, LOGIN), ("b", days * M + 1, LOGOUT)])
    rows = result.table(ONLINE_PER_MINUTE)
    assert shown(rows) == [
        (0, 1, 1), *((minute, 0, 1) for minute in range(1, 30)), (days, 1, 0),
    ]  # fmt: skip
    assert len(rows) == 60


def polled(step: Any, wall_ms: int, *events: Told, offset: int = 0) -> Any:
    data = b"".join(log(event) + b"\n" for event in events)
    poll = Poll("memory", 0, offset, data, len(events), 0, NOW_MS + wall_ms, agreeing=1)
    return step.on_batch(online_users.LOGS.decode("flow", poll)).rows


def test_the_minute_that_is_open_is_written_now_and_then_and_final_when_it_has_passed() -> None:
    step = DrivenStep(online_users.FLOW.readings()["platform_logs"].step)

    def found(*args: Any, **kwargs: Any) -> list[tuple[int, int, int, bool]]:
        rows = table([polled(step, *args, **kwargs)], ONLINE_PER_MINUTE.name, ["minute"])
        if rows.is_empty():
            return []
        is_early = [phase_of(version) == PROVISIONAL for version in rows["version"]]
        columns = rows.select(after_ms("minute") // M, "active", "online").rows()
        return [(*row, early) for row, early in zip(columns, is_early, strict=True)]

    assert found(0, ("a", 0, LOGIN), ("b", 1, LOGIN)) == []
    assert found(4_999, ("b", 2, LOGOUT), offset=2) == []
    assert found(5_000, ("c", 3, RECORD), offset=3) == [(0, 3, 1, True)]
    # Quiet: what it would be at each minute's end, each once.
    ended_ms = 5_000 + 2 * M + DELAY - 3
    assert found(ended_ms - 1) == []
    assert found(ended_ms) == [(1, 0, 1, True)]
    assert found(ended_ms + 1) == []
    # It goes on where it was.
    more = [("a", 4, LOGOUT), ("c", 9, RECORD)]
    assert found(ended_ms + 2, *more, offset=4) == [(0, 3, 0, True)]
    assert found(ended_ms + 3, ("c", M + DELAY, LOGIN), offset=6) == [(0, 3, 0, False)]
    assert found(ended_ms + 4, ("c", 2 * M + DELAY, RECORD), offset=7) == [(1, 1, 1, False)]


def test_what_was_shown_too_early_is_taken_back() -> None:
    events = [("a", 0, LOGIN), ("a", 9 * S, LOGOUT)]
    quiet = (Turn(1), Turn(0, TIMEOUT + M), Turn(1))
    step, records = online_users.FLOW.readings()["platform_logs"].step, online_users.LOGS
    given = driven(step, records, [log(event) for event in events], quiet)
    # While it was quiet the user was online to the timeout.
    assert shown(table(given[:1], ONLINE_PER_MINUTE.name, ["minute"]))[-1] == (29, 0, 1)
    assert shown(table(given, ONLINE_PER_MINUTE.name, ["minute"])) == [(0, 1, 0)]


@settings(max_examples=200, deadline=None)
@given(streams(), turns)
def test_any_stream_however_it_is_cut_gives_what_a_slow_model_gives(
    events: list[Told], drawn: list[Turn]
) -> None:
    values = [log(event) for event in events]
    given = driven(
        online_users.FLOW.readings()["platform_logs"].step, online_users.LOGS, values, drawn
    )
    expected = [(at_ms // M, active, online) for at_ms, active, online in model(events)[1]]
    assert shown(table(given, ONLINE_PER_MINUTE.name, ONLINE_PER_MINUTE.order_by)) == expected
    came = table(given, ONLINE_USER.name, ONLINE_USER.order_by)
    found = [] if came.is_empty() else came.select("user_id", after_ms("time")).rows()
    logins = [(user, at_ms) for user, at_ms, what in on_time(events) if what == LOGIN]
    assert sorted(found) == sorted(logins)


def test_the_state_levels_off() -> None:
    assert_levels_off(online_users.Presence(0, None))
