"""The profile stores: one contract for both, and what is each one's own."""

# ruff: noqa: E402  (the contract's asserts are rewritten only if that is asked for first)

from __future__ import annotations

import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import aerospike
import pytest

pytest.register_assert_rewrite("profile_store_contract", "aerospike_contract")

from aerospike_helpers.batch.records import BatchRecords, Write

from footfall.schemas.settings import SettingError, read_settings
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks._aerospike_recent import RecentWrites
from footfall.sinks.open import open_profiles, open_topics
from footfall.sinks.profiles import ProfileStore
from footfall.sinks.profiles.aerospike import (
    AerospikeProfiles,
    CookieTags,
    bin_names,
    by_cookie,
    key_without_topic,
    newest_of,
    operations,
    tag_key,
    time_key,
    why_not_written,
)
from footfall.sinks.profiles.frames import checked
from footfall.sinks.profiles.replay import ProfileReplay
from footfall.sinks.profiles.sqlite import SqliteProfiles
from footfall.sinks.topic_files import FileTopics
from tests.aerospike_contract import AerospikeProfilesContract, GenerationsContract
from tests.aerospike_support import Interposed, ModelServer, Place, model_place
from tests.profile_store_contract import (
    FOREVER,
    KEEP,
    OpenStore,
    ProfileStoreContract,
    frame,
    names,
    tag,
)

ROOT = Path(__file__).parent.parent


