"""service_health: steps of services in, minutes of health out; and the minutes that stand out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from footfall.flows import _visits, service_health
from footfall.generator.shop_anomalies import anomalies
from footfall.generator.shop_truth import percentiles
from footfall.schemas.tables.service_health import ANOMALIES_VIEW, ROWS, VIEW
from footfall.schemas.versions import FINAL, PROVISIONAL, phase_of, version_of
from footfall.sinks.clickhouse import ClickHouseTable, create_tables, query_rows
from footfall.streams.testing import NOW_MS, DrivenStep, Result, newest, run_flow
from tests.clickhouse_support import any_server
from tests.requests_support import (
    MINUTE,
    START_MS,
    Told,
    cuts,
    frames_of,
    hour_of_steps,
    lives_of,
    log,
    on_time,
    poll_of,
    streams,
)

Health = tuple[int, str, str, int, int, list[int]]
"""(minute after the start, server, operation, requests, errors, durations)"""


def table(result: Result) -> list[Health]:
    """Return the table's row of each (minute, server, operation, partition) in the end."""
    if result.rows.is_empty():
        return []
    rows = newest(result.rows, ROWS.order_by).filter(pl.col("requests") > 0)
    return [
        (
            (round(row["minute"].timestamp() * 1000) - START_MS) // MINUTE,
            row["server"], row["operation"], row["requests"], row["errors"], row["durations_ms"],
        )
        for row in rows.to_dicts()
    ]  # fmt: skip


def health(*steps: Told, cuts: tuple[int, ...] = (1_000,)) -> list[Health]:
    return table(run_flow(service_health.FLOW.dataflow, [*map(log, steps)], cuts=cuts))


def recounted(steps: list[Told]) -> list[Health]:
    """Return the same by a slow model: each request by itself."""
    found: dict[tuple[int, str, str], list[tuple[int, bool]]] = {}
    for life in lives_of(on_time(steps)):
        for server in {told.server for told in life.steps}:
            there = [told for told in life.steps if told.server == server]
            key = there[0].after_ms // MINUTE, server, life.operation
            took_ms = there[-1].after_ms - there[0].after_ms
            found.setdefault(key, []).append((took_ms, any(told.failed for told in there)))
    return sorted(
        (*key, len(visits), sum(error for _, error in visits), sorted(took for took, _ in visits))
        for key, visits in found.items()
    )


def test_a_request_counts_at_each_server_in_the_minute_it_came_there() -> None:
    steps = [
        Told("r1", 59_000, "Reservation", "ReserveReq"),
        Told("r1", 59_100, "Reservation", "ReserveDbReq"),
        Told("r1", 60_100, "Cart", "CartDbReq"),
        Told("r1", 60_350, "Cart", "CartDbRep"),
        Told("r1", 61_000, "Reservation", "ReserveRep", failed=True),
        Told("r2", 70_000, "Reservation", "ReserveReq"),
    ]
    assert health(*steps) == [
        (0, "Reservation", "reserve", 1, 1, [2_000]),
        (1, "Cart", "reserve", 1, 0, [250]),
        (1, "Reservation", "reserve", 1, 0, [0]),
    ]


def test_an_unknown_server_and_operation_have_minutes_too() -> None:
    assert health(Told("r", 0, "Search", "Ask"), Told("r", 7, "Search", "Ask")) == [
        (0, "Search", "unknown", 1, 0, [7])
    ]


def test_a_visit_that_moves_leaves_what_was_written_before_right() -> None:
    # The first step comes last: before it the request was of another minute and operation.
    moved = [
        Told("r1", 61_000, "Cart", "CartDbReq"),
        Told("r1", 61_100, "Cart", "CartDbRep"),
        Told("r2", 160_000, "Login", "LogoutReq"),
        Told("r1", 59_000, "Cart", "Wait"),
        Told("r1", 58_000, "Reservation", "ReserveReq"),
    ]
    result = run_flow(service_health.FLOW.dataflow, [*map(log, moved)], cuts=(3, 1, 1))
    assert (0, "Cart", "reserve", 1, 0, [2_100]) in table(result)
    taken_back = result.rows.filter(pl.col("operation") == "add_to_cart")
    assert taken_back["requests"].to_list().count(1) == 2
    assert newest(taken_back, ROWS.order_by)["requests"].sum() == 0
    assert table(result) == recounted(moved) == health(*moved)


