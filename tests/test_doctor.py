"""Facts in, findings out; and an embedded home that is broken in one place after another."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from footfall.cli.doctor import findings as of_machine
from footfall.cli.doctor import tables as of_tables
from footfall.cli.doctor import topics as of_topics
from footfall.cli.doctor.command import examine, lines, side_by_side
from footfall.cli.doctor.facts import kafka_remedy
from footfall.cli.doctor.findings import GIB, Finding, HomeFacts, duration, size
from footfall.cli.doctor.servers import aerospike_remedy, namespace_facts
from footfall.cli.doctor.tables import NamespaceFacts
from footfall.cli.init import make_clickhouse_tables, make_store_tables, make_topics
from footfall.operations.flow_facts import FlowFacts, PlaceFacts, WorkerFacts
from footfall.operations.topic_ends import TopicFacts
from footfall.schemas.dead_letters import DeadLetter, Retry, RetryNote
from footfall.schemas.settings import read_settings
from footfall.schemas.status import PartitionStatus, WorkerStatus, status_path
from footfall.schemas.topics import TOPICS, Topic
from footfall.sinks._aerospike_recent import KEEP_S
from footfall.sinks.letters import LetterWriter
from footfall.sinks.topic_files import FileTopics
from tests import clickhouse_support
from tests.cli_support import COMMAND_S_MAX, ROOT, footfall, free_port
from tests.clickhouse_support import Server
from tests.postgres_support import PASSWORD, PostgresServer, postgres

__all__ = ["postgres"]

HOUR_MS = 3_600_000


def levels(*findings: Finding) -> list[str]:
    return [finding.level for finding in findings]


# The deciders, by examples.


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (HomeFacts("/h", True, True, True, 50 * GIB, 90 * GIB), ["ok", "ok"]),
        (HomeFacts("/h", True, True, True, 50 * GIB, 90 * GIB, is_own=False), ["warn", "ok"]),
        (HomeFacts("/h", True, True, True, 2 * GIB, 90 * GIB), ["ok", "warn"]),
        (HomeFacts("/h", True, True, True, GIB // 4, 90 * GIB), ["ok", "fail"]),
        (HomeFacts("/h", True, True, False, 50 * GIB, 90 * GIB), ["fail"]),
        (HomeFacts("/h", True, False, True, 50 * GIB, 90 * GIB), ["fail"]),
        (HomeFacts("/h", False, False, True, 50 * GIB, 90 * GIB), ["warn", "ok"]),
    ],
)
def test_home(facts: HomeFacts, expected: list[str]) -> None:
    assert levels(*of_machine.home(facts)) == expected


@pytest.mark.parametrize(
    ("skew_ms", "unsure_ms", "expected"),
    [
        (0, 1, "ok"),
        (-999, 0, "ok"),
        (1_500, 600, "ok"),
        (1_500, 10, "warn"),
        (-59_000, 10, "warn"),
        (61_000, 10, "fail"),
        (-7_200_000, 10, "fail"),
    ],
)
def test_clock(skew_ms: int, unsure_ms: int, expected: str) -> None:
    found = of_machine.skew("ClickHouse", skew_ms, unsure_ms)
    assert found.level == expected
    if expected != "ok":
        assert ("ahead" if skew_ms > 0 else "behind") in found.found and "NTP" in found.remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24.3.1.5", "ok"), ("26.9", "ok"), ("24.2.9", "warn"), ("23.8", "warn"), ("odd", "ok")],
)
def test_version(text: str, expected: str) -> None:
    assert of_machine.version("ClickHouse", "ClickHouse", text, (24, 3)).level == expected


def test_topics_are_missing_too_narrow_or_short_lived() -> None:
    wanted = [Topic("a", "", key="k", partitions=2), Topic("b", "", key="k", partitions=2)]
    whole = TopicFacts({0: (0, 5), 1: (0, 5)}, 168 * HOUR_MS)
    assert levels(*of_topics.topics(wanted, {"a": whole, "b": whole})) == ["ok"]
    (missing,) = of_topics.topics(wanted, {"a": whole})
    assert missing.level == "fail" and "b" in missing.found and "init" in missing.remedy
    (narrow,) = of_topics.topics(wanted, {"a": whole, "b": TopicFacts({0: (0, 0)})})
    assert narrow.level == "fail" and "has 1 partitions" in narrow.found
    (short,) = of_topics.topics(wanted, {"a": whole, "b": TopicFacts(whole.ends, HOUR_MS)})
    assert short.level == "warn" and "60 min" in short.found and "604800000" in short.remedy
    for_ever = TopicFacts(whole.ends, -1)
    assert levels(*of_topics.topics(wanted, {"a": for_ever, "b": for_ever})) == ["ok"]


def test_a_hot_partition() -> None:
    assert of_topics.hot_partitions("t", {0: 9_000, 1: 0}) == []  # too few to tell
    assert of_topics.hot_partitions("t", {0: 1_000_000}) == []
    assert levels(*of_topics.hot_partitions("t", dict.fromkeys(range(10), 5_000))) == ["ok"]
    (hot,) = of_topics.hot_partitions("t", {**dict.fromkeys(range(9), 5_000), 9: 20_000})
    assert hot.level == "warn" and "partition 9" in hot.found and "3.1x" in hot.found


def worker(number: int = 0, age_ms: int = 500, **more: Any) -> WorkerFacts:
    given: dict[str, Any] = {"finished": False, "alive": True, **more}
    return WorkerFacts(number, 100 + number, age_ms, **given)


def place(next_offset: int, low: int = 0, high: int = 1_000) -> PlaceFacts:
    return PlaceFacts("t", 0, next_offset, low, high)


@pytest.mark.parametrize(
    ("workers", "places", "expected", "said"),
    [
        ([], [], "ok", "never ran"),
        ([worker()], [place(1_000)], "ok", "1 worker runs, at the end"),
        ([worker(), worker(1)], [place(600)], "ok", "2 workers run, 400 records behind"),
        ([worker()], [place(0, high=5_000_000)], "warn", "5,000,000 records behind"),
        ([worker(age_ms=14_000)], [place(1_000)], "ok", "1 worker runs"),
        ([worker(age_ms=5_000, alive=False)], [place(1_000)], "warn", "no worker runs"),
        ([worker(age_ms=60_000)], [place(600)], "fail", "no worker runs, the last one 60 s ago"),
        ([worker(), worker(1, 60_000)], [place(600)], "fail", "1 (process 101) says nothing"),
        ([worker(), worker(1, 60_000, alive=False)], [place(600)], "fail", "is dead"),
        ([worker(age_ms=9**9, finished=True)], [place(1_000)], "ok", "run to the end"),
        ([worker(age_ms=9**9, finished=True)], [place(600)], "fail", "400 records behind"),
        ([], [place(600)], "ok", "consumer group is 400 records behind"),
        ([], [place(0, high=5_000_000)], "warn", "consumer group"),
    ],
)
def test_a_flow(
    workers: list[WorkerFacts], places: list[PlaceFacts], expected: str, said: str
) -> None:
    (found,) = of_topics.flow(FlowFacts("f", workers, places))
    assert found.level == expected and said in found.found
    assert expected == "ok" or found.remedy


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (place(500, low=400, high=1_400), []),  # a tenth is left
        (place(499, low=400, high=1_400), ["warn"]),
        (place(400, low=400, high=1_400), ["warn"]),
        (place(1_400, low=1_400, high=1_400), []),  # all was read, and removed since
        (place(5, low=0, high=1_000), []),  # nothing was removed yet
        (place(399, low=400, high=1_400), ["fail"]),
    ],
)
def test_retention_near_what_was_not_read(at: PlaceFacts, expected: list[str]) -> None:
    found = of_topics.retention(FlowFacts("f", [worker()], [place(1_000, high=1_000), at]))
    assert levels(*found) == expected
    assert all("f" in one.remedy and "t/0" in one.found for one in found)


@pytest.mark.parametrize("takes_archive", [True, False])
def test_what_retention_took_is_brought_from_an_archive_where_the_flow_takes_one(
    takes_archive: bool,
) -> None:
    facts = FlowFacts("f", [worker()], [place(399, low=400)], takes_archive)
    (found,) = of_topics.retention(facts)
    assert "--skip-removed" in found.remedy
    assert ("--source" in found.remedy) == takes_archive
    assert "--topic" not in found.remedy
    other = PlaceFacts("u", 0, 0, 0, 0)
    facts = FlowFacts("f", [worker()], [place(399, low=400), other], takes_archive)
    (found,) = of_topics.retention(facts)
    assert ("footfall replay f --topic t --source" in found.remedy) == takes_archive


def test_a_recovery_store_that_has_grown() -> None:
    assert of_machine.recovery("f", 50_000_000).level == "ok"
    grown = of_machine.recovery("f", 3 * GIB)
    assert grown.level == "warn" and "3.0 GiB" in grown.found and "recovery/f" in grown.remedy


def test_columns() -> None:
    wanted = {"rows": {"a": "UInt8", "b": "DateTime('UTC')"}, "view": {}}
    stands = {"rows": {"a": "UInt8", "b": "DateTime('UTC')", "more": "Int8"}, "view": {"x": "y"}}
    assert levels(*of_tables.columns("tables", wanted, stands)) == ["ok"]
    (missing,) = of_tables.columns("tables", wanted, {"view": {"x": "y"}})
    assert missing.found == "missing: rows" and "init" in missing.remedy
    other = {"rows": {"a": "String"}, "view": {"x": "y"}}
    (differs,) = of_tables.columns("tables", wanted, other)
    assert differs.level == "fail"
    assert "a is String, not UInt8; b is missing, not DateTime('UTC')" in differs.found
    assert "move it away" in differs.remedy
    with_topic = {"rows": {"a": "UInt8", "topic": "String"}}
    (of_before,) = of_tables.columns("tables", with_topic, {"rows": {"a": "UInt8"}})
    assert "`footfall init` moves it" in of_before.remedy


@pytest.mark.parametrize(("most", "expected"), [(100, "ok"), (101, "warn"), (301, "fail")])
def test_parts(most: int, expected: str) -> None:
    found = of_tables.parts({("rows", "20220322"): most, ("rows", "20220323"): 2})
    assert found.level == expected and "20220322" in found.found
    assert of_tables.parts({}).level == "ok"


def test_detached_parts() -> None:
    found = of_tables.detached({("rows", ""): 1, ("rows", "broken-on-start"): 2})
    assert levels(*found) == ["warn", "fail"]
    assert "footfall replay" in found[1].remedy and "footfall verify" in found[1].remedy


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (NamespaceFacts(0, 0, False), "ok"),
        (NamespaceFacts(3_600, 120, False), "warn"),
        (NamespaceFacts(3_600, 0, False), "fail"),
        (NamespaceFacts(0, 0, True), "fail"),
        (NamespaceFacts(0, 0, False, 2_000), "ok"),
        (NamespaceFacts(0, 0, False, 2_001), "warn"),
    ],
)
def test_namespaces(facts: NamespaceFacts, expected: str) -> None:
    assert levels(*of_tables.namespaces(["profiles"], {"profiles": facts})) == [expected]


def test_a_namespace_that_is_not_there_and_one_too_many() -> None:
    good = NamespaceFacts(0, 0, False)
    found = of_tables.namespaces(["profiles"], {"a": good, "b": good, "c": good})
    assert levels(*found) == ["warn", "fail"]
    assert "(there are: a, b, c)" in found[1].found


def test_a_namespace_as_the_server_describes_it() -> None:
    text = "ns_cluster_size=1;stop_writes=true;default-ttl=30d;nsup-period=2m;objects=5"
    assert namespace_facts(text) == NamespaceFacts(2_592_000, 120, True)
    assert namespace_facts("default-ttl=0;nsup-period=120") == NamespaceFacts(0, 120, False)
    assert namespace_facts("") == NamespaceFacts(0, 0, False)
    flushes = "storage-engine=device;storage-engine.flush-max-ms=1000;storage-engine.flush-size=1"
    assert namespace_facts(flushes) == NamespaceFacts(0, 0, False, 1_000)
    # A node that was up for a second longer has flushed what the sinks do not write again.
    assert of_tables.FLUSH_MAX_MS <= (KEEP_S - 1) * 1_000


def test_sizes_and_spans() -> None:
    assert [size(n) for n in (0, 1023, 1536, 20 * 2**20, 3 * 2**30)] == [
        "0 B", "1023 B", "1.5 KiB", "20 MiB", "3.0 GiB",
    ]  # fmt: skip
    assert [duration(n) for n in (5, 1_500, 90_000, 180_000, 7_200_000, 604_800_000)] == [
        "5 ms", "1.5 s", "90 s", "3 min", "2 h", "7 days",
    ]  # fmt: skip


def test_a_check_that_raises_or_hangs_is_a_line_and_nothing_more() -> None:
    def broken() -> list[Finding]:
        raise ValueError("what is\nthis")

    def hanging() -> list[Finding]:
        ended.wait(60)
        return []

    ended = threading.Event()
    found = side_by_side(
        {"a": broken, "b": hanging, "c": lambda: [of_machine.ok("c", "fine")]}, 2.0
    )
    ended.set()
    assert [(one.check, one.level) for one in found] == [("a", "fail"), ("b", "fail"), ("c", "ok")]
    assert "what is this" in found[0].found and "no answer" in found[1].found


def test_the_lines_are_aligned_and_coloured_on_a_terminal_alone() -> None:
    found = [of_machine.ok("a", "fine"), of_machine.fail("longer", "bad", "mend it")]
    plain = lines(found, coloured=False)
    assert plain == [
        "ok    a       fine",
        "fail  longer  bad -> mend it",
        "",
        "1 failed",
    ]
    coloured = lines(found, coloured=True)
    assert coloured[1].startswith("\033[31;1mfail\033[0m  longer")
    assert [re.sub(r"\033\[[0-9;]*m", "", line) for line in coloured] == plain
    assert lines(found[:1], coloured=False)[-1] == "all is well"


# The whole, on an embedded home.


class Home:
    """A whole installation of embedded twins, and what the doctor finds of it."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path = path
        self.environ = {"FOOTFALL_HOME": str(path), **settings}
        self.settings = read_settings(self.environ)

    def found(self) -> list[Finding]:
        return examine(self.environ, within_s=30)

    def bad(self) -> list[Finding]:
        return [one for one in self.found() if one.level != "ok"]

    def status(self, flow: str, *, age_ms: int = 0, worker: int = 0, **more: Any) -> None:
        part = PartitionStatus("user_tags", 0, 5, 5, 0, 0, 0, more.pop("next_offset", 0), 0, 0)
        given: dict[str, Any] = {"pid": os.getpid(), "finished": False, "workers": 1, **more}
        now_ms = time.time_ns() // 1_000_000
        status = WorkerStatus(
            flow=flow,
            worker=worker,
            updated_ms=now_ms - age_ms,
            cpu_s=0.0,
            memory_bytes=0,
            rows_written=0,
            partitions=[part],
            **given,
        )
        path = status_path(self.path, flow, worker)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(status))

    def topics(self) -> FileTopics:
        return FileTopics(self.path / "topics")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with clickhouse_support.serving(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, clickhouse: Server) -> Home:
    """Return a home as ``footfall init`` leaves it."""
    made = Home(tmp_path / "home", CLICKHOUSE_URL=f"{clickhouse.url}/{tmp_path.name[:40]}")
    made.path.mkdir(0o700)
    for make in (make_topics, make_clickhouse_tables, make_store_tables):
        list(make(made.settings))
    return made


