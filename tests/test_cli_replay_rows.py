"""``footfall replay`` and ``footfall verify`` of raw rows, and of a flow of several topics."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest

from footfall.cli.main import main
from footfall.cli.truth_compare import compare
from footfall.cli.truth_read import Standing, Truth, expected
from footfall.cli.truth_tables import ASKED
from footfall.schemas.settings import read_settings
from footfall.schemas.status import WorkerStatus, status_folder
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.sinks.clickhouse import query_rows
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import environment, faulty, run_faulty
from tests.clickhouse_faults_support import kill_within_insert
from tests.clickhouse_support import any_server
from tests.laws.worlds import BASE_MS, platform_log

RECORDS = 20_000
RUN_S_MAX = 120.0
FROM, TO = "2022-03-22T12:03:10.500", "2022-03-22T12:09"
"""A range; for raw rows it need not be of whole minutes."""
BEGINNING = "2022-03-22"


@dataclass(frozen=True)
class House:
    """A shop's topics, the tables, and what the shop itself knows of them."""

    home: Path
    servers: dict[str, str]
    folder: Path
    """The folder of the truth."""

    @property
    def truth(self) -> Truth:
        """Return what the tables must hold."""
        return Truth(self.folder)

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command in this process; return its output and errors. Fail on another exit
        code."""
        out, errors = StringIO(), StringIO()
        with (
            patch.dict(os.environ, environment(self.home, self.servers), clear=True),
            redirect_stdout(out),
            redirect_stderr(errors),
        ):
            ended = main(arguments)
        assert ended == code, out.getvalue() + errors.getvalue()
        return out.getvalue(), errors.getvalue()

    def is_true(self, *names: str) -> bool:
        """Tell whether these tables hold what the shop knows."""
        standing = Standing(read_settings(environment(self.home, self.servers)))
        try:
            found = []
            for name in names:
                wanted = expected(self.truth, name, {})
                found.append(compare(wanted, standing.frame(name, wanted), ASKED[name].key))
        finally:
            standing.close()
        return all(comparison.is_equal for comparison in found)

    def wait_until_read(self, flow: str, records: int) -> None:
        until_s = time.monotonic() + RUN_S_MAX
        while time.monotonic() < until_s:
            paths = status_folder(self.home).glob(f"{flow}.*.json")
            statuses = [
                msgspec.json.decode(path.read_bytes(), type=WorkerStatus) for path in paths
            ]
            if sum(part.read for status in statuses for part in status.partitions) == records:
                return
            time.sleep(0.1)
        pytest.fail(f"{flow} has not read {records} records")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    pytest.importorskip("chdb", reason="chdb is not installed")
    folder = tmp_path_factory.mktemp("rows")
    home = folder / "home"
    truth = folder / "truth"
    truth.mkdir()
    with any_server(folder / "engine") as server:
        servers = {"CLICKHOUSE_URL": f"{server.url}/rows{os.getpid()}"}
        found = House(home, servers, truth)
        found.run(
            "generate", "shop", "--fast", "--total", str(RECORDS), "--density", "20", "--seed",
            "5", "--out-of-order", "0.1", "--late", "0.002", "--malformed", "0.002", "--truth",
            str(truth),
        )  # fmt: skip
        found.run("init")
        yield found


def test_raw_rows_of_a_corrected_flow_are_replayed_while_live_runs(house: House) -> None:
    logs = house.truth.records()["platform_logs"]
    with faulty("faulty_rows", "failed_logins", home=house.home, settings=house.servers):
        house.wait_until_read("failed_logins", logs)
        house.run("replay", "failed_logins", "--from", FROM, "--to", TO)
        within, _ = house.run("verify", "failed_logins", "--from", FROM, "--to", TO)
    assert "topic and tables are equal" in within
    whole, _ = house.run("verify", "failed_logins", code=1)
    lines = [line.split() for line in whole.splitlines() if "failed_login_rows" in line]
    for place in (2, 3, 4):
        assert sum(int(line[place].replace(",", "")) for line in lines), "each kind of fault"
    inside = {f"2022-03-22T12:{minute:02d}" for minute in range(4, 9)}
    assert not inside & {line[0] for line in lines}
    assert not house.is_true("failed_login")
    done, _ = house.run("replay", "failed_logins", "--from", BEGINNING)
    assert " 0 of earlier generations" not in done
    assert house.is_true("failed_login", "failed_logins_per_minute")
    # What the worker has not read yet it will write itself.
    topics = FileTopics(house.home / "topics")
    topics.write("platform_logs", [(b"1", platform_log(BASE_MS + at, 2)) for at in range(3)])
    topics.close()
    done, errors = house.run("replay", "failed_logins", "--to", "2020-01-01")
    assert " 0 rows written" in done
    assert "3 records were left out that the worker has not read yet" in errors
    said, errors = house.run("verify", "failed_logins")
    assert "equal" in said
    assert "3 records were left out" in errors
    said, _ = house.run("verify", "failed_logins", "--complete", code=1)
    assert "3 rows differ in 1 minutes" in said


def test_a_replay_of_many_tables_that_is_killed_is_made_again(house: House) -> None:
    flow = "shop_events_hot"
    run_faulty("faulty_rows", flow, home=house.home, settings=house.servers)
    said, _ = house.run("verify", flow, code=1)
    assert "shop_cart_add_rows" in said
    arguments = ["replay", flow, "--from", BEGINNING]
    # In the order of writing one of the first tables, and one of the last.
    first, last = "shop_page_visit_rows", "shop_sale_participation_rows"
    kill_within_insert(9, house.home, *arguments, done=True, **house.servers)
    assert replayed(house, first)
    assert not replayed(house, last)
    done, _ = house.run(*arguments)
    assert f"{house.truth.records()['shop_events']:,} records read" in done
    assert "topic and tables are equal" in house.run("verify", flow)[0]
    assert house.is_true("shop_events_rows", "shop_funnel_by_hour")


def replayed(house: House, table: str) -> int:
    """Return the number of a table's rows that a replay wrote."""
    sql = f"SELECT count() FROM {table} WHERE version >= {1 << GENERATION_SHIFT}"
    ((count,),) = query_rows(house.servers["CLICKHOUSE_URL"], sql)[1]
    return int(count)


