"""request_trace: steps of services in, their rows and what became of each request out."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.flows import request_trace
from footfall.schemas.tables.traces import REQUEST_SUMMARY, REQUEST_TRACE
from footfall.schemas.versions import FINAL, PROVISIONAL, phase_of
from footfall.streams.testing import NOW_MS, DrivenStep, Result, run_flow
from tests.requests_support import (
    START_MS,
    Told,
    cuts,
    lives_of,
    log,
    on_time,
    poll_of,
    shuffled,
    streams,
)

Summary = tuple[str, str, int, int, int, list[str], str, str, str]
"""(request, user, when after the start, duration, steps, servers, operation, outcome, missing)"""

LOGIN = [
    Told("r1", 0, "Login", "LoginReq"),
    Told("r1", 20, "Login", "LoginDbReq"),
    Told("r1", 50, "Login", "LoginRep"),
]


def told_of(row: dict[str, Any]) -> Summary:
    assert row["hops"] == len(row["servers"]) - 1
    after_ms = round(row["started"].timestamp() * 1000) - START_MS
    names = ("duration_ms", "steps", "servers", "operation", "outcome", "missing")
    return (row["request_id"], row["user_id"], after_ms, *(row[name] for name in names))  # type: ignore[return-value]


def summaries(result: Result) -> list[Summary]:
    """Return the table's summaries in the end."""
    return [told_of(row) for row in result.table(REQUEST_SUMMARY).to_dicts()]


def traced(*steps: Told, cuts: tuple[int, ...] = (1_000,)) -> Result:
    return run_flow(request_trace.FLOW.dataflow, [*map(log, steps)], cuts=cuts)


def recounted(steps: list[Told]) -> list[Summary]:
    """Return the same by a slow model: of each id the newest request."""
    newest = {life.id: life for life in lives_of(on_time(steps))}
    found: list[Summary] = []
    for request, life in sorted(newest.items()):
        servers: list[str] = []
        for told in life.steps:
            if not servers or servers[-1] != told.server:
                servers.append(told.server)
        outcome = "failed" if any(told.failed for told in life.steps) else "ok"
        found.append((
            request, life.steps[0].user, life.steps[0].after_ms, life.took_ms, len(life.steps),
            servers, life.operation, "incomplete" if life.missing else outcome, life.missing,
        ))  # fmt: skip
    return found


class Partition:
    """One partition, poll by poll; ``written`` are the summaries that the last poll led to."""

    def __init__(self) -> None:
        self._step = DrivenStep(request_trace.TraceStep)
        self._offset = 0
        self._second = 0

    def take(
        self, *steps: Told, end: bool = False, after_s: int = 1
    ) -> list[tuple[str, str, int]]:
        """Take steps; return (request, outcome, phase) of the summaries that are written."""
        self._second += after_s
        at_ms = NOW_MS + self._second * 1000
        poll = poll_of(steps, self._offset, polled_at_ms=at_ms, end=end)
        self._offset = poll.next_offset
        self._step = DrivenStep(request_trace.TraceStep, 0, self._step.snapshot())
        rows = self._step.on_batch(request_trace.LOGS.decode("test", poll)).rows
        found = rows.frames.get(REQUEST_SUMMARY.name) if rows is not None else None
        return [
            (row["request_id"], row["outcome"], phase_of(row["version"]))
            for row in ([] if found is None else found.sort("request_id").to_dicts())
        ]


def test_every_step_is_a_row_also_one_that_comes_late() -> None:
    steps = [
        Told("r1", 200_000, "Login", "LoginReq"),
        Told("r1", 0, "Login", "LoginRep", failed=True, user="18"),
    ]
    result = traced(*steps)
    found = result.table(REQUEST_TRACE)
    assert set(found.columns) | {"version"} == set(REQUEST_TRACE.columns)
    names = ("request_id", "server", "log", "user_id", "status", "error", "failed", "offset")
    assert sorted(found.select(names).rows(), key=lambda row: row[-1]) == [
        ("r1", "Login", "LoginReq", "17", "", "", False, 0),
        ("r1", "Login", "LoginRep", "18", "Error", "why", True, 1),
    ]
    assert [letter.offset for letter in result.late] == [1]
    assert summaries(result) == [
        ("r1", "17", 200_000, 0, 1, ["Login"], "login", "incomplete", "Login.LoginDbReq")
    ]
    (status,) = result.partitions
    assert (status.used, status.late, status.filtered) == (1, 1, 0)