def only(findings: list[Finding]) -> Finding:
    (one,) = findings
    assert one.remedy
    return one


def test_a_home_as_init_leaves_it_is_well(home: Home) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.path.rglob("*") if path.is_file()}
    found = home.found()
    assert [one for one in found if one.level != "ok"] == []
    checked = {one.check for one in found}
    assert checked >= {
        "settings", "home", "disk", "topics", "dead letters", "ClickHouse", "clock of ClickHouse",
        "ClickHouse tables", "ClickHouse parts", "store", "store tables", "profiles",
        "flow minute_buckets",
    }  # fmt: skip
    after = {path: path.stat().st_mtime_ns for path in home.path.rglob("*") if path.is_file()}
    assert {
        p: t for p, t in after.items() if "-shm" not in p.name and "-wal" not in p.name
    } == before


def without_a_topic(home: Home) -> None:
    (home.path / "topics" / "visits" / "topic.json").unlink()


def with_a_topic_that_says_nothing(home: Home) -> None:
    (home.path / "topics" / "visits" / "topic.json").write_text("{}")


def with_a_hot_partition(home: Home) -> None:
    home.topics().write("user_tags", [(b"same", b"{}")] * 20_000)


def with_a_dead_letter(home: Home) -> None:
    letter = DeadLetter("f", "user_tags", 0, 3, "not_json", "", 0)
    sent = DeadLetter("f", "user_tags", 0, 4, "not_json", "", 0)
    note = Retry(RetryNote("user_tags", 0, 4, "sent", 9, 0))
    LetterWriter(home.topics(), "dead_letters").write([letter, letter, sent, note])


