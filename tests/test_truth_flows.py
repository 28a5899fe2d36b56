"""All flows over simulated shops: every row of every table is what the truth says.

This holds however the stream was disturbed, cut, shared among processes and broken off. To run all
four ways of each world, and worlds in which more happens:

    FOOTFALL_TRUTH_ALL=1 FOOTFALL_TRUTH_RECORDS=100000 pytest tests/test_truth_flows.py
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import polars as pl
import pytest

from footfall.generator.shop_records import TOPICS, Disturbances
from footfall.generator.shop_truth import truth_of, write_truth
from footfall.generator.shop_world import ShopWorld
from footfall.streams.batch import AGREEING
from tests.clickhouse_support import Server, any_server
from tests.truth_support import WAYS, Way, run_all, settings_of, topics_of, unequal, world_of

RECORDS = int(os.environ.get("FOOTFALL_TRUTH_RECORDS", "1000"))
IS_ALL = os.environ.get("FOOTFALL_TRUTH_ALL", "0") == "1"
SEEDS = (1, 2, 3, 5, 8)
DISORDERS = (0.0, 0.2, 0.6)
WORLDS = [
    pytest.param(seed, disorder, marks=[] if number % 3 == place else pytest.mark.slow)
    for number, seed in enumerate(SEEDS)
    for place, disorder in enumerate(DISORDERS)
]
"""Every seed and every share; one share of each seed, by turns, is not slow."""

pytest.importorskip("chdb", reason="chdb is not installed")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.mark.parametrize(("seed", "disorder"), WORLDS)
def test_every_table_is_equal_to_the_truth(
    clickhouse: Server, tmp_path: Path, seed: int, disorder: float
) -> None:
    world = world_of(seed, disorder, records_of(seed))
    topics = topics_of(world)
    write_truth(world, tmp_path / "truth")
    for number, way in enumerate(ways_of(SEEDS.index(seed) + DISORDERS.index(disorder))):
        settings = settings_of(tmp_path / str(number), clickhouse.url)
        run_all(settings, topics, way, Random(f"{seed} {disorder} {way}"))
        differing = list(unequal(settings, tmp_path / "truth"))
        assert not differing, f"seed {seed}, disorder {disorder}, {way}: " + "\n".join(differing)


def test_clocks_that_are_ahead_cost_nobody_a_row(clickhouse: Server, tmp_path: Path) -> None:
    # Enough users at once that no partition has more wrong clocks than right ones outvote.
    world = ShopWorld(
        seed=4,
        total=RECORDS * 20,
        disturbances=Disturbances(
            out_of_order=0.2, late=0.005, malformed=0.005, clocks_ahead=0.05
        ),
        records_per_s=100,
        users=2_000,
    )
    write_truth(world, tmp_path / "truth")
    settings = settings_of(tmp_path, clickhouse.url)
    run_all(settings, topics_of(world), Way(3, True, agreeing=AGREEING), Random(4))
    assert list(unequal(settings, tmp_path / "truth")) == []


def records_of(seed: int) -> int:
    """Return the number of records: the last world is longer, so that rare things happen in it."""
    return RECORDS * 3 if seed == SEEDS[-1] else RECORDS


def ways_of(number: int) -> tuple[Way, ...]:
    """Return the ways in which a world is run: by turns two that have nothing in common."""
    one, one_broken, three, three_broken = WAYS
    return WAYS if IS_ALL else ((one, three_broken), (three, one_broken))[number % 2]


def test_in_the_worlds_happens_what_the_tables_tell_of() -> None:
    tables: dict[str, list[pl.DataFrame]] = defaultdict(list)
    for seed in SEEDS:
        for name, rows in truth_of(world_of(seed, DISORDERS[1], records_of(seed))).items():
            tables[name].append(rows.frame())
    told = {name: pl.concat(frames) for name, frames in tables.items()}
    assert not [name for name, frame in told.items() if frame.is_empty()]
    accounts = told["accounts"].group_by("topic").sum()
    assert len(accounts) == len(TOPICS)
    assert all(accounts[what].min() for what in ("malformed", "future", "late")), accounts
    assert set(told["request_summary"]["outcome"]) == {"ok", "failed", "incomplete"}
    ended_by = set(told["users_spend_time_online"]["ended_by"])
    assert ended_by == {"logout", "relogin", "timeout"}