def read_again(steps: list[Told], killed_after: int, cuts: tuple[int, ...] = (1_000,)) -> Result:
    """Return the rows of a process that read so many steps to its end and was killed before that
    was saved, and those of the next process, which began again."""
    first = run_flow(service_health.FLOW.dataflow, [*map(log, steps[:killed_after])], cuts=cuts)
    again = run_flow(service_health.FLOW.dataflow, [*map(log, steps)], cuts=cuts)
    return Result(first.items + again.items)


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        # A first step that comes last moves the minute, or the operation.
        (((61_000, "Login", "LoginDbReq"), (59_000, "Login", "LoginReq")), (1, "Login", "login")),
        (((9, "Login", "LogoutReq"), (8, "Login", "LoginReq")), (0, "Login", "logout")),
        # In order, but the first tells nothing for certain.
        (
            ((1, "Payment", "PaymentProviderReq"), (2, "Payment", "RefundRep")),
            (0, "Payment", "buy"),
        ),
        (((1, "Search", "Ask"), (2, "Login", "LoginDbReq")), (0, "Search", "unknown")),
    ],
)
def test_a_row_of_a_killed_process_is_taken_back_though_the_next_one_never_had_it(
    steps: tuple[tuple[int, str, str], ...], left: tuple[int, str, str]
) -> None:
    told = [Told("r", *step) for step in steps]
    assert [row[:3] for row in health(*told[:1])] == [left]
    assert left not in [row[:3] for row in health(*told)]
    assert table(read_again(told, killed_after=1)) == recounted(told)


def test_where_two_requests_change_places_their_row_is_written_anew() -> None:
    steps = [
        Told("r1", 10, "Login", "LogoutReq"),
        Told("r3", 100_000, "Login", "LogoutReq"),
        Told("r1", 5, "Login", "LoginReq"),
        Told("r2", 10, "Login", "LogoutReq"),
    ]
    # Of minute 0 logout has one request, then none, then one as before.
    assert table(read_again(steps, killed_after=3, cuts=(2, 2))) == recounted(steps)


def test_requests_whose_steps_come_in_order_need_no_more_rows() -> None:
    steps = [
        Told(f"r{number}", 1_000 * number + place, "Login", action)
        for number in range(60)
        for place, action in enumerate(("LoginReq", "LoginDbReq", "LoginRep"))
    ]
    result = run_flow(service_health.FLOW.dataflow, [*map(log, steps)], cuts=(50,))
    assert (result.rows["requests"] > 0).all()


def killed_everywhere(steps: list[Told]) -> list[pl.DataFrame]:
    """Return the rows of processes that were killed after one step, two steps, and so on."""
    step = DrivenStep(service_health.HealthStep)
    found = []
    for offset, told in enumerate(steps):
        for poll in (poll_of([told], offset), poll_of([], offset + 1, end=True)):
            rows = step.on_batch(service_health.LOGS.decode("test", poll)).rows
            # That a row is taken back is for the last process to see.
            found += [] if rows is None else [rows.filter(pl.col("requests") > 0)]
    return found


@settings(max_examples=50, deadline=None)
@given(streams, cuts)
def test_the_table_is_that_of_a_slow_model_wherever_processes_were_killed(
    steps: list[Told], sizes: list[int]
) -> None:
    whole = run_flow(service_health.FLOW.dataflow, [*map(log, steps)], cuts=tuple(sizes))
    assert table(Result([*killed_everywhere(steps), *whole.items])) == recounted(steps)


def test_what_was_taken_back_is_not_held() -> None:
    step = DrivenStep(service_health.HealthStep)
    moved = [Told("r", 61_000, "Login", "LoginDbReq"), Told("r", 59_000, "Login", "LoginReq")]
    for offset, told in enumerate(moved):
        for poll in (poll_of([told], offset), poll_of([], offset + 1, end=True)):
            step.on_batch(service_health.LOGS.decode("test", poll))
    assert step.step.held == (2, 1)


@pytest.mark.parametrize("restarts", [False, True])
def test_names_that_no_visit_has_any_more_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    monkeypatch.setattr(_visits, "NAMES_MAX", 4)
    steps = [
        Told(f"r{number // 2}", 10_000 * number, f"new {number // 4}", "Ask", number % 3 == 0)
        for number in range(600)
    ]
    step = DrivenStep(service_health.HealthStep)
    written = []
    for offset in (*range(0, len(steps), 7), len(steps)):
        poll = poll_of(steps[offset : offset + 7], offset, end=offset == len(steps))
        rows = step.on_batch(service_health.LOGS.decode("test", poll)).rows
        written += [] if rows is None else [rows]
        # A minute has two new ones, and ten minutes or so can change.
        assert step.step._minutes.names < 70
        if restarts:
            step = DrivenStep(service_health.HealthStep, 0, step.snapshot())
    assert table(Result(written)) == recounted(steps)


