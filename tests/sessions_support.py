"""Events of users as records, steps driven poll by poll, and what a slow model makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
from hypothesis import strategies as st

from footfall.flows import _sessions as sessions
from footfall.generator.shop_sessions import MINUTE_MS, Minutes, Sessions
from footfall.schemas.platform_logs import SESSION_TIMEOUT_S
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.streams.batch import TIME_MS, Poll, TableRows
from footfall.streams.decode import Records
from footfall.streams.ordered import OFFSET, Fold
from footfall.streams.steps import MakeStep
from footfall.streams.testing import NOW_MS, DrivenStep, newest

START_MS = parse_time_ms("2022-03-22T12:00:00.000Z")
S = 1_000
M = 60 * S
TIMEOUT = SESSION_TIMEOUT_S * S
DELAY = 5 * S

RECORD, LOGOUT, LOGIN = "record", "logout", "login"
Told = tuple[str, int, str]
"""(user, ms after the start, RECORD, LOGOUT or LOGIN)"""


def log(told: Told) -> bytes:
    """Return a record of platform_logs."""
    user, after_ms, what = told
    action, data = {
        RECORD: ("CartReqAdd", {}),
        LOGOUT: ("LogoutReq", {}),
        LOGIN: ("LoginRep", {"status": "Valid"}),
    }[what]
    common = {
        "time": iso_ms(START_MS + after_ms),
        "userId": user,
        "requestId": "r",
        "serverName": "Login",
    }
    return msgspec.json.encode({"action": action, "commonData": common, "data": data})


def shop_event(told: Told) -> bytes:
    """Return a record of shop_events; a logout is none, and becomes an event like others."""
    user, after_ms, what = told
    kind = {"event": "LoggingIn", "login_type": 1} if what == LOGIN else {"event": "ProfileEdit"}
    return msgspec.json.encode(
        {**kind, "timestamp": iso_ms(START_MS + after_ms), "user_id": int(user)}
    )


def on_time(events: Iterable[Told]) -> list[Told]:
    """Return the events that are not late."""
    found = []
    newest_ms = -(2**62)
    for event in events:
        newest_ms = max(newest_ms, event[1])
        if event[1] >= newest_ms - DELAY:
            found.append(event)
    return found


def model(
    events: Iterable[Told], timeout: str = "timeout"
) -> tuple[list[tuple[str, int, int, str]], list[tuple[int, int, int]]]:
    """Return (user, login, end, why) of each session, and (minute, active, online), in order.

    All in ms after the start; one event after the other, in order of time.
    """
    ended: list[tuple[str, int, int, str]] = []
    minutes = Minutes()

    def end(user: str, login_ms: int, end_ms: int, why: str) -> None:
        ended.append((user, login_ms, end_ms, why))
        minutes.online(login_ms, end_ms)

    followed = Sessions(timeout, end)
    rank = {RECORD: 0, LOGOUT: 1, LOGIN: 2}
    before: Told | None = None
    for event in sorted(on_time(events), key=lambda told: (told[0], told[1], rank[told[2]])):
        user, after_ms, what = event
        minutes.active(user, after_ms // MINUTE_MS * MINUTE_MS)
        if not (what == LOGIN and event == before):
            getattr(followed, what)(user, after_ms)
        before = event
    followed.end()
    return sorted(ended), sorted(minutes.rows())


@dataclass(frozen=True)
class Turn:
    """One poll."""

    size: int
    """0 is a mark."""
    after_ms: int = 0
    """Time on the wall clock since the poll before."""
    restarts: bool = False
    """True where the step is first made again from its snapshot."""


def driven(
    make_step: MakeStep,
    records: Records,
    values: Sequence[bytes],
    turns: Sequence[Turn] = (Turn(1_000),),
    partition: int = 0,
) -> list[Any]:
    """Return the rows of a step, which gets the records in these turns, again and again, to the
    end."""
    step = DrivenStep(make_step, partition)
    given: list[Any] = []
    offset, wall_ms, place = 0, NOW_MS, 0
    ended = False
    while not ended:
        turn = turns[place % len(turns)]
        place += 1
        wall_ms += turn.after_ms
        if turn.restarts:
            step = DrivenStep(make_step, partition, step.snapshot())
        ended = offset == len(values)
        taken = values[offset : offset + turn.size] if not ended else []
        data = b"".join(value + b"\n" for value in taken)
        poll = Poll(
            "memory", partition, offset, data, len(taken), 0, wall_ms, end=ended, agreeing=1
        )
        result = step.on_batch(records.decode("flow", poll))
        offset += len(taken)
        if result.rows is not None:
            given.append(result.rows)
    return given


def table(given: Iterable[Any], name: str, key: Sequence[str]) -> pl.DataFrame:
    """Return a table as it is in the end."""
    frames = [
        rows.frames.get(name) if isinstance(rows, TableRows) else rows
        for rows in given
        if rows is not None
    ]
    found = [frame for frame in frames if frame is not None]
    return newest(pl.concat(found), key) if found else pl.DataFrame()


def after_ms(column: str) -> pl.Expr:
    """Return a moment as ms after the start."""
    return pl.col(column).dt.epoch("ms") - START_MS


_NEAR = (-1, 0, 1)
_moments = st.one_of(
    st.integers(0, 3 * M),
    st.builds(lambda n, near: max(0, n * M + near), st.integers(0, 100), st.sampled_from(_NEAR)),
    st.builds(lambda t, n: t * TIMEOUT + n, st.integers(1, 5), st.sampled_from(_NEAR)),
    st.builds(lambda day, ms: day * 86_400 * S + ms, st.integers(0, 2), st.integers(0, M)),
)


def streams() -> st.SearchStrategy[list[Told]]:
    """Return events of few users, most of them in order, with many on a border."""

    def arranged(drawn: list[tuple[Told, int]]) -> list[Told]:
        return [told for told, _ in sorted(drawn, key=lambda each: each[0][1] + each[1])]

    told = st.tuples(
        st.sampled_from(("1", "2", "30")), _moments, st.sampled_from((RECORD, LOGOUT, LOGIN))
    )
    # How late an event comes: mostly within the delay.
    late_ms = st.sampled_from((0, 0, 0, 1, DELAY - 1, DELAY, DELAY + 1, 90 * S))
    return st.lists(st.tuples(told, late_ms), max_size=30).map(arranged)


turns = st.lists(
    st.builds(
        Turn,
        st.sampled_from((0, 1, 1, 2, 3, 7)),
        st.sampled_from((0, 250, DELAY, DELAY + 1, M, TIMEOUT + M)),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
).filter(lambda all_of: any(turn.size for turn in all_of))


def an_hour_of_visits(per_s: int, slice_s: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield (when it is over, events) of each slice: visits of 5 min, few of them ended by a
    logout."""
    chance = np.random.default_rng(7)
    for start_s in range(0, 3_600, slice_s):
        times = np.sort(chance.integers(start_s * S, (start_s + slice_s) * S, per_s * slice_s))
        # Somebody new comes each second.
        users = times // S - chance.integers(0, 300, len(times))
        draws = chance.random(len(times))
        whats = np.where(draws < 0.05, sessions.LOGIN, sessions.RECORD)
        whats[draws > 0.99] = sessions.LOGOUT
        columns = {
            TIME_MS: times,
            sessions.USER_ID: pl.Series(users).cast(pl.String),
            sessions.WHAT: whats.astype(np.int8),
            OFFSET: np.arange(len(times)),
        }
        yield (start_s + slice_s) * S, pl.DataFrame(columns)


def assert_levels_off(fold: Fold) -> None:
    """Check that the state grows no more once the first users are gone."""
    sizes = []
    for passed_ms, events in an_hour_of_visits(per_s=200, slice_s=20):
        fold.take(events, passed_ms, 0)
        sizes.append(len(fold.snapshot()))
    half = len(sizes) // 2
    assert max(sizes[half:]) <= 1.3 * max(sizes[:half])
