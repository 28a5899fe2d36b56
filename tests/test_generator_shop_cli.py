"""``footfall generate shop``: all four topics, and the truth, from the command line."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from footfall.generator.shop_records import TOPICS, Disturbances
from footfall.generator.shop_truth import truth_of
from footfall.generator.shop_world import ShopWorld
from footfall.schemas.topic_files import records_path
from tests.cli_support import footfall, one_line
from tests.test_generator_shop import records_of

MIXED = ("--out-of-order", "0.3", "--late", "0.02", "--clocks-off", "0.1", "--density", "50")


def test_the_shop_and_its_truth(tmp_path: Path) -> None:
    home = tmp_path / "home"
    start = ("--seed", "7", "--total", "3000", "--start", "2024-02-29T23:59:00", "--fast")
    for said in ("3,000 rows, 3,000 sent", "3,000 rows were pushed before"):
        done = footfall(
            home, "generate", "shop", *start, *MIXED, "--truth", str(tmp_path / "truth")
        )
        assert done.returncode == 0, done.stderr
        assert f"rows in {tmp_path / 'truth'}" in done.stdout
        assert said in done.stdout
    world = ShopWorld(
        seed=7,
        total=3_000,
        disturbances=Disturbances(0.3, 0.02, clocks_a_little_off=0.1),
        start_ms=1_709_251_140_000,
        records_per_s=50,
    )
    for topic, records in records_of(world).items():
        stored: list[bytes] = []
        for partition in range(10):
            path = records_path(home / "topics", topic, partition)
            stored += path.read_bytes().splitlines() if path.exists() else []
        assert sorted(stored) == sorted(value for _, value in records)
    assert len(TOPICS) == 4
    for name, rows in truth_of(world).items():
        assert pl.read_parquet(tmp_path / "truth" / f"{name}.parquet").equals(rows.frame())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--truth", "t"], "--truth takes --total"),
        (["--late", "0.5", "--malformed", "0.5"], "0.9 at most together"),
        (["--without", "tags"], "the shop has no topic tags; did you mean user_tags?"),
        (["--total", "5", "--truth", "t", "--without", "user_tags"], "leave --without out"),
        (["--start", "yesterday"], "not a date and time: 'yesterday'"),
        (["--disorder-ms", "5"], "3,000 to 60,000 ms, not 5"),
        (["--total", "5", "--truth", "/dev/null/x"], "cannot write the truth to /dev/null/x"),
    ],
)
def test_a_shop_that_cannot_be_is_one_clear_line(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    done = footfall(tmp_path / "home", "generate", "shop", *arguments)
    assert done.returncode != 0
    assert reason in one_line(done)


def test_what_it_would_send_to_a_topic_can_be_left_out(tmp_path: Path) -> None:
    home = tmp_path / "home"
    asked = ("generate", "shop", "--total", "500", "--fast", "--without", "store_events")
    for said in ("500 rows", "500 rows were pushed before"):
        assert said in footfall(home, *asked).stdout
    sent = {path.parent.name for path in (home / "topics").glob("*/*.jsonl")}
    assert sent == set(TOPICS) - {"store_events"}


def test_one_topic_cannot_take_the_place_of_four(tmp_path: Path) -> None:
    done = footfall(tmp_path / "home", "generate", "shop", "--total", "1", KAFKA_TOPIC="mine")
    assert "KAFKA_TOPIC names one topic" in one_line(done)