def test_a_request_is_ok_failed_or_incomplete() -> None:
    bad = [
        Told("r2", 0, "Login", "LoginReq"),
        Told("r2", 1, "Login", "LoginDbReq"),
        Told("r2", 2, "Login", "LoginRep", failed=True),
        Told("r3", 0, "Login", "LoginReq", failed=True),
        Told("r3", 1, "Login", "LoginRep"),
    ]
    assert summaries(traced(*LOGIN, *bad)) == [
        ("r1", "17", 0, 50, 3, ["Login"], "login", "ok", ""),
        ("r2", "17", 0, 2, 3, ["Login"], "login", "failed", ""),
        ("r3", "17", 0, 1, 2, ["Login"], "login", "incomplete", "Login.LoginDbReq"),
    ]


def test_tries_of_a_provider_must_each_be_answered() -> None:
    def buy(request: str, *actions: str) -> list[Told]:
        server = {"ReserveDbReq": "Reservation"}
        return [
            Told(request, at, server.get(action, "Payment"), action)
            for at, action in enumerate(actions)
        ]

    once = ("PaymentProviderReq", "PaymentProviderRep")
    found = summaries(
        traced(
            *buy("r1", "BuyReq", "ReserveDbReq", *once, *once, "BuyRep"),
            *buy("r2", "BuyReq", *once, "PaymentProviderReq", "BuyRep"),
        )
    )
    assert [(row[4], row[5], *row[7:]) for row in found] == [
        (7, ["Payment", "Reservation", "Payment"], "ok", ""),
        (5, ["Payment"], "incomplete", "Payment.PaymentProviderRep"),
    ]


def test_actions_and_servers_that_nobody_knows_are_steps_like_others() -> None:
    odd = [Told("r2", 5, "\x1f", "Ask"), Told("r2", 6, "\x1fA", "sk"), Told("r1", 60, "X", "Y")]
    assert summaries(traced(*LOGIN, *odd)) == [
        ("r1", "17", 0, 60, 4, ["Login", "X"], "login", "ok", ""),
        ("r2", "17", 5, 1, 2, ["\x1f", "\x1fA"], "unknown", "ok", ""),
    ]


def test_ids_are_the_same_flat_or_nested_as_integers_or_texts() -> None:
    def record(second: int, action: str, request: Any, user: Any) -> dict[str, Any]:
        common = {"time": f"2022-03-22T12:00:{second:02d}", "userId": user, "requestId": request}
        return {"action": action, "commonData": {**common, "serverName": "Login"}}

    result = run_flow(
        request_trace.FLOW.dataflow,
        [
            record(0, "LoginReq", 7, {"userId": 17}),
            record(1, "LoginDbReq", {"requestId": "7"}, 17),
            record(2, "LoginRep", {"requestId": 7}, "17"),
        ],
    )
    assert summaries(result) == [("7", "17", 0, 2_000, 3, ["Login"], "login", "ok", "")]


def test_a_request_is_written_when_its_last_step_is_there_and_again_when_one_comes_later() -> None:
    partition = Partition()
    assert partition.take(LOGIN[0], LOGIN[2]) == [("r1", "incomplete", FINAL)]
    assert partition.take(Told("r2", 98, "Login", "LoginReq")) == []
    assert partition.take(Told("r2", 99, "Login", "LoginDbReq")) == []
    assert partition.take(LOGIN[1]) == [("r1", "ok", FINAL)]
    # It would not be due by itself: but what was written must not stay as it was.
    assert partition.take(Told("r1", 0, "Cart", "CartReqAdd")) == [("r1", "incomplete", FINAL)]
    assert partition.take(end=True) == [("r2", "incomplete", PROVISIONAL)]


