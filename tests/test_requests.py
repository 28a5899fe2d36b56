"""Requests put together from steps: what is one, what is kept of it, and for how long."""

from __future__ import annotations

from random import Random

import polars as pl
import pytest

from footfall.flows import _request_lives
from footfall.flows._request_lives import (
    FORMS_MAX,
    STEPS_MAX,
    Form,
    Lives,
    Steps,
    form_of,
    hashed,
    lives_of,
)
from footfall.flows._requests import Late, Requests, Touched, framed, unframed
from footfall.schemas.operations import OPERATIONS
from footfall.streams.batch import TIME_MS, Batch, Poll, Seen
from tests.requests_support import START_MS, frames_of, hour_of_steps


def steps_of(*told: tuple[str, int], server: str = "S", log: str = "L") -> pl.DataFrame:
    """Return steps as they are held, from (request, ms after the start)."""
    return pl.DataFrame(
        {
            "request_id": [request for request, _ in told],
            "server": [server] * len(told),
            "log": [log] * len(told),
            "time_ms": [START_MS + at for _, at in told],
            "failed": [False] * len(told),
        }
    )


def lives_in(frame: pl.DataFrame) -> Lives:
    return lives_of(Steps.of(frame, hashed(frame)))


def ids_of(found: Lives | None) -> list[str]:
    """Return the different ids of some requests."""
    assert found is not None
    return sorted({*found.steps.frame["request_id"][found.steps.order].to_list()})


def lives(frame: pl.DataFrame) -> list[tuple[str, int, int, int, bool]]:
    """Return (request, first, last, steps, is it the newest) of each, in order."""
    found = lives_in(frame)
    ids = frame["request_id"][found.steps.order[found.starts]]
    return sorted(
        zip(
            ids.to_list(),
            (found.steps.times[found.starts] - START_MS).tolist(),
            (found.last_ms - START_MS).tolist(),
            (found.ends - found.starts).tolist(),
            found.is_newest.tolist(),
            strict=True,
        )
    )


def test_steps_of_an_id_are_a_request_until_nothing_comes_for_a_minute() -> None:
    assert lives(steps_of(("a", 0), ("b", 5), ("a", 60_000), ("a", 120_001), ("b", 4))) == [
        ("a", 0, 60_000, 2, False),
        ("a", 120_001, 120_001, 1, True),
        ("b", 4, 5, 2, True),
    ]


def test_no_request_is_longer_than_five_minutes_or_a_thousand_steps() -> None:
    slow = [("a", at) for at in range(0, 700_000, 50_000)]
    assert lives(steps_of(*slow)) == [
        ("a", 0, 300_000, 7, False), ("a", 350_000, 650_000, 7, True),
    ]  # fmt: skip
    many = [("a", at) for at in range(2 * STEPS_MAX + 1)]
    assert [steps for *_, steps, _ in lives(steps_of(*many, ("b", 0)))] == [1_000, 1_000, 1, 1]


def test_names_are_told_apart_whatever_they_hold() -> None:
    odd = ["", "a", "a\x00", "\x00a", "é", "a" * 300]
    frame = steps_of(*(("r", at) for at in range(len(odd) ** 2))).with_columns(
        pl.Series("server", [name for name in odd for _ in odd]), pl.Series("log", odd * len(odd))
    )
    (form,) = lives_in(frame).forms
    assert form.servers == tuple(odd)


def test_steps_of_one_moment_are_in_order_of_server_and_action_however_they_came() -> None:
    frame = steps_of(("r", 7), ("r", 7), ("r", 7)).with_columns(
        pl.Series("server", ["b", "a", "b"]), user_id=pl.Series(["x", "z", "y"])
    )
    found = lives_in(frame)
    assert found.forms[0].servers == ("a", "b")
    for rows in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        given = frame[rows]
        placed = given["user_id"][lives_in(given).steps.order]
        assert placed.to_list() == ["z", "x", "y"]


def take(state: Requests, frame: pl.DataFrame) -> tuple[Touched | None, Late | None]:
    poll = Poll("platform_logs", 0, 0, b"", len(frame), 0, 0)
    seen = Seen.of(frame[TIME_MS].to_numpy(), state.newest_ms)
    return state.take(Batch(poll, frame, seen=seen))


def test_ids_with_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the library makes of a text cannot be chosen: here it makes the same of all.
    monkeypatch.setattr(
        pl.Series, "hash", lambda series: pl.zeros(len(series), pl.UInt64, eager=True)
    )
    frame = steps_of(("a", 0), ("b", 1), ("a", 2), ("c", 0))
    assert [(request, steps) for request, _, _, steps, _ in lives(frame)] == [
        ("a", 2), ("b", 1), ("c", 1),
    ]  # fmt: skip
    state = Requests(None)
    take(state, frame)
    touched, _ = take(state, steps_of(("b", 9)))
    # The others come along, and are as they were.
    assert touched is not None and ids_of(touched.before) == ["a", "b", "c"]
    assert touched.now.counts.tolist() == [2, 2, 1]
    assert state.held == 5