class TestSqlite(ProfileStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Iterator[OpenStore]:
        numbers = count()
        opened: list[ProfileStore] = []

        def open_one(keep: int) -> ProfileStore:
            path = tmp_path / "deep" / f"{next(numbers)}.sqlite"
            opened.append(SqliteProfiles(path, keep))
            return opened[-1]

        yield open_one
        for store in opened:
            store.close()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with model_place(ModelServer()) as place:
        yield place


class TestAerospikeOfModel(AerospikeProfilesContract):
    pass


class TestGenerationsOfModel(GenerationsContract):
    pass


PUT_FOR_EVER = """
    import sys
    from pathlib import Path
    import polars as pl
    sys.path.insert(0, "tests")
    from profile_store_contract import frame
    from footfall.sinks.profiles.sqlite import SqliteProfiles
    store, partition = SqliteProfiles(Path(sys.argv[1]), 50), int(sys.argv[2])
    number = 0
    while True:
        store.put(
            frame([
                (f"c{n % 7}", "VIEW", n, "tags", partition, n, b"%d" % n)
                for n in range(number, number + 40)
            ])
        )
        number += 40
        print(number, flush=True)
    """


def test_processes_killed_in_the_middle_lose_no_put_that_returned(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    code = textwrap.dedent(PUT_FOR_EVER)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, str(partition)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for partition in range(2)
    ]
    acknowledged = []
    try:
        for process in processes:
            assert process.stdout is not None
            for _ in range(5):
                assert process.stdout.readline()
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
    for process in processes:
        out, _ = process.communicate(timeout=60)
        acknowledged.append(int(out.split()[-1]) if out.split() else 5 * 40)

    store = SqliteProfiles(path, 50)
    for cookie in range(7):
        views, _ = store.get(f"c{cookie}", 0, FOREVER, 50)
        found = [int(view) for view in views]
        both = sorted(
            [n for end in acknowledged for n in range(end) if n % 7 == cookie], reverse=True
        )[:50]
        # A put that was killed after its commit may have added newer ones, at most two a writer.
        assert found == sorted(found, reverse=True)
        assert len(found) == 50
        missing = [n for n in both if found.count(n) < both.count(n) and n > found[-1]]
        assert missing == []
    store.close()


def test_sqlite_keeps_on_disk_no_more_than_it_should(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    store = SqliteProfiles(path, KEEP)
    for start in range(0, 100, 10):
        store.put(frame([tag(n, cookie=f"c{n % 2}") for n in range(start, start + 10)]))
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM tags").fetchone() == (2 * KEEP,)
    connection.close()


def test_sqlite_that_is_locked_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    SqliteProfiles(path).put(frame([tag(1)]))
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    store = SqliteProfiles(path, give_up_after_s=0.2, busy_s=0.1)
    with pytest.raises(SinkUnavailableError, match="locked"):
        store.put(frame([tag(2)]))
    assert store.get("c1", 0, FOREVER, 9) == (names(1), [])
    release = threading.Timer(0.2, holder.rollback)
    release.start()
    SqliteProfiles(path).put(frame([tag(2)]))
    release.join()
    holder.close()
    assert store.get("c1", 0, FOREVER, 9) == (names(2, 1), [])


def test_sqlite_files_that_cannot_be_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all " * 100)
    (tmp_path / "folder").mkdir()
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for name, reason in [
        ("text", "text: file is not a database"),
        ("folder", "folder: unable to open database file"),
        ("text/profiles.sqlite", "no folder for it"),
        ("other", "written by another version"),
    ]:
        store = SqliteProfiles(tmp_path / name)
        with pytest.raises(SinkRefusedError, match=reason) as caught:
            store.put(frame([tag(1)]))
        assert "\n" not in str(caught.value)
        with pytest.raises(SinkRefusedError, match=reason):
            store.get("c1", 0, FOREVER, 1)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the pages of the file fills the disk."""
    store = SqliteProfiles(tmp_path / "profiles.sqlite")
    set_up = SqliteProfiles._set_up

    def small(self: SqliteProfiles, connection: sqlite3.Connection) -> None:
        set_up(self, connection)
        connection.execute("PRAGMA max_page_count = 10")

    monkeypatch.setattr(SqliteProfiles, "_set_up", small)
    with pytest.raises(SinkUnavailableError, match="disk is full"):
        store.put(frame([tag(n, cookie=f"c{n}") for n in range(5000)]))
    store.close()


def test_keys_sort_as_time_topic_partition_and_offset() -> None:
    places = [
        (time_ms, topic, partition, offset)
        for time_ms in (0, 1, 255, 256, 1_647_951_300_000, 2**62)
        for topic in ("a", "a-b", "a.b", "ab", "b")
        for partition in (0, 1, 9, 10, 300)
        for offset in (0, 9, 10, 255, 256, 2**40)
    ]
    assert sorted(places) == sorted(places, key=lambda place: tag_key(*place))
    assert len({tag_key(*place) for place in places}) == len(places)
    for place in places:
        key = tag_key(*place)
        assert time_key(place[0]) < key < time_key(place[0] + 1)
        assert key_without_topic(key) == struct.pack(">QIQ", place[0], *place[2:])
    assert time_key(-5) == time_key(0)
    assert time_key(2**70) == time_key(2**63 - 1)


def test_both_bins_have_names_that_aerospike_takes() -> None:
    assert bin_names("tags") == ("tags_v", "tags_b")
    # Of letters of one byte each, of two, and of four.
    for given in ("fifteen_letters", "żółćżół", "🍪🍪🍪x"):
        names = bin_names(given)
        assert len(set(names)) == 2
        assert all(len(name.encode()) <= 15 for name in names)
        assert all(given.startswith(name[:-2]) for name in names)
    assert bin_names("żółćżół") == ("żółćżó_v", "żółćżó_b")


def test_a_name_of_a_bin_is_measured_in_bytes() -> None:
    assert read_settings({"AEROSPIKE_PROFILES_BIN": "fifteen_letters"})
    with pytest.raises(SettingError, match=r"'żółćżółć': .*at most 15 bytes"):
        read_settings({"AEROSPIKE_PROFILES_BIN": "żółćżółć"})


def test_a_record_is_asked_to_put_and_then_to_keep_the_last() -> None:
    tags = CookieTags("c1", views={b"k1": b"1", b"k2": b"2"}, buys={b"k3": b"3"})
    asked = operations(tags, ("tags_v", "tags_b"), 200)
    put_views, _, trim_views, put_buys, _, trim_buys = asked
    assert [one["bin"] for one in asked] == ["tags_v"] * 3 + ["tags_b"] * 3
    assert put_buys["val"] == {b"k3": b"3"}
    assert trim_buys["op"] == trim_views["op"] == aerospike.OP_MAP_REMOVE_BY_INDEX_RANGE
    assert put_views["val"] == {b"k1": b"1", b"k2": b"2"}
    assert put_views["map_policy"]["map_order"] == aerospike.MAP_KEY_ORDERED
    # Where index and amount are swapped, or it is not inverted, the map loses what it must keep.
    assert (trim_views["index"], trim_views["val"]) == (-200, 200)
    assert trim_views["inverted"] is True
    assert trim_views["return_type"] == aerospike.MAP_RETURN_NONE
    assert {one["bin"] for one in operations(CookieTags("c1", buys={b"k": b"1"}), *_TWO)} == {"b"}


_TWO = (("v", "b"), 200)


def test_tags_of_before_stay_until_they_are_written_with_their_topic() -> None:
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP, set_name="profiles")
        old = {struct.pack(">QIQ", n, 0, n): names(n)[0] for n in range(KEEP)}
        place.put(place.namespaces[0], "profiles", "c1", {"tags_v": old})
        assert store.get("c1", 0, FOREVER, 200) == (names(4, 3, 2, 1, 0), [])
        assert store.get("c1", 1, 4, 200) == (names(3, 2, 1), [])
        for _ in range(2):
            store.put(frame([tag(n) for n in (1, 3)]))
            assert store.get("c1", 0, FOREVER, 200) == (names(4, 3, 2, 1, 0), [])
        # Each tag has one place: the oldest makes room for a new one, and no other.
        store.put(frame([tag(9)]))
        assert store.get("c1", 0, FOREVER, 200) == (names(9, 4, 3, 2, 1), [])


def test_tags_are_gathered_by_cookie() -> None:
    tags = [tag(3, cookie="b"), tag(1, cookie="a"), tag(2, cookie="b", action="BUY")]
    assert list(by_cookie(checked(frame(tags)))) == [
        CookieTags("a", views={tag_key(1, "tags", 0, 1): b'{"n":1}'}),
        CookieTags(
            "b",
            views={tag_key(3, "tags", 0, 3): b'{"n":3}'},
            buys={tag_key(2, "tags", 0, 2): b'{"n":2}'},
        ),
    ]
    assert list(by_cookie(checked(frame([])))) == []


@pytest.mark.parametrize(
    "found",
    [
        [b"k1", b"1", b"k3", b"3", b"k2", b"2"],
        [(b"k3", b"3"), (b"k1", b"1"), (b"k2", b"2")],
        {b"k1": bytearray(b"1"), b"k2": b"2", b"k3": b"3"},
    ],
)
def test_a_map_is_read_newest_first(found: object) -> None:
    assert newest_of(found, 9) == [b"3", b"2", b"1"]
    assert newest_of(found, 2) == [b"3", b"2"]
    assert newest_of(found, 0) == []
    assert newest_of([], 9) == newest_of(None, 9) == []


def test_each_result_of_a_batch_is_looked_at() -> None:
    codes = {"written": 0, "timeout": 9, "busy": 14, "overload": 18, "unavailable": 11}
    records = BatchRecords([Write(("profiles", "s", name), ops=[]) for name in codes])
    for record, code in zip(records.batch_records, codes.values(), strict=True):
        record.result = code
    reasons = [why_not_written(record, record.key[2], "here") for record in records.batch_records]
    assert reasons[0] is None
    assert all(reasons[1:])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (13, "lower NUM_TAGS_TO_KEEP"),
        (12, "set AEROSPIKE_PROFILES_BIN .*comes back.*code 12"),
        (20, "code 20"),
    ],
)
def test_what_will_never_be_written_is_refused_by_cookie(code: int, reason: str) -> None:
    record = Write(("profiles", "s", "c1"), ops=[])
    record.result = code
    with pytest.raises(SinkRefusedError, match=f"here: .*'c1'.*{reason}"):
        why_not_written(record, "c1", "here")


def test_what_a_killed_node_had_not_on_its_disk_is_written_again() -> None:
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP)
        store.put(frame([tag(1), tag(2, cookie="c2")]))
        on_disk = dict(model.records)
        store.put(frame([tag(3), tag(4)]))
        store.put(frame([tag(5, cookie="c3")]))
        model.records, model.uptime_s, model.results = on_disk, 0, [-10]
        store.put(frame([tag(6)]))
        assert store.get("c1", 0, FOREVER, 9) == (names(6, 4, 3, 1), [])
        assert store.get("c2", 0, FOREVER, 9) == (names(2), [])
        assert store.get("c3", 0, FOREVER, 9) == (names(5), [])


def test_what_a_node_loses_after_the_last_write_is_written_again_while_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("footfall.sinks._aerospike.LOOK_EVERY_S", 0.02)
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP, keep_s=60.0)
        store.put(frame([tag(1), tag(2, cookie="c2")]))
        model.kill(lost_s=60.0)
        assert store.get("c1", 0, FOREVER, 9) == ([], [])
        until_s = time.monotonic() + 30
        while len(model.records) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        assert store.get("c1", 0, FOREVER, 9) == (names(1), [])
        assert store.get("c2", 0, FOREVER, 9) == (names(2), [])


def test_a_store_has_settled_when_no_death_of_a_node_can_undo_a_put() -> None:
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP, keep_s=0.4)
        store.put(frame([tag(1)]))
        assert [len(tags) for tags in store.recent()] == [1]
        model.kill(lost_s=60.0)
        store.settle()
        assert store.recent() == []
        assert store.get("c1", 0, FOREVER, 9) == (names(1), [])
        # By now it is on the disk.
        writes = len(model.sizes)
        store.settle()
        assert len(model.sizes) == writes


def test_a_store_whose_node_stays_away_does_not_settle() -> None:
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP, keep_s=0.1, give_up_after_s=0.2)
        store.put(frame([tag(1)]))
        model.nodes = False
        with pytest.raises(SinkUnavailableError, match="no node is left"):
            store.settle()
        model.nodes = True
        store.settle()
        assert store.recent() == []


def test_what_an_earlier_process_wrote_last_is_written_again() -> None:
    model = ModelServer()
    with model_place(model) as place:
        name = place.new_set("profiles")
        first = place.profiles(KEEP, set_name=name, keep_s=60.0)
        first.put(frame([tag(1), tag(2)]))
        first.put(frame([tag(3, cookie="c2")]))
        recent = first.recent()
        model.kill(lost_s=60.0)
        # Meanwhile the node has grown old.
        model.started_at_s = None
        second = place.profiles(KEEP, set_name=name, keep_s=0.1)
        for tags in recent:
            second.restore(tags)
        assert sum(map(len, second.recent())) == 3
        second.settle()
        assert second.get("c1", 0, FOREVER, 9) == (names(2, 1), [])
        assert second.get("c2", 0, FOREVER, 9) == (names(3), [])
        assert second.recent() == []


def test_a_replay_of_profiles_ends_when_nothing_can_be_lost() -> None:
    with model_place(ModelServer()) as place:
        store = place.profiles(KEEP, keep_s=0.2)
        replay = ProfileReplay(store, KEEP)
        replay.write([frame([tag(1)])], shadow=False)
        assert store.recent()
        assert replay.remove_older([], 1, shadow=False) == 0
        assert not store.recent()


def test_a_generation_that_wraps_around_stops_no_policy() -> None:
    for policy in ("NONE", "EQ", "GT"):
        model = ModelServer()
        with model_place(model) as place:
            store = place.profiles(KEEP, generation_policy=policy, give_up_after_s=0.2)
            store.put(frame([tag(0)]))
            (key,) = model.records
            model.generations[key] = 65_533
            for number in range(1, 5):
                store.put(frame([tag(number)]))
            assert model.generations[key] == 2
            assert store.get("c1", 0, FOREVER, 9) == (names(4, 3, 2, 1, 0), [])


@pytest.mark.parametrize("policy", ["NONE", "EQ", "GT"])
def test_nothing_counts_as_written_where_no_node_is_left(policy: str) -> None:
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP, generation_policy=policy, give_up_after_s=0.2)
        store.put(frame([tag(1)]))
        model.nodes = False
        with pytest.raises(SinkUnavailableError, match="no node is left"):
            store.put(frame([tag(2)]))
        with pytest.raises(SinkUnavailableError, match="code -8"):
            store.get("c1", 0, FOREVER, 9)
        model.nodes = True
        store.put(frame([tag(3)]))
        assert store.get("c1", 0, FOREVER, 9) == (names(3, 1), [])


def test_a_node_that_stayed_up_is_not_written_to_again() -> None:
    model = ModelServer()
    with model_place(model) as place:
        store = place.profiles(KEEP)
        store.put(frame([tag(1)]))
        model.results = [9]
        store.put(frame([tag(2)]))
        assert model.sizes == [1, 1, 1]


def test_the_part_of_a_write_that_a_killed_node_had_taken_is_written_again() -> None:
    model = ModelServer(results=[0] * 500 + [-10] * 100)

    def after_write() -> None:
        if len(model.sizes) == 2:
            model.records, model.uptime_s = {}, 0

    with model_place(model) as place:
        store = place.profiles(
            KEEP,
            max_parallel_writes=1,
            connect=lambda _: Interposed(model, lambda: None, after_write),
        )
        store.put(frame([tag(n, cookie=f"c{n:03}") for n in range(600)]))
        for n in (0, 499, 500, 599):
            assert store.get(f"c{n:03}", 0, FOREVER, 9) == (names(n), [])


def test_the_writes_of_the_last_seconds_are_those_that_may_be_lost() -> None:
    now = 1_000.0
    recent = RecentWrites[str](lambda: now)
    assert not recent.in_doubt()
    assert recent.lost([0.0]) == []
    for name in ("a", "b", "c", "d"):
        now += 1.0
        recent.acknowledged(name)
        assert not recent.in_doubt()
    now += 4.0
    # After a pause nodes are asked; one that is older than that has kept all.
    assert recent.in_doubt()
    assert recent.lost([9.0, 5.1]) == []
    assert recent.lost([9.0, 5.0]) == ["a", "b", "c", "d"]
    recent.acknowledged("e")
    assert not recent.in_doubt()
    assert recent.lost([0.0]) == ["e"]


def test_a_writer_waits_where_more_is_recent_than_a_snapshot_takes() -> None:
    now = 1_000.0
    recent = RecentWrites[str](lambda: now, keep_s=3.0, bytes_max=100)
    recent.acknowledged("a", 60)
    now += 0.4
    recent.acknowledged("b", 40)
    assert recent.room_in_s() is None
    recent.acknowledged("c", 1)
    assert recent.room_in_s() == pytest.approx(2.6)
    now += 2.7
    assert recent.room_in_s() == 0.0
    recent.kept()
    assert (recent.room_in_s(), recent.all()) == (None, ["b", "c"])


def test_a_node_that_came_back_long_ago_is_still_younger_than_what_was_there() -> None:
    now = 1_000.0
    recent = RecentWrites[str](lambda: now)
    recent.acknowledged("a")
    for _ in range(5):
        now += 2.0
        # Partitions that are not there yet fail for some seconds after a start.
        recent.failed("b")
        assert recent.in_doubt()
    assert recent.lost([7.0]) == ["a", "b"]
    recent.made_again()
    assert not recent.in_doubt()
    recent.acknowledged("b")
    assert recent.lost([0.0]) == ["a", "b"]


def test_no_aerospike_is_an_error_within_the_bound() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(4)
        for port in (9, silent.getsockname()[1]):
            store = AerospikeProfiles(
                "127.0.0.1",
                port,
                namespace="profiles",
                bin_name="tags",
                give_up_after_s=0.5,
                timeout_ms=200,
            )
            about = f"127.0.0.1:{port}, namespace profiles: cannot connect"
            with pytest.raises(SinkUnavailableError, match=about):
                store.put(frame([tag(1)]))
            with pytest.raises(SinkUnavailableError, match=about):
                store.get("c1", 0, FOREVER, 1)
            store.close()


def test_settings_choose_the_twin_by_address(tmp_path: Path) -> None:
    embedded = read_settings({"FOOTFALL_HOME": str(tmp_path), "NUM_TAGS_TO_KEEP": "3"})
    store = open_profiles(embedded)
    assert isinstance(store, SqliteProfiles)
    store.put(frame([tag(n) for n in range(9)]))
    assert store.get("c1", 0, FOREVER, 200) == (names(8, 7, 6), [])
    store.close()
    assert (tmp_path / "profiles.sqlite").exists()
    topics = open_topics(embedded)
    assert isinstance(topics, FileTopics)
    topics.write("visits", [(b"k", b"v")])
    assert (tmp_path / "topics" / "visits" / "topic.json").exists()

    servers = read_settings(
        {"AEROSPIKE_HOSTNAME": "127.0.0.1", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9,127.0.0.1:8"}
    )
    for opened in (open_profiles(servers), open_topics(servers)):
        assert type(opened).__name__ in ("AerospikeProfiles", "KafkaTopics")
        opened.close()
    with pytest.raises(SettingError, match="three slashes"):
        open_profiles(read_settings({"PROFILES_URL": "sqlite://host/file"}))
