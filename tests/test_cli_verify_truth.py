"""``footfall verify --all --truth DIR``: what differs is counted, named and shown."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.cli.demo_sends import check_sends, sent_live, sent_once
from footfall.cli.errors import FailureError, UsageError
from footfall.cli.init import make_topics
from footfall.cli.main import build_parser
from footfall.cli.truth_compare import compare
from footfall.cli.truth_read import Standing, TableError, Truth, expected
from footfall.cli.truth_tables import ASKED, SPLIT
from footfall.cli.verify_all import LINES_SHOWN, Outcome, outcomes, print_outcome, run_verify_all
from footfall.generator.shop_tables import TABLES
from footfall.generator.shop_truth import write_truth
from footfall.generator.shop_world import ShopWorld
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.topics import LOGIN_ALERTS
from footfall.sinks.letters import LetterWriter
from footfall.sinks.open import open_topics
from tests.cli_support import footfall, one_line
from tests.clickhouse_support import any_server

NO_SERVER = "http://127.0.0.1:1"

COLUMNS = {"name": pl.String(), "at_ms": pl.Int64(), "share": pl.Float64()}
Row = tuple[Any, ...]


def frame(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=COLUMNS, orient="row")


rows = st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from((0.0, 0.5, 1.0)))


@settings(max_examples=200, deadline=None)
@given(common=st.lists(rows, max_size=8), data=st.data())
def test_rows_are_compared_as_often_as_they_are_there(
    common: list[Row], data: st.DataObject
) -> None:
    def others(mark: str) -> list[Row]:
        drawn = data.draw(st.lists(rows, max_size=4))
        return [(name + mark, *rest) for name, *rest in drawn]

    missing, extra = others("!"), others("?")
    truth = data.draw(st.permutations(common + missing))
    table = data.draw(st.permutations(common + extra))
    found = compare(frame(*truth), frame(*table), ("name", "at_ms", "share"))
    assert sorted(found.missing.rows()) == sorted(missing)
    assert sorted(found.extra.rows()) == sorted(extra)
    assert found.different.is_empty()
    assert found.is_equal == (not missing and not extra)


def test_a_row_of_the_same_key_is_different_and_told_by_column() -> None:
    truth = frame(("a", 1, 0.5), ("b", 2, 0.5), ("c", 3, 0.5))
    table = frame(("a", 9, 0.25), ("b", 2, 0.5), ("d", 4, 0.5))
    found = compare(truth, table, ("name",))
    assert found.counts() == "3 rows in the truth, 1 missing, 1 too many, 1 different"
    assert found.columns() == ("name", "column", "truth", "table")
    assert found.lines(5) == [
        ("a", "at", "1970-01-01T00:00:00.001Z", "1970-01-01T00:00:00.009Z"),
        ("a", "share", "0.5", "0.25"),
        ("c", "(the row)", "at 1970-01-01T00:00:00.003Z, share 0.5", "missing"),
        ("d", "(the row)", "no such row", "at 1970-01-01T00:00:00.004Z, share 0.5"),
    ]


def test_floats_are_equal_within_the_tolerance_alone() -> None:
    truth = frame(("a", 1, 0.1 + 0.2), ("b", 1, 1.0))
    assert compare(truth, frame(("a", 1, 0.3), ("b", 1, 1 + 9e-10)), ("name",)).is_equal
    found = compare(truth, frame(("a", 1, 0.3), ("b", 1, 1 + 1.1e-9)), ("name",))
    assert found.counts() == "2 rows in the truth, 1 different"
    without = frame(("a", 1, 0.3), ("b", 1, None))
    assert compare(truth, without, ("name",)).counts() == "2 rows in the truth, 1 different"


def test_lists_are_compared_in_their_order() -> None:
    schema = {"id": pl.String(), "servers": pl.List(pl.String())}
    truth = pl.DataFrame([("a", ["x", "y"]), ("b", []), ("c", ["x, y"])], schema, orient="row")
    assert compare(truth, truth.reverse(), ("id",)).is_equal
    other = pl.DataFrame([("a", ["y", "x"]), ("b", []), ("c", ["x", "y"])], schema, orient="row")
    found = compare(truth, other, ("id",))
    assert found.lines(5) == [("a", "servers", "x, y", "y, x"), ("c", "servers", "x, y", "x, y")]


def test_only_the_first_rows_that_differ_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    truth = frame(*((f"n{number:03d}", number, 0.5) for number in range(300)))
    print_outcome(Outcome("some", compare(truth, truth, ("name",))))
    print_outcome(Outcome("some", compare(truth, truth.clear(), ("name",))))
    print_outcome(Outcome("some", None, "it is away"))
    equal, counts, head, rule, *shown, last = capsys.readouterr().out.splitlines()
    assert equal == "some: 300 rows equal"
    assert counts == "some: 300 rows in the truth, 300 missing"
    assert head.split() == ["name", "column", "truth", "table"] and set(rule) == {"-", " "}
    assert [line.split()[0] for line in shown] == [f"n{n:03d}" for n in range(LINES_SHOWN)]
    assert last == "some: not compared: it is away"


def test_every_table_of_the_truth_is_asked_for_its_columns() -> None:
    assert ASKED.keys() == TABLES.keys() | {SPLIT}
    for name, asked in ASKED.items():
        if name in TABLES and name != "accounts":
            assert set(asked.key) <= TABLES[name].keys()
        for column in TABLES.get(name, {}) if asked.sql else ():
            assert column in asked.sql.replace(" AS ", " ").replace(",", " ").split()


@pytest.fixture(scope="module")
def truth_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    write_truth(ShopWorld(seed=1, total=500), folder)
    return folder


def settings_of(home: Path, url: str = NO_SERVER) -> Settings:
    return read_settings({"FOOTFALL_HOME": str(home), "CLICKHOUSE_URL": url})


def test_a_truth_that_is_none_is_told(truth_folder: Path, tmp_path: Path) -> None:
    for folder, why in (
        (tmp_path / "none", "no such folder"),
        (truth_folder / "accounts.parquet", "not a folder"),
        (tmp_path, "there is no table in"),
    ):
        with pytest.raises(UsageError, match=why):
            Truth(folder)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "accounts.parquet").write_bytes((truth_folder / "events.parquet").read_bytes())
    (broken / "events.parquet").write_bytes(b"no parquet at all")
    (broken / "visits[1].parquet").write_bytes(b"")
    truth = Truth(broken)
    for name, why in (
        ("accounts", "has other columns: write the truth anew"),
        ("events", "cannot be read: "),
        ("request_trace", "request_trace.parquet is missing: write the truth anew"),
        ("visits[1]", "no table of ours is called so"),
    ):
        with pytest.raises(TableError, match=why):
            truth.frame(name)
    assert truth.names() == [*TABLES, SPLIT, "visits[1]"]


def test_what_the_flows_have_read_is_compared_by_flow(truth_folder: Path) -> None:
    reads = {"one": ("user_tags",), "both": ("user_tags", "shop_events"), SPLIT: ("shop_events",)}
    truth = Truth(truth_folder)
    sent = truth.records()
    assert sum(sent.values()) == 500
    assert sorted(expected(truth, "accounts", reads).rows()) == [
        ("both", "shop_events", sent["shop_events"], 0),
        ("both", "user_tags", sent["user_tags"], 0),
        ("one", "user_tags", sent["user_tags"], 0),
        (SPLIT, "shop_events", sent["shop_events"], None),
    ]


def test_an_alert_counts_once_and_another_of_its_moment_is_seen(tmp_path: Path) -> None:
    found = settings_of(tmp_path)
    assert list(make_topics(found))
    times = [f"2022-03-22T12:00:0{second}.000Z" for second in range(4)]
    alert = LoginAlert(user_id="7", time=times[-1], failures=4, times=times)
    other = msgspec.structs.replace(alert, failures=5)
    writer = LetterWriter(open_topics(found), LOGIN_ALERTS.name)
    writer.write([alert, alert, other])
    writer.close()
    standing = Standing(found)
    table = standing.frame("login_alerts", pl.DataFrame(schema=TABLES["login_alerts"]))
    standing.close()
    assert sorted(table["failures"]) == [4, 5]
    assert table["times_ms"][0].to_list()[0] == 1_647_950_400_000


def test_windows_of_another_length_cannot_be_compared(tmp_path: Path) -> None:
    found = read_settings({"FOOTFALL_HOME": str(tmp_path), "PRODUCER_DATA_SEC_PER_REAL_SEC": "60"})
    with pytest.raises(TableError, match="the truth has windows of a second"):
        Standing(found).frame("events", pl.DataFrame(schema=TABLES["events"]))


def test_tables_that_do_not_stand_are_named_each(truth_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with any_server(tmp_path / "clickhouse") as server:
        told = {
            outcome.name: outcome.why_not
            for outcome in outcomes(settings_of(tmp_path, server.url), Truth(truth_folder))
        }
    assert told.keys() == TABLES.keys() | {SPLIT}
    assert "cannot be asked: ClickHouse at" in told["minute_buckets"]
    assert "`footfall init` makes it" in told["events"]
    assert LOGIN_ALERTS.name in told["login_alerts"]


def arguments(*words: str) -> Namespace:
    return build_parser().parse_args(words)


def test_the_truth_of_another_world_is_told_at_once(truth_folder: Path, tmp_path: Path) -> None:
    environ = {"FOOTFALL_HOME": str(tmp_path / "home"), "CLICKHOUSE_URL": NO_SERVER}
    list(make_topics(read_settings(environ)))
    asked = arguments("verify", "--all", "--truth", str(truth_folder))
    with pytest.raises(FailureError, match="of another world, or not all of it was sent") as told:
        run_verify_all(asked, environ)
    assert "user_tags 0 of " in str(told.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which FLOW?"),
        (("--all",), "--truth DIR"),
        (("--truth", "x"), "--all --truth DIR"),
        (("minute_buckets", "--all", "--truth", "x"), "leave minute_buckets out"),
        (("--all", "--truth", "x", "--complete"), "--complete out"),
        (("--all", "--truth", "missing"), "no such folder: missing"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = footfall(tmp_path / "home", "verify", *words)
    assert done.returncode == 2
    assert said in one_line(done)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--once", "--shop"), "how many records? --events N"),
        (("--once",), "--shop --events N, or --csv FILE, --tags N"),
        (("--truth", "t"), "--truth takes --events N"),
        (("--shop", "--tags", "5"), "which of them?"),
        (("--once", "--csv", "f", "--events", "5"), "which of them?"),
        (("--csv", "f", "--events", "5", "--truth", "t"), "which of them?"),
        (("--no-generator", "--events", "5"), "leave --shop, --events and --truth out"),
        (("--duplicates", "0.1"), "--duplicates is for --tags"),
        (("--tags", "5", "--clocks-off", "0.1"), "leave --tags out"),
    ],
)
def test_options_of_the_demo_that_contradict_each_other(words: tuple[str, ...], said: str) -> None:
    asked = arguments("demo", *words)
    with pytest.raises(UsageError) as told:
        check_sends(asked)
        sent_once(asked)
    assert said in str(told.value)


def test_what_a_demo_sends() -> None:
    def live(*words: str) -> list[tuple[str, ...]]:
        return [(name, *sent) for name, sent in sent_live(arguments("demo", *words))]

    assert [name for name, *_ in live()] == ["shop"]
    assert live("--csv", "f") == [("csv", "csv", "f")]
    ((*_, without, topic), csv) = live("--shop", "--csv", "f")
    assert (without, topic, csv) == ("--without", "store_events", ("csv", "csv", "f"))
    assert [name for name, *_ in live("--tags", "5")] == ["tags", "store"]
    assert [name for name, *_ in live("--tags", "5", "--csv", "f")] == ["tags", "csv"]
    assert live("--no-generator") == []
    ((name, words),) = sent_once(
        arguments("demo", "--once", "--events", "9", "--disorder", "0.3", "--truth", "t")
    )
    assert name == words[0] == "shop"
    asked = arguments("generate", *words)
    assert (asked.total, asked.out_of_order, asked.truth, asked.fast) == (9, 0.3, "t", True)