def test_the_form_says_what_is_missing_and_whether_more_is_to_come() -> None:
    login = OPERATIONS["login"].steps
    assert form_of([*login]) == Form("login", "", ("Login",), True, True)
    assert form_of([login[0], login[2]]) == Form(
        "login", "Login.LoginDbReq", ("Login",), True, True
    )
    assert form_of([*login[:2]]) == Form("login", "Login.LoginRep", ("Login",), False, True)
    assert form_of([("X", "Y")]) == Form("unknown", "", ("X",), False, True)


def test_the_memory_of_forms_is_bounded() -> None:
    for number in range(100):
        found = lives_in(steps_of(("r", 0), ("r", 1), log=f"new {number}"))
        assert found.forms == [Form("unknown", "", ("S",), False, True)]
    assert _request_lives._known_form.cache_info().maxsize == FORMS_MAX


@pytest.mark.parametrize("names", [2, 120, 300])
def test_forms_are_those_of_the_steps_however_long_and_many(names: int) -> None:
    chance = Random(names)
    told = [(f"r{chance.randrange(90)}", at) for at in range(700)] + [
        ("r", at) for at in range(40)
    ]
    frame = steps_of(*told).with_columns(
        pl.Series("server", [chance.choice(("Login", "Cart")) for _ in told]),
        pl.Series("log", [f"Ask {chance.randrange(names)}" for _ in told]),
    )
    found = lives_in(frame)
    of_life = [found.steps.order[a:b] for a, b in zip(found.starts, found.ends, strict=True)]
    expected = [form_of(frame[rows].select("server", "log").rows()) for rows in of_life]
    assert [found.forms[place] for place in found.form_places] == expected
    assert {7, 8, 40} <= {*found.counts.tolist()}


def test_what_cannot_change_any_more_is_forgotten() -> None:
    state = Requests(None)
    take(state, steps_of(("a", 0)))
    take(state, steps_of(("b", 185_000)))
    assert state.held == 2
    state = Requests(state.snapshot())
    take(state, steps_of(("b", 185_001)))
    assert state.held == 2
    touched, _ = take(state, steps_of(("a", 185_002)))
    assert touched is not None and touched.before is None
    # Also where it is still there, beside what can change.
    state = Requests(None)
    take(state, steps_of(("a", 0), ("b", 100_000)))
    take(state, steps_of(("c", 185_001)))
    assert state.held == 3
    touched, _ = take(state, steps_of(("a", 185_002), ("b", 185_002)))
    assert touched is not None and touched.before is not None
    assert ids_of(touched.before) == ["b"]


def test_a_step_of_a_batch_meets_the_watermark_of_its_row_and_not_of_the_last() -> None:
    state = Requests(None)
    take(state, steps_of(("a", 0)))
    touched, late = take(state, steps_of(("a", 10), ("b", 9_000_000)))
    assert late is None and touched is not None and touched.before is not None
    assert state.held == 1
    _, late = take(state, steps_of(("c", 8_875_000), ("d", 8_874_999)))
    assert late is not None and late[0].tolist() == [1]


def test_an_id_in_every_record_does_no_harm() -> None:
    state = Requests(None)
    held = []
    for batch in frames_of(hour_of_steps(rate=10, seconds=3_600, poll_rows=600)):
        take(state, batch.frame.with_columns(request_id=pl.lit("0"), failed=pl.lit(False)))
        held.append(state.held)
    # What can change, and the request whose first steps cannot.
    assert max(held) <= 10 * (180 + 5) + STEPS_MAX
    assert len(set(held[20:])) < 20


def test_the_state_of_an_hour_levels_off() -> None:
    state = Requests(None, "user_id")
    held, sizes = [], []
    for batch in frames_of(hour_of_steps(rate=20, seconds=3_600, poll_rows=1_200)):
        take(state, batch.frame.with_columns(failed=pl.lit(False)))
        held.append(state.held)
        sizes.append(len(state.snapshot()))
    half = len(held) // 2
    assert max(held) <= 20 * (180 + 5 + 2 * 60)
    assert max(sizes[half:]) < 1.2 * max(sizes[:half])


def test_bytes_are_framed_and_taken_apart() -> None:
    for parts in ([], [b""], [b"a", b"", b"bcd"]):
        assert unframed(framed(*parts)) == parts
