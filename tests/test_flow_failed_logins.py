"""failed_logins and user_trace: steps of services in, raw rows out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from footfall.flows import failed_logins, user_trace
from footfall.schemas.tables.logins import FAILED_LOGIN
from footfall.schemas.tables.traces import USER_TRACE
from footfall.streams.testing import Result, newest, run_flow


def step(second: int, action: str, data: Any = None, **common: Any) -> dict[str, Any]:
    """Return a step of the service Login."""
    fields = {
        "time": f"2022-03-22T12:15:{second:02d}.5Z",
        "userId": 17,
        "requestId": "a1",
        "serverName": "Login",
    }
    return {"action": action, "commonData": {**fields, **common}, "data": data}


def seconds(result: Result, *names: str) -> list[tuple[Any, ...]]:
    """Return (second of the minute, and the columns named) of each row."""
    start = datetime(2022, 3, 22, 12, 15, tzinfo=UTC)
    return [
        ((row["time"] - start).total_seconds(), *(row[name] for name in names))
        for row in result.rows.to_dicts()
    ]


def test_each_login_that_failed_is_a_row() -> None:
    result = run_flow(
        failed_logins.FLOW.dataflow,
        [
            step(1, "LoginReq"),
            step(2, "LoginRep", {"status": "Invalid"}),
            step(3, "LoginRep", {"status": "Valid"}),
            step(4, "LoginRep", {}),
            step(5, "BuyRep", {"status": "Invalid"}),
            step(6, "LoginRep", {"status": "Invalid"}, userId={"userId": "x"}, requestId=7),
        ],
    )
    assert seconds(result, "user_id", "request_id", "offset") == [
        (2.5, "17", "a1", 1),
        (6.5, "x", "7", 5),
    ]
    (status,) = result.partitions
    assert (status.used, status.filtered) == (2, 4)


def test_a_failure_is_never_too_late_and_written_again_it_is_the_same_row() -> None:
    late = [
        step(30, "LoginReq", time="2022-03-22T19:15:00Z"),
        step(2, "LoginRep", {"status": "Invalid"}),
    ]
    first, again = (run_flow(failed_logins.FLOW.dataflow, late, cuts=(cut,)) for cut in (1, 2))
    assert seconds(first, "offset") == [(2.5, 1)]
    assert not first.late
    both = newest(Result(first.items + again.items).rows, FAILED_LOGIN.order_by)
    assert both.equals(newest(first.rows, FAILED_LOGIN.order_by))


def test_the_trace_of_a_user_has_every_record_as_it_came() -> None:
    result = run_flow(
        user_trace.FLOW.dataflow,
        [
            step(1, "LoginReq"),
            step(2, "NobodyKnows", {"more": 1}, serverName="Search"),
            "no record",
            step(3, "LogoutReq", userId="17", requestId={"requestId": 2}),
        ],
    )
    columns = ("user_id", "log", "request_id", "server", "offset")
    assert seconds(result, *columns) == [
        (1.5, "17", "LoginReq", "a1", "Login", 0),
        (2.5, "17", "NobodyKnows", "a1", "Search", 1),
        (3.5, "17", "LogoutReq", "2", "Login", 3),
    ]
    assert set(result.rows.columns) == USER_TRACE.columns.keys()
    assert [letter.offset for letter in result.dead] == [2]
