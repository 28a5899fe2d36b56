"""The tables that a benchmark's flows write to, new ones for each run, and their sums."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from footfall import flows
from footfall.benchmarks.measure import BenchmarkError
from footfall.cli.errors import FailureError, UsageError
from footfall.cli.home import Home
from footfall.cli.servers import need_engine, start_clickhouse
from footfall.cli.supervise import Supervisor
from footfall.schemas.embedded_clickhouse import PASSWORD_FILE, USER
from footfall.schemas.operations import OUTCOME_FAILED, OUTCOME_INCOMPLETE, OUTCOME_OK
from footfall.schemas.tables.store_metrics import METADATA, SUMS
from footfall.sinks import clickhouse, sql

Answer = dict[str, int]

CLICKHOUSE, SQLITE, FILES = "ClickHouse", "SQLite", "topic files"
_OTHER_SINKS = {
    "store_metrics": SQLITE,
    "user_profiles": SQLITE,
    "login_alerts": FILES,
    "split_topics": FILES,
}
_OUTCOMES = (OUTCOME_OK, OUTCOME_FAILED, OUTCOME_INCOMPLETE)
_ANSWERS = {
    "failed_logins": "SELECT count() AS failures FROM failed_login_rows FINAL",
    "minute_buckets": "SELECT sum(count) AS events, sum(sum_price) AS sum_price "
    "FROM minute_buckets_rows FINAL",
    "product_views": "SELECT sum(r.views) AS views, sum(r.impressions) AS impressions "
    "FROM product_user_views_rows AS r FINAL",
    "request_trace": "SELECT "
    + ", ".join(f"countIf(outcome = '{name}') AS {name}" for name in _OUTCOMES)
    + " FROM request_summary_rows FINAL",
    "store_metrics": "SELECT sum(nr_of_events) AS events, "
    f"{', '.join(f'sum({name}) AS {name}' for name in SUMS[1:])} FROM events",
    "time_online": "SELECT count() AS sessions, "
    "toInt64(sum(round(spent_s * 1000))) AS spent_ms FROM sessions_rows FINAL",
    "user_profiles": "SELECT count(*) AS kept, sum(time_ms) AS time_ms FROM tags",
}
"""The query for the sums of each flow's tables in the end."""


def sink_of(flow: str) -> str:
    """Return the name of the sink that a flow writes to here."""
    return _OTHER_SINKS.get(flow, CLICKHOUSE)


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one benchmark's runs."""

    clickhouse_url: str | None = None
    """None where no flow needs ClickHouse."""
    clickhouse_pid: int | None = None
    _databases: Iterator[int] = field(default_factory=itertools.count)

    def make(self, flow: str, home: Path) -> dict[str, str]:
        """Make empty tables of the flow for one run; return the settings that lead to them."""
        if flow == "user_profiles":
            return {"PROFILES_URL": f"sqlite:///{home}/profiles.sqlite"}
        if flow == "store_metrics":
            url = f"sqlite:///{home}/store.sqlite"
            sql.create_tables(url, METADATA)
            return {"POSTGRES_URL": url}
        if sink_of(flow) != CLICKHOUSE:
            return {}
        assert self.clickhouse_url is not None
        url = f"{self.clickhouse_url}/bench_{next(self._databases)}"
        clickhouse.create_tables(url, flows.catalogue()[flow].tables)
        return {"CLICKHOUSE_URL": url}

    def drop(self, environ: dict[str, str]) -> None:
        """Remove tables of ``make`` in ClickHouse, whose merges would go on."""
        if "CLICKHOUSE_URL" in environ:
            url, _, database = environ["CLICKHOUSE_URL"].rpartition("/")
            clickhouse.query_rows(url, f"DROP DATABASE {database} SYNC")

    def server_cpu_s(self) -> float:
        """Return the CPU seconds of ClickHouse's process since it started; 0 without one."""
        if self.clickhouse_pid is None:
            return 0.0
        # After the name, which may hold spaces, fields 12 and 13 are user and system time.
        fields = Path(f"/proc/{self.clickhouse_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer_of(flow: str, environ: dict[str, str]) -> Answer:
    """Return the sums of a run's tables, {} for a flow without an answer.

    ``environ`` is that of ``Tables.make``.
    """
    query = _ANSWERS.get(flow)
    if query is None:
        return {}
    if sink_of(flow) == CLICKHOUSE:
        names, (row,) = clickhouse.query_rows(environ["CLICKHOUSE_URL"], query)
    else:
        (url,) = environ.values()
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        found = connection.execute(query)
        names, (row,) = [column[0] for column in found.description], found.fetchall()
        connection.close()
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}


@contextmanager
def tables_in(folder: Path, names: list[str], say: Callable[[str], None]) -> Iterator[Tables]:
    """Yield the tables of these flows; run a ClickHouse under ``folder`` if they need one."""
    if all(sink_of(name) != CLICKHOUSE for name in names):
        yield Tables()
        return
    home = Home(folder)
    try:
        need_engine()
        home.make()
        home.logs.mkdir(exist_ok=True)
        environ = {**os.environ, "FOOTFALL_HOME": str(folder)}
        supervisor = Supervisor(home.logs, environ, say=say)
        try:
            url = start_clickhouse(supervisor)
            # Each run has a home of its own, so that it does not find this server's password.
            password = (home.clickhouse / PASSWORD_FILE).read_text().strip()
            url = url.replace("://", f"://{USER}:{password}@")
            yield Tables(url, supervisor.children["clickhouse"].pid)
        finally:
            supervisor.stop()
    except (UsageError, FailureError) as error:
        raise BenchmarkError(str(error)) from None