def test_each_partition_has_rows_of_its_own() -> None:
    steps = [log(Told("r", 0, "Login", "LogoutReq"))]
    result = run_flow(service_health.FLOW.dataflow, [steps, steps * 2])
    rows = newest(result.rows, ROWS.order_by)
    assert rows.select("topic_partition", "durations_ms").rows() == [(0, [0]), (1, [0])]
    assert set(rows.columns) == set(ROWS.columns)


def test_a_late_step_counts_in_no_minute_and_is_kept_aside() -> None:
    steps = [
        Told("r1", 0, "Login", "LogoutReq"),
        Told("r2", 125_000, "Login", "LogoutReq"),
        Told("r1", 0, "Login", "LogoutRep"),
        Told("r2", 125_001, "Login", "LogoutRep"),
        Told("r1", 0, "Login", "LogoutRep", failed=True),
    ]
    result = run_flow(service_health.FLOW.dataflow, [*map(log, steps)])
    assert [letter.offset for letter in result.late] == [4]
    assert table(result) == [
        (0, "Login", "logout", 1, 0, [0]), (2, "Login", "logout", 1, 0, [1]),
    ]  # fmt: skip
    (status,) = result.partitions
    assert (status.used, status.late) == (4, 1)


def test_minutes_are_written_when_they_are_over_and_from_time_to_time_before() -> None:
    step = DrivenStep(service_health.HealthStep)
    written: list[tuple[int, int, int]] = []
    offset = 0

    def take(second: int, *at_s: float, end: bool = False) -> None:
        steps = [Told(f"r{at}", round(at * 1000), "Login", "LogoutReq") for at in at_s]
        nonlocal step, offset
        step = DrivenStep(service_health.HealthStep, 0, step.snapshot())
        poll = poll_of(steps, offset, polled_at_ms=NOW_MS + second * 1000, end=end)
        offset = poll.next_offset
        rows = step.on_batch(service_health.LOGS.decode("test", poll)).rows
        for row in [] if rows is None else rows.sort("minute").to_dicts():
            minute = (round(row["minute"].timestamp() * 1000) - START_MS) // MINUTE
            written.append((minute, row["requests"], phase_of(row["version"])))

    take(0, 1)
    take(4, 2)
    assert written == []
    take(5, 3)
    assert written == [(0, 3, PROVISIONAL)]
    take(6, 94.999)
    assert written.pop(0) and not written
    take(7, 95)
    take(8, 95.001, 59)
    assert written == [(0, 4, FINAL)]
    take(9)
    take(13)
    assert written.pop() == (1, 3, PROVISIONAL)
    take(20)
    take(21, end=True)
    assert not written[1:]
    take(22, 96)
    take(23, end=True)
    assert written[1:] == [(1, 4, PROVISIONAL)]


@settings(max_examples=50, deadline=None)
@given(streams, cuts)
def test_the_table_is_that_of_a_slow_model_however_the_stream_is_cut(
    steps: list[Told], sizes: list[int]
) -> None:
    assert health(*steps, cuts=tuple(sizes)) == recounted(steps)


