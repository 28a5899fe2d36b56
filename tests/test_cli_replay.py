"""``footfall replay`` and ``footfall verify`` as their user runs them."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from footfall.cli.progress import Told
from footfall.cli.verify_rows import Missing
from footfall.generator.tags import TagWorld
from footfall.schemas.status import WorkerStatus, status_folder
from footfall.schemas.store_events import CSV_COLUMNS
from footfall.schemas.tables.store_metrics import METADATA
from footfall.schemas.times import datetime_of, iso_ms, parse_time_ms
from footfall.sinks.sql import create_tables
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import faulty, footfall, one_line, run_faulty
from tests.clickhouse_faults_support import kill_within_insert
from tests.clickhouse_support import Server, any_server
from tests.faulty_flow import WRONG_ORIGIN

EVENTS = 1_000_000
"""Events, one per millisecond: 16 minutes of event time."""
MORE_EVENTS = 100_000
FROM, TO = "2022-03-22T12:16:30", "2022-03-22T12:20"
"""Minutes 12:17, 12:18 and 12:19 lie whole in it."""
INSIDE = ("12:17", "12:18", "12:19")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with any_server(tmp_path_factory.mktemp("engine") / "data") as server:
        yield server


_databases = iter(range(1_000))


@pytest.fixture
def database(clickhouse: Server) -> str:
    return f"{clickhouse.url}/cli{os.getpid()}_{next(_databases)}"


def push(home: Path, world: TagWorld, start: int, count: int) -> list[dict[str, Any]]:
    """Append tags of the world to the topic; the tags."""
    tags = [found["tag"] for found in world.tags(start, count)]
    topics = FileTopics(home / "topics")
    for first in range(0, len(tags), 50_000):
        topics.write(
            "user_tags",
            [(tag["cookie"].encode(), msgspec.json.encode(tag)) for tag in tags[first:][:50_000]],
        )
    topics.close()
    return tags


def count_by_minute(tags: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return ``12:17`` -> (events, sum of prices)."""
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for tag in tags:
        minute = tag["time"][11:16]
        count, price = found[minute]
        found[minute] = (count + 1, price + tag["product_info"]["price"])
    return dict(found)


def asked(home: Path, database: str, sql: str) -> list[dict[str, Any]]:
    done = footfall(home, "query", "--format", "json", sql, CLICKHOUSE_URL=database)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def in_table(home: Path, database: str) -> dict[str, tuple[int, int]]:
    rows = asked(
        home,
        database,
        "SELECT formatDateTime(bucket, '%H:%i') AS minute, toInt64(sum(count)) AS events, "
        "sum(sum_price) AS price FROM minute_buckets GROUP BY bucket",
    )
    return {row["minute"]: (row["events"], row["price"]) for row in rows}


def wait_until_read(home: Path, records: int, timeout_s: float = 120.0) -> None:
    until_s = time.monotonic() + timeout_s
    read = -1
    while time.monotonic() < until_s:
        paths = list(status_folder(home).glob("minute_buckets.*.json"))
        statuses = [msgspec.json.decode(path.read_bytes(), type=WorkerStatus) for path in paths]
        read = sum(part.read for status in statuses for part in status.partitions)
        if read == records:
            return
        time.sleep(0.2)
    pytest.fail(f"only {read} of {records} records were read")


@pytest.mark.slow
def test_a_corrected_flow_is_replayed_over_a_million_events_while_live_runs(
    tmp_path: Path, database: str
) -> None:
    home = tmp_path / "home"
    servers = {"CLICKHOUSE_URL": database}
    assert footfall(home, "init", **servers).returncode == 0
    world = TagWorld(seed=5)
    tags = push(home, world, 0, EVENTS)
    with faulty("faulty_flow", home=home, settings=servers):
        wait_until_read(home, EVENTS)
        more: list[dict[str, Any]] = []
        pusher = threading.Thread(target=lambda: more.extend(push(home, world, EVENTS, 100_000)))
        pusher.start()
        done = footfall(
            home, "replay", "minute_buckets", "--from", FROM, "--to", TO, timeout_s=300, **servers
        )
        assert done.returncode == 0, done.stderr
        pusher.join()
        wait_until_read(home, EVENTS + MORE_EVENTS)
        right = count_by_minute([*tags, *more])
        # The last minute is written in full some seconds after its last event.
        until_s = time.monotonic() + 60
        while (found := in_table(home, database)).keys() != right.keys() or any(
            found[minute][0] != events for minute, (events, _) in right.items()
        ):
            assert time.monotonic() < until_s, found
            time.sleep(0.5)
    assert found.keys() == right.keys()
    for minute, (events, price) in right.items():
        factor = 1 if minute in INSIDE else 2
        assert found[minute] == (events, price * factor), minute
    wrong = asked(
        home,
        database,
        "SELECT DISTINCT formatDateTime(bucket, '%H:%i') AS minute FROM minute_buckets "
        f"WHERE origin = '{WRONG_ORIGIN}'",
    )
    assert {row["minute"] for row in wrong} == right.keys() - set(INSIDE)
    verified = footfall(home, "verify", "minute_buckets", **servers)
    assert verified.returncode == 1
    differing = {line[11:16] for line in verified.stdout.splitlines() if "sum_price" in line}
    assert differing
    assert not differing & set(INSIDE)
    within = footfall(home, "verify", "minute_buckets", "--from", FROM, "--to", TO, **servers)
    assert within.returncode == 0, within.stdout
    assert "topic and table are equal" in within.stdout


