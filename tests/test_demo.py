"""``footfall demo`` as its user runs it, on small input: exact, resumed, and gone when it ends."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from footfall.generator.tags import TagWorld
from footfall.schemas.status import WorkerStatus, status_folder
from footfall.schemas.store_events import CSV_COLUMNS
from footfall.schemas.topic_files import partitions_of, records_path
from tests.cli_support import Running, footfall, free_port, one_line, processes_of, running

SEED = 20191001
GONE_WITHIN_S = 30.0
NAME_WIDTH = 18


def shop_file(path: Path, rows: int) -> dict[str, int]:
    """Write a CSV of a shop, its last line cut; return the figures of its summary."""
    random = Random(SEED)
    lines = [",".join(CSV_COLUMNS)]
    figures = {"viewed": 0, "put in cart": 0, "sold": 0, "removed": 0, "cents": 0}
    names = {
        "view": "viewed", "cart": "put in cart", "purchase": "sold", "remove_from_cart": "removed",
    }  # fmt: skip
    windows = set()
    for row in range(rows):
        kind = random.choice(list(names))
        cents = random.randrange(200_000)
        figures[names[kind]] += 1
        figures["cents"] += cents if kind == "purchase" else 0
        time = f"2019-10-01 00:{row // 600 % 60:02d}:{row // 10 % 60:02d} UTC"
        windows.add(time)
        price, user = f"{cents // 100}.{cents % 100:02d}", random.randrange(50)
        lines.append(f"{time},{kind},{row},5,,acme,{price},{user},s")
    text = "\r\n".join([*lines, lines[-1][:30]])
    path.write_bytes(gzip.compress(text.encode()))
    return {**figures, "windows": len(windows)}


def summary(text: str) -> dict[str, str]:
    """Return the lines of a summary, by name; of the dead letters' flows with two spaces
    before."""
    return {
        line[:NAME_WIDTH].rstrip(): line[NAME_WIDTH:]
        for line in text.splitlines()
        if " | " not in line and line[NAME_WIDTH - 1 : NAME_WIDTH] == " "
    }


def rows_of(home: Path, sql: str, *options: str) -> list[dict[str, Any]]:
    result = footfall(home, "query", *options, "--format", "json", sql)
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


STORE = ("SELECT * FROM events ORDER BY start_event_time, end_event_time", "--db", "store")
BUCKETS = ("SELECT * FROM minute_buckets ORDER BY ALL",)


def test_a_file_once_is_exact_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    home, csv = tmp_path / "home", tmp_path / "shop.csv.gz"
    figures = shop_file(csv, 1_500)

    first = footfall(home, "demo", "--csv", str(csv), "--once", "--fresh")
    assert first.returncode == 0, first.stdout + first.stderr
    told = summary(first.stdout)
    cents = figures["cents"]
    amount = f"{cents // 100:,}.{cents % 100:02d}"
    assert told["store_metrics"] == "1,500 events read: 1,500 used"
    assert told["store windows"] == f"{figures['windows']:,} of 1,500 events"
    assert told["viewed"] == str(figures["viewed"])
    assert told["put in cart"] == str(figures["put in cart"])
    assert told["sold"] == f"{figures['sold']} for {amount}"
    assert (told["late"], told["dead letters"], told["  csv_replay"]) == ("0", "1", "1 bad_row")

    rows = rows_of(home, *STORE)
    assert sum(row["nr_of_events"] for row in rows) == 1_500
    assert sum(row["value_items_sold_in_cent"] for row in rows) == cents
    report = footfall(home, "report", "--once").stdout.splitlines()
    assert len({line[:44] for line in report}) == figures["windows"]

    second = footfall(home, "demo", "--once", INPUT_FILE_NAME=str(csv))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "nothing new: all of this" in second.stdout
    assert summary(second.stdout) == told
    assert rows_of(home, *STORE) == rows
    assert processes_of(home) == {}


def test_tags_once_are_all_accounted_for_until_begun_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    shares = ["--late", "0.02", "--out-of-order", "0.1", "--duplicates", "0.05"]
    asked = ["--tags", "4,000", "--seed", str(SEED), *shares, "--malformed", "0.03", "--once"]

    first = footfall(home, "demo", *asked, "--fresh")
    assert first.returncode == 0, first.stdout + first.stderr
    told = summary(first.stdout)
    read = re.fullmatch(
        r"4,000 events read: ([\d,]+) used, (\d+) late, (\d+) dead", told["minute_buckets"]
    )
    assert read, told
    used, late, dead = (int(text.replace(",", "")) for text in read.groups())
    assert used + late + dead == 4_000
    assert late and dead
    views = re.search(r"(\d+) late, (\d+) dead$", told["product_views"])
    assert views and int(views[2]) == dead
    assert told["late"] == str(late + int(views[1]))
    assert told["user_profiles"] == f"4,000 events read: {4_000 - dead:,} used, {dead} dead"
    assert told["dead letters"] == str(3 * dead)
    (counted,) = rows_of(home, "SELECT sum(count) AS n, sum(sum_price) AS p FROM minute_buckets")
    assert counted["n"] == used
    assert told["sum of prices"] == f"{counted['p']:,}"

    buckets = rows_of(home, *BUCKETS)
    second = footfall(home, "demo", *asked)
    assert "nothing new: all of this" in second.stdout
    assert summary(second.stdout) == told
    assert rows_of(home, *BUCKETS) == buckets

    (home / "notes.txt").write_text("mine")
    fresh = footfall(home, "demo", "--tags", "100", "--once", "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert summary(fresh.stdout)["minute_buckets"] == "100 events read: 100 used"
    assert (home / "notes.txt").read_text() == "mine"
    for variable, url in (
        ("TOPICS_URL", f"file://{tmp_path}/topics"),
        ("CLICKHOUSE_URL", "http://127.0.0.1:8123"),
    ):
        elsewhere = footfall(home, "demo", "--tags", "1", "--once", "--fresh", **{variable: url})
        assert elsewhere.returncode == 2
        assert f"{variable} points elsewhere" in one_line(elsewhere)
    assert rows_of(home, "SELECT sum(count) AS n FROM minute_buckets") == [{"n": 100}]


def pid_of(home: Path, flow: str) -> int:
    path = status_folder(home) / f"{flow}.0.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerStatus).pid
    except FileNotFoundError:
        return 0


def read_by(home: Path, flow: str) -> int:
    path = status_folder(home) / f"{flow}.0.json"
    try:
        status = msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
    except FileNotFoundError:
        return 0
    return sum(partition.read for partition in status.partitions)


def sent_to(home: Path, topic: str) -> int:
    """Return the number of records in a topic."""
    folder = home / "topics"
    paths = [records_path(folder, topic, n) for n in range(partitions_of(folder, topic) or 0)]
    return sum(path.read_bytes().count(b"\n") for path in paths)


def wait_for_events(demo: Running, home: Path, count: int) -> None:
    for flow in ("minute_buckets", "user_profiles", "store_metrics"):
        demo.wait_until(lambda flow=flow: read_by(home, flow) > count, f"{flow} read {count}")


def test_live_it_survives_a_killed_worker_ends_on_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    port = str(free_port())
    with running(home, "demo", "--tags", "1000000", "--port", port, "--seed", str(SEED)) as demo:
        demo.wait_for_text(f"page: http://127.0.0.1:{port}/")
        wait_for_events(demo, home, 200)

        other = footfall(home, "demo", "--port", str(free_port()), "--fresh")
        assert other.returncode == 2
        assert f"another demo (process {demo.process.pid}) runs on {home}" in one_line(other)
        elsewhere = footfall(tmp_path / "other", "demo", "--port", port)
        assert elsewhere.returncode == 2
        assert f"127.0.0.1:{port}" in one_line(elsewhere)
        assert "--port" in one_line(elsewhere)
        assert rows_of(home, "SELECT 1 AS one") == [{"one": 1}]

        killed = pid_of(home, "minute_buckets")
        os.kill(killed, signal.SIGKILL)
        demo.wait_for_text("minute_buckets ended (killed by SIGKILL); starting it again in 0.5 s")
        demo.wait_until(
            lambda: pid_of(home, "minute_buckets") not in (0, killed), "started it again"
        )
        before = read_by(home, "minute_buckets")
        demo.wait_until(
            lambda: read_by(home, "minute_buckets") > before + 200, "went on with minute_buckets"
        )
        demo.wait_for_text("% cpu")
        assert demo.end(signal.SIGINT) == 0, demo.output()
        assert demo.output().splitlines()[-1].startswith("ended; ")
        assert processes_of(home) == {}

    # The same world is sent to its end: what stands at last is each of its tags, once.
    total = max(20_000, sent_to(home, "user_tags") + 1_000)
    rest = footfall(home, "demo", "--tags", str(total), "--seed", str(SEED), "--once")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    told = summary(rest.stdout)
    assert told["minute_buckets"] == f"{total:,} events read: {total:,} used"
    tags = [msgspec.json.decode(value) for _, value in TagWorld(seed=SEED).batch(0, total)]
    (counted,) = rows_of(home, "SELECT sum(count) AS n, sum(sum_price) AS p FROM minute_buckets")
    assert counted == {"n": total, "p": sum(tag["product_info"]["price"] for tag in tags)}
    assert told["profiles"] == f"{len({tag['cookie'] for tag in tags}):,} cookies"


def test_a_killed_supervisor_leaves_no_process_and_the_next_start_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home, "demo", "--port", str(free_port()), "--no-generator") as demo:
        demo.wait_for_text("Prometheus: http://127.0.0.1:")
        children = set(processes_of(home)) - {demo.process.pid}
        assert len(children) >= 7
        # A demo that runs for weeks does not fill the disk.
        kept = b"\0TOPICS_RETENTION_BYTES=2147483648\0"
        assert all(kept in Path(f"/proc/{pid}/environ").read_bytes() for pid in children)
        demo.process.kill()
        demo.process.wait()
        until_s = time.monotonic() + GONE_WITHIN_S
        while processes_of(home) and time.monotonic() < until_s:
            time.sleep(0.05)
        assert processes_of(home) == {}
    again = footfall(home, "demo", "--tags", "100", "--once")
    assert again.returncode == 0, again.stderr
    assert summary(again.stdout)["minute_buckets"] == "100 events read: 100 used"


def test_a_worker_that_cannot_run_stops_the_demo_with_its_reason(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "recovery").mkdir(parents=True)
    (home / "recovery" / "user_profiles").write_text("in the way")
    result = footfall(home, "demo", "--tags", "10", "--once")
    assert result.returncode == 1
    assert "user_profiles failed: " in result.stderr
    assert "recovery/user_profiles" in result.stderr
    assert "Traceback" not in result.stderr
    assert processes_of(home) == {}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    home, csv = tmp_path / "home", tmp_path / "shop.csv.gz"
    shop_file(csv, 500)
    csv.write_bytes(csv.read_bytes()[:-200])
    result = footfall(home, "demo", "--csv", str(csv), "--once")
    assert result.returncode == 1
    assert f"csv failed: {csv} cannot be read past line" in result.stderr
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    result = footfall(home, "demo", "--csv", str(tmp_path / "other.csv"), "--once")
    assert result.returncode == 1
    assert "lacks the columns event_time" in result.stderr
    assert processes_of(home) == {}
