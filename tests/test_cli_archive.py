"""Files as they come to ``footfall replay --source`` and ``footfall generate csv``."""

from __future__ import annotations

import gzip
import json
import os
import pty
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from footfall.schemas.store_events import CSV_COLUMNS
from footfall.schemas.tables.store_metrics import METADATA
from footfall.sinks.sql import create_tables
from tests.cli_support import COMMAND_S_MAX, environment, footfall, one_line

HEADER = ",".join(CSV_COLUMNS)
EPOCH = "1970-01-01 00:00:00 UTC,view,1,7,,bolt,1.00,3,s"


def rows(day: str, count: int = 10) -> list[str]:
    """Return rows: a purchase of 1.00 in each of the day's first seconds."""
    times = [f"{day} 00:00:{second:02d} UTC" for second in range(count)]
    return [f"{time},purchase,1{n},7,,bolt,1.00,3,s" for n, time in enumerate(times)]


def write(path: Path, lines: list[str], encoding: str = "utf-8") -> str:
    path.write_text("\n".join([HEADER, *lines, ""]), encoding=encoding)
    return str(path)


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home that has sold ten items on each of two days."""
    home = tmp_path_factory.mktemp("shop") / "home"
    both = write(home.parent / "both.csv", [*rows("2019-10-01"), *rows("2019-10-02")])
    done = footfall(home, "generate", "csv", both, "--fast")
    assert done.returncode == 0, done.stderr
    create_tables(f"sqlite:///{home}/store.sqlite", METADATA)
    done = footfall(home, "run", "store_metrics", "--once")
    assert done.returncode == 0, done.stderr
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}
    return home


@pytest.fixture
def home(two_days: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_days, tmp_path / "home"))


def sold(home: Path) -> dict[str, int]:
    """Return items sold by day, where any were."""
    sql = (
        "SELECT substr(start_event_time, 1, 10) AS day, sum(nr_items_sold) AS sold FROM events "
        "GROUP BY 1 HAVING sum(nr_items_sold) > 0 ORDER BY 1"
    )
    done = footfall(home, "query", "--db", "store", "--format", "json", sql)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return {row["day"]: row["sold"] for row in found}


def replay(home: Path, source: str, *more: str) -> subprocess.CompletedProcess[str]:
    return footfall(home, "replay", "store_metrics", "--complete", "--source", source, *more)


def test_a_stray_quote_takes_nothing_right_back(home: Path, tmp_path: Path) -> None:
    lines = rows("2019-10-01")
    lines[2] = lines[2].replace("bolt", '"bolt')
    lines[8] = lines[8].replace("bolt", 'bolt"')
    done = replay(home, write(tmp_path / "in.csv", lines))
    assert "10 records read, 9 rows written" in done.stdout
    assert "such as in.csv: line 4 has a wrong quote: " in done.stderr
    # The time of the row is not known: its window is left as it was.
    assert "rows of 1 window at 2019-10-01T00:00:02 of which the archive has no" in done.stderr
    assert done.returncode == 1
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}
    listed = footfall(home, "dead-letters", "ls", "--records").stdout
    assert "in.csv/0:4  bad_row" in listed
    assert "1 dead record" in listed


def test_an_archive_that_is_cut_changes_nothing(home: Path, tmp_path: Path) -> None:
    lines = [line.replace("1.00", f"{n}.55") for n, line in enumerate(rows("2019-10-01"))]
    write(tmp_path / "in.csv", lines * 400)
    packed = gzip.compress((tmp_path / "in.csv").read_bytes())
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) * 3 // 4])
    done = replay(home, str(tmp_path / "cut.csv.gz"), "--yes")
    assert done.returncode == 1
    assert "cut.csv.gz cannot be read past line " in one_line(done)
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}


def test_rows_that_cannot_be_read_are_dead_letters_with_their_lines(
    home: Path, tmp_path: Path
) -> None:
    lines = [line.replace("1.00", "1,00") for line in rows("2019-10-01")]
    done = replay(home, write(tmp_path / "in.csv", lines))
    assert done.returncode == 1
    assert (
        "nothing was written, as 10 rows could not be read, such as in.csv: line 2 has 10 "
        "fields instead of 9" in done.stderr
    )
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}
    # By the other way they are the same, and the records of before.
    done = footfall(home, "generate", "csv", str(tmp_path / "in.csv"), "--fast")
    assert "10 rows, 10 sent" in done.stdout
    assert "10 dead letters" in done.stdout
    done = footfall(home, "dead-letters", "ls", "--records")
    assert "in.csv/0:11" in done.stdout
    assert "10 dead records" in done.stdout
    done = footfall(home, "dead-letters", "retry", "--dry-run")
    assert "it is a row of a file and not of a topic" in done.stdout


def test_a_row_of_another_time_takes_no_day_back(home: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", [EPOCH, *rows("2019-10-02", 5)])
    done = replay(home, source)
    assert done.returncode == 1
    assert "has events from 1970-01-01T00:00 to 2019-10-02T00:00:04\n" in done.stdout
    assert (
        "the table has rows of 10 windows from 2019-10-01T00:00 to 2019-10-01T00:00:09 of which "
        "the archive has no event: that was left as it is" in done.stderr
    )
    assert "--yes" in done.stderr
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}
    named = ("--from", "2019-10-02", "--to", "2019-10-02T00:00:08")
    done = replay(home, source, *named)
    assert (done.returncode, done.stderr) == (0, "")
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 7}
    assert replay(home, source, "--yes").returncode == 0
    assert sold(home) == {"2019-10-02": 7}


@pytest.mark.parametrize(("answer", "first_day"), [("y", {}), ("n", {"2019-10-01": 10})])
def test_at_a_terminal_it_is_asked_what_to_take_back(
    home: Path, tmp_path: Path, answer: str, first_day: dict[str, int]
) -> None:
    source = write(tmp_path / "in.csv", [EPOCH, *rows("2019-10-02")])
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    arguments = ["replay", "store_metrics", "--complete", "--source", source]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "footfall.cli.main", *arguments],
            env=environment(home),
            cwd=tmp_path,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "of which the archive has no event. Take that back? [y/N] " in done.stdout
    assert sold(home) == {**first_day, "2019-10-02": 10}


def test_a_shadow_takes_back_nothing_and_its_exchange_asks(home: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", [EPOCH, *rows("2019-10-02")])
    done = replay(home, source, "--into", "shadow")
    assert done.returncode == 0, done.stderr
    assert "11 windows differ" in done.stdout
    done = replay(home, source, "--into", "shadow", "--swap")
    assert done.returncode == 1
    assert "10 windows from 2019-10-01T00:00" in done.stderr
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}
    done = replay(home, source, "--into", "shadow", "--swap", "--yes")
    assert done.returncode == 0, done.stderr
    assert sold(home) == {"2019-10-02": 10}


def test_what_is_left_out_of_a_folder_is_named(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    write(folder / "2019-10-02.csv", rows("2019-10-02"))
    (folder / "README.md").write_text("about")
    (folder / "._2019-10-02.csv").write_bytes(b"\0\5\26\7")
    done = replay(home, str(folder))
    assert done.returncode == 0
    assert "left out, for what their names end in: README.md" in one_line(done)
    assert sold(home) == {"2019-10-01": 10, "2019-10-02": 10}


def test_a_file_that_has_grown_goes_on_where_it_was(home: Path, tmp_path: Path) -> None:
    name = tmp_path / "in.csv"
    for count, said in ((5, "5 rows, 5 sent"), (8, "8 rows, 3 sent"), (8, "nothing to send")):
        done = footfall(home, "generate", "csv", write(name, rows("2019-10-03", count)), "--fast")
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    done = footfall(home, "run", "store_metrics", "--once")
    assert done.returncode == 0, done.stderr
    assert sold(home)["2019-10-03"] == 8
    done = footfall(home, "generate", "csv", write(name, rows("2019-10-04", 9)), "--fast")
    assert done.returncode == 1
    assert "is about another file of this name" in one_line(done)


@pytest.mark.parametrize("way", ["-", "fifo", "zip", "utf-16"])
def test_files_and_pipes_as_they_come(tmp_path: Path, way: str) -> None:
    home = tmp_path / "home"
    lines = rows("2019-10-05")
    name = write(tmp_path / "in.csv", lines, "utf-16" if way == "utf-16" else "utf-8")
    if way == "zip":
        with zipfile.ZipFile(tmp_path / "in.csv.zip", "w") as packed:
            packed.write(name, "in.csv")
        name += ".zip"
    arguments = ["generate", "csv", {"-": "-", "fifo": "/dev/stdin"}.get(way, name), "--fast"]
    done = subprocess.run(
        [sys.executable, "-m", "footfall.cli.main", *arguments],
        env=environment(home),
        cwd=tmp_path,
        input=(tmp_path / "in.csv").read_bytes(),
        capture_output=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"finished: 10 rows, 10 sent" in done.stdout
    assert (b"what comes out of a pipe is sent once" in done.stderr) == (way in ("-", "fifo"))


def test_what_is_no_file_for_it_is_said_on_one_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    for arguments, said in (
        (("generate", "csv", str(tmp_path)), "not a file: "),
        (("generate", "csv", str(tmp_path / "empty.csv"), "--fast"), "empty.csv is empty"),
        (("generate", "csv", str(tmp_path / "cut.csv.gz"), "--fast"), "cut.csv.gz cannot be read"),
        (("generate", "csv", "-", "--fast"), "- is empty"),
        (("demo", "--csv", "-", "--once"), "no such file: -"),
        (("replay", "store_metrics", "--from", "2019-10-01", "--yes"), "--yes goes with --source"),
    ):
        done = footfall(home, *arguments)
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