def with_lag_and_no_worker(home: Home) -> None:
    home.topics().write_each([("user_tags", 0, [b"{}"] * 30)])
    home.status("minute_buckets", age_ms=7_300_000, next_offset=10)


def with_a_dead_worker_of_two(home: Home) -> None:
    home.status("minute_buckets", workers=2)
    home.status("minute_buckets", worker=1, workers=2, age_ms=60_000, pid=2**22 + 1)


def with_a_large_recovery_store(home: Home) -> None:
    folder = home.path / "recovery" / "minute_buckets" / "3"
    folder.mkdir(parents=True)
    with (folder / "part-0.sqlite3").open("wb") as file:
        file.truncate(3 * GIB)


def without_a_store_table(home: Home) -> None:
    with sqlite3.connect(home.path / "store.sqlite") as store:
        store.execute("DROP TABLE events_to_announce")


def with_a_store_that_is_none(home: Home) -> None:
    for path in home.path.glob("store.sqlite*"):
        path.unlink()
    (home.path / "store.sqlite").write_text("this is no database, whatever its name may say" * 99)


def with_profiles_that_are_none(home: Home) -> None:
    (home.path / "profiles.sqlite").write_text("this is no database, whatever its name says" * 99)


@pytest.mark.parametrize(
    ("break_it", "check", "level", "said"),
    [
        (without_a_topic, "topics", "fail", "missing: visits"),
        (with_a_topic_that_says_nothing, "topics", "fail", "how many partitions"),
        (with_a_hot_partition, "keys of user_tags", "warn", "10.0x the mean"),
        (with_a_dead_letter, "dead letters", "warn", "1 record"),
        (with_lag_and_no_worker, "flow minute_buckets", "fail", "2 h ago; 20 records behind"),
        (with_a_dead_worker_of_two, "flow minute_buckets", "fail", "is dead"),
        (with_a_large_recovery_store, "recovery of minute_buckets", "warn", "3.0 GiB"),
        (without_a_store_table, "store tables", "fail", "missing: events_to_announce"),
        (with_a_store_that_is_none, "store", "fail", "not a database"),
        (with_profiles_that_are_none, "profiles", "fail", "not a database"),
    ],
)
def test_broken_in_one_place(
    home: Home, break_it: Callable[[Home], None], check: str, level: str, said: str
) -> None:
    break_it(home)
    bad = only(home.bad())
    assert (bad.check, bad.level) == (check, level)
    assert said in bad.found