def test_nobody_waits_longer_than_the_limit_for_a_last_step_that_was_lost() -> None:
    partition = Partition()
    assert partition.take(*LOGIN[:2]) == []
    assert partition.take(Told("r2", 35_019, "Login", "LogoutReq")) == [("r2", "ok", FINAL)]
    assert partition.take(Told("r3", 35_020, "Login", "LogoutReq")) == [
        ("r1", "incomplete", FINAL), ("r3", "ok", FINAL),
    ]  # fmt: skip
    assert partition.take(Told("r4", 90_000, "Login", "LogoutReq")) == [("r4", "ok", FINAL)]
    assert partition.take(LOGIN[2]) == [("r1", "ok", FINAL)]
    assert partition.take(end=True) == []


def test_while_a_partition_is_quiet_what_waits_is_written_once() -> None:
    partition = Partition()
    assert partition.take(*LOGIN[:2]) == []
    assert partition.take(after_s=4) == []
    assert partition.take() == [("r1", "incomplete", PROVISIONAL)]
    # It has begun anew, and cannot know what it has told.
    assert partition.take(after_s=100) == [("r1", "incomplete", PROVISIONAL)]
    assert partition.take(LOGIN[2]) == [("r1", "ok", FINAL)]


def test_an_id_that_is_used_again_is_another_request_and_the_newest_stands() -> None:
    def again(after_ms: int) -> list[Told]:
        return [
            Told("r1", after_ms, "Cart", "CartReqAdd"),
            Told("r1", after_ms + 1, "Cart", "CartDbReq"),
        ]

    together = ("r1", "17", 0, 60_051, 5, ["Login", "Cart"], "login", "ok", "")
    alone = ("r1", "17", 60_051, 1, 2, ["Cart"], "add_to_cart", "incomplete", "Cart.CartDbRep")
    hours = ("r1", "17", 9_000_000, *alone[3:])
    for sizes in ((1_000,), (1,), (3, 1)):
        assert summaries(traced(*LOGIN, *again(60_050), cuts=sizes)) == [together]
        assert summaries(traced(*LOGIN, *again(60_051), cuts=sizes)) == [alone]
        assert summaries(traced(*LOGIN, *again(9_000_000), cuts=sizes)) == [hours]
        # What is late to the first request does not bring it back.
        late = Told("r1", 60, "Cart", "CartDbRep")
        found = summaries(traced(*LOGIN, *again(100_000), late, cuts=sizes))
        assert found == [("r1", "17", 100_000, *alone[3:])]


def test_each_partition_has_summaries_of_its_own() -> None:
    result = run_flow(request_trace.FLOW.dataflow, [[*map(log, LOGIN)], [log(LOGIN[0])]])
    assert [row[4] for row in summaries(result)] == [3, 1]
    assert set(result.rows_of(REQUEST_SUMMARY.name).columns) == set(REQUEST_SUMMARY.columns)


@settings(max_examples=50, deadline=None)
@given(streams, cuts)
def test_the_table_is_that_of_a_slow_model_however_the_stream_is_cut(
    steps: list[Told], sizes: list[int]
) -> None:
    assert summaries(traced(*steps, cuts=tuple(sizes))) == recounted(steps)


@settings(max_examples=25, deadline=None)
@given(streams, st.lists(st.integers(0, 4_999), min_size=45, max_size=45), cuts)
def test_any_order_within_the_delay_gives_the_same_table(
    steps: list[Told], held_up_ms: list[int], sizes: list[int]
) -> None:
    result = traced(*shuffled(steps, held_up_ms), cuts=tuple(sizes))
    assert not result.late
    assert summaries(result) == recounted(sorted(steps, key=lambda told: told.after_ms))


@settings(max_examples=20, deadline=None)
@given(streams, cuts, cuts)
def test_read_again_in_other_batches_nothing_changes(
    steps: list[Told], sizes: list[int], others: list[int]
) -> None:
    first, again = (traced(*steps, cuts=tuple(cut)) for cut in (sizes, others))
    both = Result(first.items + again.items)
    assert summaries(both) == summaries(first)
    assert both.table(REQUEST_TRACE).equals(first.table(REQUEST_TRACE))
