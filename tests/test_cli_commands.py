"""Commands as their user types them: help, listings, mistakes; a mistake is one line, no trace."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from footfall import flows
from footfall.cli.errors import FailureError, UsageError, did_you_mean, line_and_code
from footfall.cli.main import build_parser, command_names
from footfall.cli.money import money
from footfall.cli.query import hint, print_csv, print_json
from footfall.cli.report import report_line
from footfall.cli.table import table_lines
from footfall.schemas.settings import SettingError
from tests.cli_support import footfall, free_port, one_line, running
from tests.conftest import known_reasons, unexpected


def test_alone_it_prints_its_help(tmp_path: Path) -> None:
    result = footfall(tmp_path / "home")
    assert result.returncode == 0
    for command in command_names(build_parser()):
        assert re.search(rf"^    {command}\b", result.stdout, re.MULTILINE)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", command_names(build_parser()))
def test_every_command_has_a_help(command: str, tmp_path: Path) -> None:
    result = footfall(tmp_path / "home", command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: footfall {command}")


def test_help_imports_nothing_heavy() -> None:
    heavy = {"polars", "numpy", "pyarrow", "bytewax", "chdb", "sqlalchemy", "rich", "msgspec"}
    script = (
        "import sys; from footfall.cli.main import build_parser; build_parser().format_help(); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


def test_flows_lists_the_catalogue(tmp_path: Path) -> None:
    lines = footfall(tmp_path / "home", "flows").stdout.splitlines()
    assert lines[0].split() == ["flow", "reads", "writes", "about"]
    assert [line.split()[0] for line in lines[2:]] == list(flows.catalogue())
    for name, contract in flows.catalogue().items():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert all(
            part in line for part in (*contract.topics, *contract.writes.names, contract.about)
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gnerate"], "no such command: gnerate; did you mean generate?"),
        (["zzz"], "no such command: zzz; there are api, clickhouse, completion, dead-letters"),
        (["run", "minute_bucket"], "no such flow: minute_bucket; did you mean minute_buckets?"),
        (["run"], "required: FLOW"),
        (["query"], "required: SQL"),
        (["query", " "], "the SQL is empty"),
        (["generate"], "required: WORLD"),
        (["generate", "csv"], "which FILE?"),
        (["generate", "csv", "missing.csv"], "no such file: missing.csv"),
        (["generate", "csv", "."], "not a file: ."),
        (["generate", "tags", "--rate", "0"], "'0' is not a number from 0.1"),
        (["generate", "tags", "--rate", "5", "--fast"], "--fast and --rate: which of them?"),
        (["generate", "tags", "--late", "1.5"], "'1.5' is not a number from 0 to 0.9"),
        (["generate", "tags", "--late", "0.8", "--duplicates", "0.8"], "0.9 at most together"),
        (["generate", "tags", "--http", "ftp://x", "--total", "1"], "it takes http://host:port"),
        (["demo", "--csv", "missing.csv"], "no such file: missing.csv"),
        (["demo", "--once"], "--csv FILE, --tags N, or both"),
        (["demo", "--once", "--tags", "many"], "'many' is not a whole number"),
        (["demo", "--once", "--csv", "x", "--speed", "2"], "leave --speed out"),
        (["demo", "--no-generator", "--tags", "5"], "leave --csv and --tags out"),
        (["demo", "--port", "0"], "'0' is not a whole number from 1 to 65535"),
        (["query", "SELECT 1"], "no ClickHouse: none runs at"),
        (["query", "--db", "store", "SELECT 1"], "`footfall init` makes it"),
        (["report", "--once"], "`footfall init` makes it"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = footfall(tmp_path / "home", *arguments)
    assert result.returncode in (1, 2)
    assert said in one_line(result)


@pytest.mark.parametrize("command", [["api"], ["clickhouse"], ["demo", "--no-generator"]])
def test_a_taken_port_is_named_with_its_option(command: list[str], tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = footfall(tmp_path / "home", *command, "--port", str(port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in one_line(result)
    assert "--port" in one_line(result)


WRITING = [
    ["init"],
    ["clickhouse", "--port", "0"],
    ["generate", "store", "--total", "1"],
    ["demo", "--once", "--tags", "1"],
    ["run", "store_metrics", "--once"],
    ["api", "--port", "0"],
]


def with_port(command: list[str]) -> list[str]:
    return [str(free_port()) if word == "0" else word for word in command]


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_home_that_cannot_be_made_is_one_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = footfall(tmp_path / "file" / "home", *with_port(command))
    assert result.returncode in (1, 2)
    assert f"{tmp_path}/file" in one_line(result)


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_home_that_is_a_file_is_one_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    result = footfall(tmp_path / "home", *with_port(command))
    assert result.returncode == 2
    assert "home is a file, not a folder" in one_line(result)


@pytest.fixture
def tiny_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Yield a disk of 256 KiB, by a mount of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_read_only_disk_is_one_line(command: list[str], tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    result = footfall(tiny_disk / "home", *with_port(command))
    assert result.returncode == 1
    assert "read-only" in one_line(result)


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_full_disk_is_one_line(command: list[str], tiny_disk: Path) -> None:
    (tiny_disk / "home").mkdir()
    with (tiny_disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    result = footfall(tiny_disk / "home", *with_port(command))
    assert result.returncode == 1
    assert re.search("disk.*full|No space", one_line(result))


def test_a_debug_run_keeps_the_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, settings in ((["--debug", "init"], {}), (["init"], {"FOOTFALL_DEBUG": "1"})):
        result = footfall(tmp_path / "file" / "home", *arguments, **settings)
        assert "Traceback" in result.stderr
        assert result.stderr.strip().splitlines()[-1].startswith("footfall: ")


def test_output_to_a_reader_that_left_is_no_error(tmp_path: Path) -> None:
    with running(tmp_path / "home", "clickhouse", "--port", str(free_port())) as server:
        server.wait_for_text("ClickHouse at http://127.0.0.1")
        command = (
            f"{sys.executable} -m footfall.cli.main query --format csv "
            "'SELECT number FROM numbers(300000)' | head -2"
        )
        from tests.cli_support import environment

        result = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            env=environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.stdout == "number\n0\n"
    assert (result.returncode, result.stderr) == (0, "")


def test_query_starts_the_embedded_engine_or_uses_the_one_that_runs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    port = free_port()
    with running(home, "clickhouse", "--port", str(port)) as server:
        server.wait_for_text("ClickHouse at http://127.0.0.1")
        made = footfall(home, "query", "CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
        footfall(home, "query", "INSERT INTO t VALUES (1), (2)")
        again = footfall(home, "clickhouse", "--port", str(free_port()))
        assert again.returncode == 2
        assert "in use by another embedded ClickHouse" in one_line(again)
        assert server.end() == 0
    asked = footfall(home, "query", "--format", "json", "SELECT sum(a) AS s, NULL AS n FROM t")
    assert json.loads(asked.stdout) == [{"s": 3, "n": None}]
    wrong = footfall(home, "query", "SELECT * FROM events")
    assert wrong.returncode == 1
    assert "Unknown table" in one_line(wrong)
    assert "footfall query --db store" in one_line(wrong)
    typo = footfall(home, "query", "SELEC 1;")
    assert typo.returncode == 1
    assert "Syntax error" in one_line(typo)
    assert not (home / "run" / "clickhouse.json").exists()


def test_init_says_what_it_made_and_what_stood(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, second = footfall(home, "init"), footfall(home, "init")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    made = [line for line in first.stdout.splitlines() if line.endswith(": made")]
    stood = [line for line in second.stdout.splitlines() if line.endswith(": stood")]
    assert [line.removesuffix(": made") for line in made] == [
        line.removesuffix(": stood") for line in stood
    ]
    names = " ".join(made)
    for name in ("user_tags (10 partitions)", "minute_buckets", "store table events:"):
        assert name in names
    assert footfall(home, "query", "SELECT count() FROM minute_buckets").returncode == 0
    assert footfall(home, "query", "--db", "store", "SELECT * FROM events").returncode == 0


def test_a_home_is_its_users_own(tmp_path: Path) -> None:
    home = tmp_path / "above" / "home"
    assert footfall(home, "init").returncode == 0
    assert footfall(home, "run", "store_metrics", "--once").returncode == 0
    assert footfall(home, "generate", "tags", "--total", "10", "--fast").returncode == 0
    found = {path: path.stat().st_mode for path in (home, *home.rglob("*"))}
    assert len(found) > 100
    assert {str(path): oct(mode) for path, mode in found.items() if mode & 0o077} == {}


def test_errors_of_the_system_say_what_to_do() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/some/file")
    assert line_and_code(full) == (
        "/some/file: the disk is full: free some space and start again",
        1,
    )
    assert line_and_code(UsageError("a\n b"))[0] == "a b"
    assert line_and_code(FailureError("x")) == ("x", 1)
    assert line_and_code(SettingError("X='1': takes 2")) == ("X='1': takes 2", 2)
    assert line_and_code(KeyError("k"))[0] == "unexpected KeyError: 'k' (--debug shows where)"


def test_a_cause_of_ours_speaks_for_what_wraps_it() -> None:
    from footfall.sinks import SinkUnavailableError

    wrapper = RuntimeError("error in the engine")
    wrapper.__cause__ = SinkUnavailableError("ClickHouse at x: away")
    assert line_and_code(wrapper) == ("ClickHouse at x: away", 1)


def test_near_names_are_offered() -> None:
    assert did_you_mean("quer", ["query", "run"]) == "; did you mean query?"
    assert did_you_mean("x", ["run", "api"]) == "; there are api, run"


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table_lines(("name", "n"), [["a", 5], ["bcd", 1234], ["two\nlines", 1]]) == [
        "name          n",
        "---------  ----",
        "a             5",
        "bcd        1234",
        "two lines     1",
    ]
    assert table_lines(("x",), []) == ["x", "-"]


def test_json_and_csv_hold_what_was_answered() -> None:
    columns, rows = ["a", "b"], [[1, 'x,"y'], [None, [1, 2]]]
    out = io.StringIO()
    print_json(columns, rows, out)
    assert json.loads(out.getvalue()) == [{"a": 1, "b": 'x,"y'}, {"a": None, "b": [1, 2]}]
    out = io.StringIO()
    print_csv(columns, rows, out)
    assert out.getvalue() == 'a,b\n1,"x,""y"\n,"[1, 2]"\n'
    out = io.StringIO()
    print_json(columns, [], out)
    assert json.loads(out.getvalue()) == []


def test_a_hint_names_the_other_database() -> None:
    assert "--db store" in hint("clickhouse", 'select 1 FROM "events" e')
    assert hint("clickhouse", "SELECT 1 FROM nope") == ""
    assert "--db clickhouse" in hint("store", "select * from minute_buckets")
    assert hint("store", "SELECT x FROM events") == ""


def test_money_is_exact() -> None:
    assert [money(cents) for cents in (0, 5, 123456789, -250)] == [
        "0.00", "0.05", "1,234,567.89", "-2.50",
    ]  # fmt: skip


def test_a_report_line_tells_a_window() -> None:
    row = {
        "nr_of_events": 1200,
        "nr_items_viewed": 1190,
        "nr_items_put_in_cart": 6,
        "nr_items_sold": 4,
        "value_items_sold_in_cent": 123456,
    }
    assert report_line((1_569_888_000_000, 1_569_888_001_000), row) == (
        "2019-10-01 00:00:00 to 2019-10-01 00:00:01  1,200 events, 1,190 viewed, "
        "6 put in cart, 4 sold for 1,234.56"
    )
    assert report_line((0, 1000), None).endswith("no row in the store")


def test_known_skips_are_patterns_and_others_are_told() -> None:
    from collections import Counter

    known = known_reasons("# a comment\n\nneeds Kafka*\nmounting is not allowed\n")
    reasons = Counter({"needs Kafka at x": 2, "mounting is not allowed": 1, "new": 1})
    assert unexpected(reasons, known) == ["new"]