def test_a_flow_of_several_topics_is_replayed_topic_by_topic_or_all_at_once(
    house: House,
) -> None:
    flow, topics = "product_views", ("platform_logs", "store_events", "user_tags")
    run_faulty("faulty_rows", flow, home=house.home, settings=house.servers)
    said, _ = house.run("verify", flow, "--complete", code=1)
    for topic in topics:
        assert f"{flow} of {topic}: " in said
    assert said.count(" windows differ; ") == 3
    one = ("--topic", "store_events", "--complete")
    done, _ = house.run("replay", flow, "--from", BEGINNING, *one)
    assert done.count(" records read") == 1
    assert "topic and table are equal" in house.run("verify", flow, *one)[0]
    said, _ = house.run("verify", flow, "--complete", code=1)
    assert said.count(" windows differ; ") == 2
    assert not house.is_true("product_views_per_minute")
    through = ("--complete", "--into", "shadow", "--swap")
    done, _ = house.run("replay", flow, "--from", BEGINNING, *through)
    assert f"{flow} of store_events: the shadow is equal to the table" in done
    assert done.count(" windows differ") == 2
    said, _ = house.run("verify", flow, "--complete")
    assert said.count("topic and table are equal") == 3
    assert house.is_true("product_views_per_minute", "product_user_views_per_minute")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "product_views", "--topic", "shop_events"],
         "--topic shop_events: product_views reads platform_logs, store_events, user_tags"),
        (["replay", "user_trace", "--from", BEGINNING, "--topic", "user_tags"],
         "--topic user_tags: user_trace reads platform_logs"),
        (["replay", "shop_events_hot", "--from", BEGINNING, "--into", "shadow"],
         "`footfall verify shop_events_hot` looks first"),
        (["replay", "failed_logins", "--source", "x"], "leave --source out"),
        (["replay", "product_views", "--source", "x"], "say with --topic of which"),
        (["replay", "product_views", "--swap", "--topic", "user_tags"], "leave --topic out"),
        (["replay", "product_views", "--from", f"{BEGINNING}T12:00:01", "--to",
          f"{BEGINNING}T12:00:59"], "no whole window of 60 s"),
        (["replay", "user_trace", "--from", BEGINNING, "--to", BEGINNING], "later than --from"),
        (["replay", "request_trace", "--from", BEGINNING], "no range of what it writes"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_any_server_is_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    for name in {*os.environ} - {*environment(tmp_path)}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FOOTFALL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:1")
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_topic_that_the_settings_name_is_that_of_a_flow_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOOTFALL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAFKA_TOPIC", "others")
    for flow, said in (("user_trace", "user_trace reads others"), ("product_views", "leave it")):
        assert main(["verify", flow, "--topic", "platform_logs"]) == 2
        assert said in capsys.readouterr().err