def test_an_earlier_and_a_later_replay(tmp_path: Path, database: str) -> None:
    """The windows that the live worker may still change wait for a later replay."""
    home = tmp_path / "home"
    servers = {"CLICKHOUSE_URL": database}
    assert footfall(home, "init", **servers).returncode == 0
    world = TagWorld(seed=6)
    tags = push(home, world, 0, 150_000)
    run_faulty("faulty_flow", home=home, settings=servers)
    right = count_by_minute(tags)
    everything = ("replay", "minute_buckets", "--from", "2022-03-22")
    early = footfall(home, *everything, **servers)
    assert early.returncode == 0, early.stderr
    assert "left alone" in early.stderr
    assert "0 rows written" in early.stdout
    assert in_table(home, database) == {
        minute: (events, 2 * price) for minute, (events, price) in right.items()
    }
    assert footfall(home, *everything, "--into", "shadow", **servers).returncode == 0
    swapped = footfall(home, "replay", "minute_buckets", "--swap", **servers)
    assert swapped.returncode == 1
    assert "minute_buckets_rows_shadow has no row" in one_line(swapped)
    late = footfall(home, *everything, "--complete", **servers)
    assert late.returncode == 0, late.stderr
    # Nothing but how far it is, where it takes long.
    assert [line for line in late.stderr.splitlines() if "left in it" not in line] == []
    assert in_table(home, database) == right
    assert footfall(home, "verify", "minute_buckets", "--complete", **servers).returncode == 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small shop's CSV and the home of its metrics."""
    folder = tmp_path_factory.mktemp("shop")
    home = folder / "home"
    lines = [",".join(CSV_COLUMNS)]
    for second in range(1_000):
        kind = ("view", "cart", "purchase")[second % 3]
        at = datetime_of(parse_time_ms("2019-10-01T00:00:00") + second * 1_000)
        price, user = f"{second / 100:.2f}", second % 5
        lines.append(f"{at:%Y-%m-%d %H:%M:%S} UTC,{kind},{second},7,,brand,{price},{user},session")
    (folder / "shop.csv").write_text("\r\n".join(lines) + "\r\n")
    done = footfall(home, "generate", "csv", str(folder / "shop.csv"), "--fast")
    assert done.returncode == 0, done.stderr
    create_tables(f"sqlite:///{home}/store.sqlite", METADATA)
    done = footfall(home, "run", "store_metrics", "--once")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def store_home(shop: Path, tmp_path: Path) -> Path:
    """Return a copy of the shop's home."""
    return Path(shutil.copytree(shop / "home", tmp_path / "home"))


