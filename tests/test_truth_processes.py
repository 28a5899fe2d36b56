"""The whole shop by the command line: every table is what the truth says, also after kill -9.

Five seeds, three shares of disorder, one process a flow and three, undisturbed and killed:

    FOOTFALL_TRUTH_ALL=1 FOOTFALL_TRUTH_RECORDS=50000 pytest tests/test_truth_processes.py
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

import pytest

from footfall.generator.shop_tables import TABLES
from footfall.schemas.status import status_folder
from tests.cli_support import footfall, processes_of, running

RECORDS = int(os.environ.get("FOOTFALL_TRUTH_RECORDS", "4000"))
IS_ALL = os.environ.get("FOOTFALL_TRUTH_ALL", "0") == "1"
DISTURBED = (
    "--late", "0.02", "--malformed", "0.02", "--clocks-off", "0.1", "--clocks-far-off", "0.03",
    "--density", "2",
)  # fmt: skip
WAIT_S = 600.0
GONE_WITHIN_S = 30.0

pytest.importorskip("chdb", reason="chdb is not installed")


@dataclass(frozen=True)
class Case:
    """One world, and how it is processed."""

    seed: int
    disorder: float
    workers: int
    is_killed: bool

    def command(self, truth: Path) -> tuple[str, ...]:
        """Return what the user types, again and again."""
        return (
            "demo", "--shop", "--events", str(RECORDS), "--seed", str(self.seed),
            "--disorder", str(self.disorder), *DISTURBED, "--workers", str(self.workers),
            "--clocks-ahead", "0.05" if self.is_killed else "0", "--once", "--truth", str(truth),
        )  # fmt: skip


CASES = [
    Case(*case)
    for case in (
        product((1, 2, 3, 5, 8), (0.0, 0.2, 0.6), (1, 3), (False, True))
        if IS_ALL
        else [
            (3, 0.6, 1, False),
            (5, 0.2, 3, True),
            (1, 0.0, 3, False),
            (2, 0.6, 1, True),
            (8, 0.2, 1, False),
        ]
    )
]
"""Cases of each run, not all: every seed and share, every way to process, killed and not."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if n else []) for n, case in enumerate(CASES)],
    ids=str,
)
def test_every_table_is_equal_to_the_truth(case: Case, tmp_path: Path) -> None:
    home, truth = tmp_path / "home", tmp_path / "truth"
    if case.is_killed:
        kill_in_the_middle(home, case, truth)
    done = footfall(home, *case.command(truth), timeout_s=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_of(home) == {}

    found = footfall(home, "verify", "--all", "--truth", str(truth), timeout_s=WAIT_S)
    assert found.returncode == 0, f"{case}: {found.stdout}{found.stderr}"
    *tables, last = found.stdout.splitlines()
    assert last.startswith(f"all {len(tables)} tables are equal to the truth")
    assert {line.partition(":")[0] for line in tables} > TABLES.keys()
    assert all(line.endswith(" rows equal") for line in tables), found.stdout

    if case == CASES[0]:
        spoil(home)
        found = footfall(home, "verify", "--all", "--truth", str(truth), timeout_s=WAIT_S)
        assert found.returncode == 1, found.stdout
        differ = "tables differ: failed_login, failed_logins_per_minute, events"
        assert found.stdout.splitlines()[-1].endswith(differ), found.stdout


def kill_in_the_middle(home: Path, case: Case, truth: Path) -> None:
    """Kill the demo when about so many of its processes have told of themselves."""
    # In CI while the first flows run: what is killed must be done again.
    heard = Random(f"{case}").randrange(1, (12 if IS_ALL else 4) * case.workers)
    with running(home, *case.command(truth), "--fresh") as demo:
        demo.wait_until(
            lambda: len(list(status_folder(home).glob("*.json"))) >= heard,
            f"heard of {heard} processes",
            WAIT_S,
        )
        demo.process.kill()
        demo.process.wait()
    until_s = time.monotonic() + GONE_WITHIN_S
    while processes_of(home) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert processes_of(home) == {}


def spoil(home: Path) -> None:
    """Change one window of the store, and take one failed login back."""
    with sqlite3.connect(home / "store.sqlite") as store:
        store.execute(
            "UPDATE events SET nr_items_viewed = nr_items_viewed + 1 WHERE start_event_time ="
            " (SELECT min(start_event_time) FROM events)"
        )
    taken_back = footfall(
        home,
        "query",
        "INSERT INTO failed_login_rows "
        "SELECT * REPLACE (1 AS is_deleted) FROM failed_login_rows FINAL LIMIT 1",
    )
    assert taken_back.returncode == 0, taken_back.stderr