def test_a_table_with_other_columns(home: Home, clickhouse: Server) -> None:
    database = home.settings.clickhouse_url.rpartition("/")[2]
    clickhouse.rows(f"ALTER TABLE `{database}`.minute_buckets_rows MODIFY COLUMN sum_price String")
    bad = only(home.bad())
    assert bad.check == "ClickHouse tables" and "sum_price is String, not Int64" in bad.found


def test_parts_that_are_not_merged(home: Home, clickhouse: Server) -> None:
    database = home.settings.clickhouse_url.rpartition("/")[2]
    rows = f"`{database}`.minute_buckets_rows"
    clickhouse.rows(
        f"ALTER TABLE {rows} MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1,"
        " max_bytes_to_merge_at_min_space_in_pool = 1"
    )
    clickhouse.rows(
        f"INSERT INTO {rows} (bucket, topic, count) "
        "SELECT toDateTime(0), 't', number FROM numbers(105) "
        "SETTINGS max_block_size = 1, min_insert_block_size_rows = 1, max_insert_threads = 1, "
        "min_insert_block_size_bytes = 1"
    )
    bad = only(home.bad())
    assert (bad.check, bad.level) == ("ClickHouse parts", "warn")
    clickhouse.rows(f"ALTER TABLE {rows} DETACH PARTITION ID '19700101'")
    bad = only(home.bad())
    assert (bad.check, bad.level) == ("ClickHouse parts", "warn") and "put aside" in bad.found