def store_rows(home: Path) -> list[dict[str, Any]]:
    done = footfall(
        home, "query", "--db", "store", "--format", "json",
        "SELECT start_event_time, nr_of_events, nr_items_viewed, nr_items_put_in_cart, "
        "nr_items_sold, value_items_sold_in_cent FROM events ORDER BY 1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def break_store(home: Path) -> None:
    with sqlite3.connect(home / "store.sqlite") as connection:
        connection.execute(
            "UPDATE events_by_partition SET nr_items_sold = nr_items_sold + 5 "
            "WHERE start_event_time BETWEEN '2019-10-01 00:01:00' AND '2019-10-01 00:01:59'"
        )


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet", "topic", "shadow"])
def test_store_metrics_are_replayed_from(shop: Path, store_home: Path, kind: str) -> None:
    before = store_rows(store_home)
    assert len(before) == 1_000
    break_store(store_home)
    found = footfall(store_home, "verify", "store_metrics", "--complete")
    assert found.returncode == 1
    assert "60 windows differ" in found.stdout
    arguments = ["replay", "store_metrics", "--complete", "--from", "2019-10-01T00:01", "--to",
                 "2019-10-01T00:02"]  # fmt: skip
    if kind not in ("topic", "shadow"):
        arguments += ["--source", str(archive(shop / "shop.csv", store_home.parent, kind))]
    if kind == "shadow":
        arguments += ["--into", "shadow"]
    done = footfall(store_home, *arguments)
    assert done.returncode == 0, done.stderr
    if kind == "shadow":
        assert "60 windows differ" in done.stdout
        assert store_rows(store_home) == before  # totals were not broken, and are not touched
        swapped = footfall(store_home, "replay", "store_metrics", "--swap")
        assert swapped.returncode == 0, swapped.stderr
    assert store_rows(store_home) == before
    found = footfall(store_home, "verify", "store_metrics", "--complete")
    assert found.returncode == 0, found.stdout


def test_an_archive_speaks_of_no_more_than_it_holds(shop: Path, store_home: Path) -> None:
    before = store_rows(store_home)
    folder = store_home.parent / "days"
    folder.mkdir()
    lines = (shop / "shop.csv").read_text().splitlines(keepends=True)
    (folder / "some.csv").write_text("\ufeff" + "".join([lines[0], *lines[400:600]]))
    some = ["replay", "store_metrics", "--complete", "--source", str(folder / "some.csv")]
    done = footfall(store_home, *some)
    assert done.returncode == 0, done.stderr
    assert "200 records read, 200 rows written" in done.stdout
    assert "0 dead" in done.stdout
    assert store_rows(store_home) == before
    # One that was not written as events of this flow, and one of another time.
    (folder / "other.jsonl").write_text('{"name": "value"}\n')
    for name, ends in (("other.jsonl", "2019-10-01"), ("some.csv", "2019-09-01")):
        done = footfall(
            store_home, "replay", "store_metrics", "--complete", "--source", str(folder / name),
            "--from", ends, "--to", ends + "T00:05",
        )  # fmt: skip
        assert "no event of the range" in done.stderr
        if name == "other.jsonl":
            assert "nothing was written, as 1 row could not be read" in done.stderr
        assert done.returncode == (1 if name == "other.jsonl" else 0)
        assert store_rows(store_home) == before


def test_what_is_refused_leaves_an_earlier_shadow_as_it_was(store_home: Path) -> None:
    into_shadow = ["replay", "store_metrics", "--complete", "--into", "shadow"]
    done = footfall(store_home, *into_shadow, "--from", "2019-10-01T00:01")
    assert done.returncode == 0, done.stderr
    for wrong in (
        ["--from", "2019-10-01T00:00:00.100", "--to", "2019-10-01T00:00:01"],
        ["--source", str(store_home / "nothing-here")],
    ):
        assert footfall(store_home, *into_shadow, *wrong).returncode in (1, 2)
    swapped = footfall(store_home, "replay", "store_metrics", "--swap")
    assert swapped.returncode == 0, swapped.stderr


def test_events_are_looked_up_in_a_store_so_many_at_a_time() -> None:
    asked_for: list[int] = []

    def lacks_all(tags: pl.DataFrame) -> Iterator[tuple[int, str, str]]:
        asked_for.append(len(tags))
        return ((time_ms, "c", "VIEW") for time_ms in tags["time_ms"])

    missing = Missing(lacks_all, {0: 9_999})
    tags = pl.DataFrame({"time_ms": range(0, 600_000, 60), "offset": range(10_000)})
    for partition in range(30):
        missing.take(tags.with_columns(topic_partition=pl.lit(partition)))
    missing.look_up()
    assert missing.left_out == 1
    assert sum(asked_for) == missing.events == 299_999
    assert max(asked_for) < 150_000
    counts = {minute: count for minute, (count, _) in missing.by_minute.items()}
    assert counts == {**dict.fromkeys(range(0, 600_000, 60_000), 30_000), 540_000: 29_999}


def archive(csv_file: Path, folder: Path, kind: str) -> Path:
    """Return the shop's rows as an archive of that kind, cut into two files in the wrong order."""
    rows = pl.read_csv(csv_file, infer_schema_length=None).drop("category_code")
    found = folder / "archive"
    (found / "deeper").mkdir(parents=True)
    parts = {found / f"b.{kind}": rows.head(600), found / "deeper" / f"a.{kind}": rows.tail(400)}
    for path, part in parts.items():
        if kind == "csv":
            part.write_csv(path)
        elif kind == "csv.gz":
            path.write_bytes(gzip.compress(part.write_csv().encode()))
        elif kind == "jsonl":
            part.write_ndjson(path)
        else:
            part.write_parquet(path)
    return found


def test_what_is_missing_from_a_profile_store_is_named_and_written_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    push(home, TagWorld(seed=1), 0, 2_000)
    keep = {"NUM_TAGS_TO_KEEP": "5"}
    assert footfall(home, "run", "user_profiles", "--once", **keep).returncode == 0
    assert footfall(home, "verify", "user_profiles", **keep).returncode == 0
    with sqlite3.connect(home / "profiles.sqlite") as connection:
        (table,) = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%tag%'"
        ).fetchone()
        removed = connection.execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} LIMIT 3)"
        ).rowcount
    found = footfall(home, "verify", "user_profiles", **keep)
    assert found.returncode == 1
    assert f"{removed} missing in 1 minutes" in found.stdout
    done = footfall(
        home,
        "replay",
        "user_profiles",
        "--from",
        iso_ms(parse_time_ms("2022-03-22T12:00")),
        **keep,
    )
    assert done.returncode == 0, done.stderr
    assert footfall(home, "verify", "user_profiles", **keep).returncode == 0
    # What the worker has not read yet is no fault, unless nothing is to follow.
    push(home, TagWorld(seed=1), 2_000, 500)
    found = footfall(home, "verify", "user_profiles", **keep)
    assert found.returncode == 0, found.stdout
    assert "events were left out that the worker has not read yet" in found.stderr
    found = footfall(home, "verify", "user_profiles", "--complete", **keep)
    assert found.returncode == 1
    assert "missing in 1 minutes" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["minute_bucket", "--from", "2022-03-22"], "did you mean minute_buckets?"),
        (["store_metrics"], "needs --from or --to"),
        (["store_metrics", "--from", "yesterday"], "not a date and time: 'yesterday'"),
        (["store_metrics", "--from", "2022-03-22", "--to", "2022-03-22"], "later than --from"),
        (["store_metrics", "--from", "2019-10-01T00:00:00.100", "--to", "2019-10-01T00:00:01"],
         "no whole window of 1 s"),
        (["user_profiles", "--into", "shadow", "--from", "2022-03-22"], "no table to shadow"),
        (["user_profiles", "--source", "x", "--from", "2022-03-22"], "leave --source out"),
        (["store_metrics", "--source", "nothing-here", "--from", "2019-10-01"],
         "there is no nothing-here"),
        (["store_metrics", "--source", "empty", "--from", "2019-10-01"], "no file of .jsonl"),
        (["store_metrics", "--swap", "--from", "2019-10-01"], "--swap goes alone"),
        (["store_metrics", "--swap", "--complete"], "--swap goes alone"),
        (["store_metrics", "--swap"], "--into shadow"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_on_one_line(
    store_home: Path, arguments: list[str], said: str
) -> None:
    (store_home.parent / "empty").mkdir()
    done = footfall(store_home, "replay", *arguments)
    assert done.returncode in (1, 2)
    assert said in one_line(done)


def test_a_replay_that_is_killed_is_made_again(tmp_path: Path, database: str) -> None:
    home = tmp_path / "home"
    servers = {"CLICKHOUSE_URL": database}
    assert footfall(home, "init", **servers).returncode == 0
    tags = push(home, TagWorld(seed=8), 0, 200_000)
    run_faulty("faulty_flow", home=home, settings=servers)
    arguments = ["replay", "minute_buckets", "--from", "2022-03-22", "--complete"]
    for insert, is_done in ((1, False), (2, True), (3, False), (4, True)):
        kill_within_insert(insert, home, *arguments, done=is_done, **servers)
    done = footfall(home, *arguments, **servers)
    assert done.returncode == 0, done.stderr
    assert in_table(home, database) == count_by_minute(tags)
    assert footfall(home, "verify", "minute_buckets", "--complete", **servers).returncode == 0
    leftover = asked(
        home, database, f"SELECT count() AS n FROM minute_buckets WHERE origin = '{WRONG_ORIGIN}'"
    )
    assert leftover == [{"n": 0}]


def test_two_replays_of_a_flow_do_not_run_at_once(store_home: Path) -> None:
    (store_home / "replay").mkdir()
    with (store_home / "replay" / "store_metrics.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = footfall(store_home, "replay", "store_metrics", "--from", "2019-10-01")
    assert "another replay of store_metrics runs" in one_line(done)


def test_a_long_replay_says_how_far_it_is() -> None:
    out = StringIO()
    with Told("flow", out) as told:
        told._said_s -= 10
        told.part(0, 2)
        told(500, 100)
        told.part(1, 2)
        told._said_s -= 10
        told(50, 1_000)
    assert out.getvalue().splitlines() == [
        "flow: part 1 of 2, 500 read, 100 left in it",
        "flow: part 2 of 2, 550 read, 1,000 left in it",
    ]
