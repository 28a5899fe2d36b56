"""The truth of the simulated shop is what a slow recount of its records finds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from footfall.generator.shop_records import Disturbances
from footfall.generator.shop_sessions import Alerts, Minutes, Sessions
from footfall.generator.shop_tables import TABLES
from footfall.generator.shop_truth import percentiles, truth_of, write_truth
from footfall.generator.shop_world import ShopWorld
from tests.shop_recount import recount
from tests.test_generator_shop import MIXED, records_of

MINUTE = 60_000
TIMEOUT = 1_800_000


def told(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows in an order of their own; one table has lists."""
    return sorted(rows, key=repr)


def assert_true(world: ShopWorld) -> dict[str, pl.DataFrame]:
    tables = {name: rows.frame() for name, rows in truth_of(world).items()}
    counted = recount(records_of(world), world.disturbances.disorder_ms)
    assert tables.keys() == counted.keys() == TABLES.keys()
    for name, frame in tables.items():
        assert told(frame.rows()) == told(counted[name]), f"{name} of {world}"
    return tables


@given(
    seed=st.integers(0, 2**64),
    out_of_order=st.sampled_from([0.0, 0.2, 0.5]),
    late=st.sampled_from([0.0, 0.03]),
    malformed=st.sampled_from([0.0, 0.02]),
    clocks=st.sampled_from([0.0, 0.2]),
    users=st.sampled_from([40, 50_000]),
    density=st.sampled_from([3, 60]),
)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    # A smaller seed makes no simpler world: the first that fails says as much as any.
    phases=(Phase.generate,),
)
def test_the_truth_is_what_a_recount_finds(
    seed: int,
    *,
    out_of_order: float,
    late: float,
    malformed: float,
    clocks: float,
    users: int,
    density: int,
) -> None:
    disturbances = Disturbances(out_of_order, late, malformed, clocks, clocks / 2)
    assert_true(
        ShopWorld(
            seed=seed,
            total=6_000,
            disturbances=disturbances,
            users=users,
            records_per_s=density,
            odd_shapes=0.1,
        )
    )


def test_all_that_can_happen_happens_in_a_day_of_few_users() -> None:
    world = ShopWorld(seed=11, total=30_000, disturbances=MIXED, users=60, records_per_s=2)
    tables = assert_true(world)
    ended_by = Counter(tables["users_spend_time_online"]["ended_by"])
    assert ended_by.keys() == {"logout", "timeout", "relogin"}
    ended_by = Counter(tables["shop_sessions"]["ended_by"])
    assert ended_by.keys() == {"inactivity", "relogin"}
    summaries = tables["request_summary"]
    assert set(summaries["outcome"]) == {"ok", "failed", "incomplete"}
    assert set(summaries["hops"]) == {0, 1, 2, 3}
    assert set(tables["service_health"]["server"]) >= {"Login", "Payment", "Search"}
    assert all(frame.height for frame in tables.values())


def test_a_cookie_with_many_tags_keeps_the_newest() -> None:
    world = ShopWorld(seed=2, total=16_000, users=2, records_per_s=2, disturbances=MIXED)
    profiles = assert_true(world)["user_profiles"].group_by("cookie", "action").len()
    assert profiles["len"].max() == 200


def test_the_truth_is_written_as_a_file_a_table(tmp_path: Path) -> None:
    world = ShopWorld(seed=1, total=2_000)
    written = write_truth(world, tmp_path / "truth")
    assert written.keys() == TABLES.keys()
    for name, rows in truth_of(world).items():
        stored = pl.read_parquet(tmp_path / "truth" / f"{name}.parquet")
        assert stored.equals(rows.frame())
        assert stored.height == written[name]
    with pytest.raises(ValueError, match="only a world with a total has a truth"):
        write_truth(ShopWorld(), tmp_path)


def sessions_of(*moments: tuple[str, int]) -> list[tuple[str, int, int, str]]:
    ended: list[tuple[str, int, int, str]] = []
    sessions = Sessions("timeout", lambda *row: ended.append(row))
    for what, time_ms in moments:
        getattr(sessions, what)("u", time_ms)
    sessions.end()
    return ended


def test_a_session_ends_by_what_comes_first() -> None:
    assert sessions_of(("login", 5), ("logout", 9)) == [("u", 5, 9, "logout")]
    assert sessions_of(("login", 5), ("record", 9)) == [("u", 5, 9 + TIMEOUT, "timeout")]
    assert sessions_of(("login", 5), ("login", 9), ("logout", 10)) == [
        ("u", 5, 9, "relogin"), ("u", 9, 10, "logout"),
    ]  # fmt: skip
    assert sessions_of(("login", 0), ("record", TIMEOUT - 1), ("logout", TIMEOUT)) == [
        ("u", 0, TIMEOUT, "logout")
    ]
    assert sessions_of(("login", 0), ("logout", TIMEOUT)) == [("u", 0, TIMEOUT, "timeout")]
    assert sessions_of(("logout", 0), ("record", 1)) == []


def test_a_user_is_online_at_the_end_of_a_minute_whose_last_moment_the_session_holds() -> None:
    for login_ms, end_ms, online in (
        (0, MINUTE, {0}),
        (0, MINUTE - 1, set()),
        (MINUTE - 1, MINUTE, {0}),
        (MINUTE, 3 * MINUTE + 5, {1, 2}),
    ):
        minutes = Minutes()
        minutes.online(login_ms, end_ms)
        assert {(ms // MINUTE, n) for ms, _, n in minutes.rows()} == {(m, 1) for m in online}


def alerts_of(*times_ms: int) -> list[list[int]]:
    alerts = Alerts()
    return [found for time_ms in times_ms if (found := alerts.failure("u", time_ms))]


def test_an_alert_is_raised_once_a_burst() -> None:
    assert alerts_of(1, 2, 3) == []
    assert alerts_of(1, 2, 3, 4, 5, 6, 7) == [[1, 2, 3, 4]]
    # The window holds 30 whole seconds: those of 0 to 29, and not of 0 to 30.
    assert alerts_of(0, 1, 2, 29_999) == [[0, 1, 2, 29_999]]
    assert alerts_of(999, 1_000, 1_001, 30_000) == []
    # As long as each failure finds as many, it is the same burst.
    assert len(alerts_of(*range(0, 300_000, 7_000))) == 1
    assert len(alerts_of(1, 2, 3, 4, 40_001, 40_002, 40_003, 40_004)) == 2


def test_percentiles_are_durations_that_were_measured() -> None:
    assert percentiles([7]) == (7, 7, 7)
    assert percentiles([4, 3, 2, 1]) == (2, 4, 4)
    assert percentiles(range(1, 201)) == (100, 190, 198)