def test_files_of_an_earlier_number_of_workers_are_no_dead_workers(home: Home) -> None:
    home.status("minute_buckets", workers=1)
    home.status("minute_buckets", worker=2, workers=3, age_ms=90_000, pid=2**22 + 1)
    assert home.bad() == []


def test_all_servers_down_is_told_in_time_and_in_lines(tmp_path: Path) -> None:
    result = footfall(
        tmp_path / "home",
        "doctor",
        TOPICS_URL=f"kafka://127.0.0.1:{free_port()}",
        CLICKHOUSE_URL=f"http://127.0.0.1:{free_port()}",
        POSTGRES_URL=f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/shop",
        PROFILES_URL=f"aerospike://127.0.0.1:{free_port()}",
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "KafkaError{" not in result.stdout
    assert PASSWORD not in result.stdout + result.stderr
    fails = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("fail")]
    assert fails == ["topics", "ClickHouse", "store", "profiles"]
    assert not (tmp_path / "home").exists()


def test_an_empty_home_is_told_what_to_do_and_stays_empty(tmp_path: Path) -> None:
    result = footfall(tmp_path / "home", "doctor", "--json")
    assert result.returncode == 1 and result.stderr == ""
    found = json.loads(result.stdout)
    fails = [one for one in found if one["level"] == "fail"]
    assert [one["check"] for one in fails] == ["topics", "ClickHouse", "store"]
    assert all("footfall init" in one["remedy"] for one in fails)
    assert all(name in fails[0]["found"] for name in TOPICS)
    assert not (tmp_path / "home").exists()