def test_the_state_of_an_hour_levels_off() -> None:
    step = DrivenStep(service_health.HealthStep)
    held, sizes = [], []
    for batch in frames_of(hour_of_steps(rate=20, seconds=3_600, poll_rows=1_200)):
        step.on_batch(batch)
        held.append(step.step.held)
        sizes.append(len(step.snapshot()))
    later = held[len(held) // 2 :]
    # What can change, and a minute each for a chunk, a poll, and what is not written yet.
    assert max(steps for steps, _ in later) <= 20 * (180 + 5 + 2 * 60)
    visits_a_second = 20 / 4 * 2.02
    assert max(visits for _, visits in later) <= visits_a_second * (180 + 300 + 5 + 4 * 60)
    assert max(sizes[len(sizes) // 2 :]) < 1.2 * max(sizes[: len(sizes) // 2])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a real engine with the table and its views."""
    with any_server(tmp_path_factory.mktemp("clickhouse")) as server:
        create_tables(server.url, [ROWS, VIEW, ANOMALIES_VIEW])
        yield server.url


def drawn_health(seed: int) -> list[Health]:
    """Return three hours of two services, with minutes that are missing, slow or full of
    errors."""
    chance = Random(seed)
    found: list[Health] = []
    for minute in range(180):
        for server, operation, rate in (("Login", "login", 12), ("Cart", "reserve", 4)):
            if chance.random() < 0.1:
                continue
            slow = chance.choice([1] * 15 + [2, 9])
            bad = chance.choice([0.01] * 15 + [0.2, 0.7])
            # Some have as many as the rule asks for, some one less.
            count = chance.choice([9, 10, rate, 2 * rate])
            took = sorted(slow * chance.randrange(0, 40) for _ in range(count))
            errors = sum(chance.random() < bad for _ in range(count))
            found.append((minute, server, operation, count, errors, took))
    return found


def rows_of(drawn: list[Health]) -> pl.DataFrame:
    """Return rows of two topics that have these between them, the first written twice."""
    rows: list[dict[str, Any]] = []
    for minute, server, operation, _, errors, took in drawn:
        for topic, of in ((0, took[1:]), (0, took[::2]), (1, took[1::2])):
            rows.append(
                {
                    "minute": datetime.fromtimestamp(START_MS / 1000 + 60 * minute, UTC),
                    "server": server,
                    "operation": operation,
                    "topic": f"of_{topic}",
                    "topic_partition": 0,
                    "requests": len(of),
                    "errors": errors * (1 - topic),
                    "durations_ms": of,
                    "version": version_of(0, len(rows), FINAL),
                }
            )
    kinds = {"UInt16": pl.UInt16(), "UInt64": pl.UInt64(), "Array(UInt32)": pl.List(pl.UInt32())}
    types = {name: kinds[kind] for name, kind in ROWS.columns.items() if kind in kinds}
    return pl.DataFrame(rows, schema_overrides={**types, "minute": pl.Datetime("ms", "UTC")})


def test_the_views_say_what_the_definitions_say(url: str) -> None:
    drawn = drawn_health(seed=4)
    expected = sorted(
        (START_MS + minute * MINUTE, server, operation, count, errors, *percentiles(took))
        for minute, server, operation, count, errors, took in drawn
    )
    writer = ClickHouseTable(url, ROWS)
    writer.write([rows_of(drawn)])
    writer.close()
    start = "toUnixTimestamp(minute) * 1000 AS minute_ms"
    _, found = query_rows(
        url,
        f"SELECT {start}, server, operation, requests, errors, p50_ms, p95_ms, p99_ms "
        f"FROM {VIEW.name} ORDER BY ALL",
    )
    assert [tuple(row) for row in found] == expected
    _, found = query_rows(
        url,
        f"SELECT {start}, server, operation, measure, value, expected "
        f"FROM {ANOMALIES_VIEW.name} ORDER BY ALL",
    )
    wanted = sorted(anomalies(expected))
    assert [tuple(row) for row in found] == wanted
    assert {(row[1], row[3]) for row in wanted} == {
        (server, measure) for server in ("Login", "Cart") for measure in ("errors", "latency")
    }


def minutes(*rows: tuple[int, int, int, int]) -> list[tuple[int, str, float, float]]:
    """Return (minute, requests, errors, p50) -> (minute, measure, value, expected) that stand
    out."""
    found = anomalies(
        (minute * MINUTE, "Cart", "add_to_cart", requests, errors, p50, p50, p50)
        for minute, requests, errors, p50 in rows
    )
    return [(row[0] // MINUTE, *row[3:]) for row in found]


def test_a_minute_stands_out_against_the_hour_before_it() -> None:
    usual = [(minute, 20, 1, 30) for minute in range(10)]
    assert minutes(*usual) == []
    assert minutes(*usual, (10, 10, 0, 60)) == [(10, "latency", 60.0, 30.0)]
    assert minutes(*usual, (10, 10, 0, 59), (11, 9, 9, 900)) == []
    # 11 of 202 with this minute left out; 4 standard errors of 20 requests are 0.2.
    assert minutes(*usual, (10, 20, 6, 30)) == [(10, "errors", 0.3, 11 / 202)]
    assert minutes(*usual, (10, 20, 5, 30)) == []
    often = [(minute, 20, 10, 30) for minute in range(10)]
    assert minutes(*often, (10, 20, 19, 30)) == [(10, "errors", 0.95, 0.5)]
    assert minutes(*often, (10, 20, 18, 30)) == []
    # The hour reaches back 60 minutes, and its own minute is no part of it.
    assert minutes(*usual, (64, 10, 0, 99)) == [(64, "latency", 99.0, 30.0)]
    assert minutes(*usual, (65, 10, 0, 99)) == [(65, "latency", 99.0, 30.0)]
    assert minutes(*usual, (66, 10, 0, 99)) == []
    # What takes no time at all may take a little.
    assert minutes(*((m, 50, 0, 0) for m in range(5)), (5, 50, 0, 9)) == []