LOADED = """
import sys
import footfall.cli.doctor.command as command

def look(to_run, within_s):
    before = set(sys.modules)
    found = side_by_side(to_run, within_s)
    names = {name.partition(".")[0] for name in sys.modules.keys() - before}
    print(sorted(names - sys.stdlib_module_names))
    return found

side_by_side, command.side_by_side = command.side_by_side, look
command.examine({"FOOTFALL_HOME": sys.argv[1]}, 60)
"""


def test_what_a_busy_machine_takes_to_load_is_no_answer_that_is_late(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path / "home")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_a_setting_that_is_nonsense_is_the_only_line(tmp_path: Path) -> None:
    found = examine({"FOOTFALL_HOME": str(tmp_path), "KAFKA_POLL_TIMEOUT": "soon"})
    bad = only(found)
    assert bad.level == "fail" and "KAFKA_POLL_TIMEOUT='soon'" in bad.found


def test_postgres(postgres: PostgresServer, tmp_path: Path) -> None:
    settings = {"POSTGRES_URL": postgres.url}
    home = Home(tmp_path, **settings)

    def store() -> list[Finding]:
        wanted = ("store", "clock of PostgreSQL", "store tables")
        return [one for one in home.found() if one.check in wanted]

    with psycopg.connect(postgres.url, autocommit=True) as server:
        server.execute("DROP TABLE IF EXISTS events, events_by_partition, events_to_announce")
        assert levels(*store()) == ["ok", "ok", "fail"]
        list(make_store_tables(home.settings))
        version, clock, tables = store()
        assert levels(version, clock, tables) == ["ok", "ok", "ok"]
        assert "PostgreSQL at 127.0.0.1" in version.found and "clock" in clock.check
        server.execute("ALTER TABLE events DROP COLUMN nr_items_sold")
        assert "events has other columns: nr_items_sold is missing" in store()[-1].found
        server.execute("DROP TABLE events, events_by_partition, events_to_announce")
    wrong = Home(tmp_path, POSTGRES_URL=postgres.url.replace(PASSWORD, "not-the-secret"))
    bad = next(one for one in wrong.found() if one.check == "store")
    assert bad.level == "fail" and "password" in bad.found and "not-the-secret" not in bad.found
    assert bad.remedy == "check the user and password in POSTGRES_URL"


def test_what_is_done_about_a_server_fits_what_is_wrong(
    clickhouse: Server, tmp_path: Path
) -> None:
    origin = f"http://{clickhouse.url.rpartition('@')[2]}"
    remedies = {
        origin.replace("//", "//default:wrong@"): "check the user and password in CLICKHOUSE_URL",
        origin.replace("http:", "https:"): "write http:// in CLICKHOUSE_URL",
        "http://nowhere.invalid": "mend the host in CLICKHOUSE_URL",
        f"http://127.0.0.1:{free_port()}": "start it, or mend CLICKHOUSE_URL",
    }
    for url, remedy in remedies.items():
        found = Home(tmp_path / "home", CLICKHOUSE_URL=url).found()
        (bad,) = [one for one in found if one.check == "ClickHouse"]
        assert bad.level == "fail" and bad.remedy.startswith(remedy), bad


def test_what_is_done_about_kafka_and_aerospike_fits_what_is_wrong() -> None:
    def of_kafka(code: int) -> str:
        return kafka_remedy(KafkaException(KafkaError(code)), None)

    assert of_kafka(KafkaError._TRANSPORT).startswith("start it")
    assert "kafka-acls" in of_kafka(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert "kafka-acls" in of_kafka(KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    assert "listener of PLAINTEXT" in of_kafka(KafkaError._AUTHENTICATION)
    assert kafka_remedy(ValueError("x"), "a, b").startswith("a, b has no address: mend KAFKA_")
    assert aerospike_remedy(-10, None).startswith("start it")
    assert "it asks for a user" in aerospike_remedy(80, None)
    assert aerospike_remedy(-1, "a").startswith("a has no address: mend the host in PROFILES_URL")
