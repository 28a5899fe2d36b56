"""Reads the rows of the truth's files, and those of the tables, as frames of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from footfall.cli.errors import FailureError, UsageError
from footfall.cli.topics import polls, records
from footfall.cli.truth_tables import ASKED, SPLIT
from footfall.generator.shop_tables import TABLES
from footfall.operations.positions import read_statuses
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.settings import Settings
from footfall.schemas.times import parse_time_ms
from footfall.schemas.topics import LOGIN_ALERTS, SHOP_EVENTS

ROWS_MAX = 5_000_000
"""Most rows of one table of the truth, held at once with those of the table."""
ROWS_MORE_MAX = 1_000_000
"""A table with so many more rows is of another world, and is not read."""
PART_ROWS = 100_000
"""Rows per answer of ClickHouse, which comes as text and takes much more memory than a frame."""

Columns = Mapping[str, pl.DataType]

_SPLIT_TRUTH = "shop_events_rows"
_ACCOUNTS: Columns = {
    "flow": pl.String(), "topic": pl.String(), "read": pl.Int64(), "dead": pl.Int64(),
}  # fmt: skip
_SQLITE_TAGS = (
    "SELECT cookie, CASE buy WHEN 1 THEN 'BUY' ELSE 'VIEW' END AS action, time_ms, "
    "CAST(tag AS TEXT) AS tag FROM tags"
)


class TableError(FailureError):
    """A table that cannot be compared; the others can."""


class Truth:
    """The files that ``footfall generate shop --truth`` writes."""

    def __init__(self, folder: Path) -> None:
        """List the files. Raises UsageError where the folder has no table of the truth."""
        again = f"`footfall demo --shop --truth {folder}` writes it"
        if not folder.exists():
            raise UsageError(f"--truth: no such folder: {folder}; {again}")
        if not folder.is_dir():
            raise UsageError(f"--truth: not a folder: {folder}")
        self._files = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
        if not self._files.keys() & TABLES.keys():
            raise UsageError(f"--truth: there is no table in {folder}; {again}")
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of all that is to be compared, missing and unknown files included."""
        return [*TABLES, SPLIT, *sorted(self._files.keys() - TABLES.keys())]

    def frame(self, name: str) -> pl.DataFrame:
        """Return the rows of a table. Raises TableError."""
        if name not in TABLES:
            raise TableError(f"no table of ours is called so, but {self._files[name]} is there")
        path = self._files.get(name)
        if path is None:
            raise TableError(f"{self.folder / f'{name}.parquet'} is missing: write the truth anew")
        try:
            # Opened here, since polars takes a name with a star in it for a pattern.
            with path.open("rb") as file:
                rows = int(pl.scan_parquet(file).select(pl.len()).collect().item())
                if rows > ROWS_MAX:
                    raise TableError(f"{rows:,} rows; at most {ROWS_MAX:,} are compared")
                file.seek(0)
                frame = pl.read_parquet(file)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise TableError(f"{path} cannot be read: {error}") from None
        if frame.schema != TABLES[name]:
            raise TableError(f"{path} has other columns: write the truth anew")
        return frame

    def records(self) -> dict[str, int]:
        """Return the number of records sent to each topic. Raises TableError."""
        accounts = self.frame("accounts")
        return dict(accounts.select("topic", "records").iter_rows())


def expected(truth: Truth, name: str, reads: Mapping[str, Iterable[str]]) -> pl.DataFrame:
    """Return the rows that a table must hold. ``reads``: topics by flow. Raises TableError."""
    frame = truth.frame(_SPLIT_TRUTH if name == SPLIT else name)
    if name != "accounts":
        return frame
    # Late counts differ between flows; read and dead are the same for all, except the flow that
    # looks at kind and time alone.
    return pl.DataFrame(
        [
            (flow, topic, count, None if flow == SPLIT else malformed + future)
            for topic, count, malformed, future, _ in frame.iter_rows()
            for flow, topics in reads.items()
            if topic in topics
        ],
        schema=_ACCOUNTS,
        orient="row",
    )


class Standing:
    """The rows of the tables that the settings name."""

    def __init__(self, settings: Settings) -> None:
        from footfall.sinks.clickhouse import ClickHouseReader

        self._settings = settings
        self._clickhouse = ClickHouseReader(settings.clickhouse_url, home=settings.footfall_home)

    def close(self) -> None:
        """Release connections. Never raises."""
        self._clickhouse.close()

    def frame(self, name: str, truth: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a table. Raises TableError, and SinkError where a server is away."""
        from footfall.sinks import SinkRefusedError

        asked = ASKED.get(name)
        if asked is None:
            raise TableError("there is nothing to compare it with: no flow writes it")
        most = truth.height + ROWS_MORE_MAX
        try:
            if asked.where == "clickhouse":
                return self._of_clickhouse(asked.sql, asked.key, TABLES[name], most)
            if asked.where == "store":
                return self._of_store(asked.sql, TABLES[name], most)
            if asked.where == "profiles":
                return self._of_profiles(TABLES[name], truth, most)
        except SinkRefusedError as error:
            raise TableError(f"cannot be asked: {error}") from None
        if asked.where == "alerts":
            return _alerts(self._settings, TABLES[name])
        if asked.where == "split":
            return _split(self._settings)
        return _accounts(self._settings)

    def _of_clickhouse(
        self, sql: str, key: tuple[str, ...], columns: Columns, most: int
    ) -> pl.DataFrame:
        names = ", ".join(columns)
        rows = self._ask(f"SELECT {names} FROM ({sql}) LIMIT {PART_ROWS}")
        if len(rows) < PART_ROWS:
            return _frame(rows, columns)
        count = self._ask(f"SELECT count() FROM ({sql})")[0][0]
        if count > most:
            raise TableError(f"{count:,} rows stand there: those of another world")
        parts = 1 + count // PART_ROWS
        of_part = f"cityHash64({', '.join(key)}) % {parts}"
        return pl.concat(
            _frame(self._ask(f"SELECT {names} FROM ({sql}) WHERE {of_part} = {part}"), columns)
            for part in range(parts)
        )

    def _ask(self, sql: str) -> list[list[Any]]:
        return self._clickhouse.rows(sql)[1]

    def _of_store(self, sql: str, columns: Columns, most: int) -> pl.DataFrame:
        from footfall.sinks.sql import query_rows

        window_s = self._settings.producer_data_sec_per_real_sec
        if window_s != 1:
            raise TableError(
                f"PRODUCER_DATA_SEC_PER_REAL_SEC={window_s:g}: the truth has windows of a second"
            )
        names, rows = query_rows(self._settings.postgres_url, sql, rows_max=most)
        is_moment = [name.endswith("_ms") for name in names]
        plain = [
            [
                parse_time_ms(f"{value}Z") if of_moment else value
                for of_moment, value in zip(is_moment, row, strict=True)
            ]
            for row in rows
        ]
        return _frame(plain, columns)

    def _of_profiles(self, columns: Columns, truth: pl.DataFrame, most: int) -> pl.DataFrame:
        from footfall.sinks.sql import query_rows

        if self._settings.profiles_file is not None:
            _, rows = query_rows(self._settings.profiles_url, _SQLITE_TAGS, rows_max=most)
            return _frame(rows, columns)
        cookies = truth["cookie"].unique().sort()
        return _frame(list(_tags_of(self._settings, cookies)), columns)


def _tags_of(settings: Settings, cookies: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the tags of known cookies: Aerospike has no cheap way to list all."""
    from footfall.sinks.open import open_profiles

    store = open_profiles(settings)
    try:
        for cookie in cookies:
            found = store.get(cookie, 0, 2**62, settings.num_tags_to_keep)
            for action, tags in zip(("VIEW", "BUY"), found, strict=True):
                for tag in tags:
                    time = msgspec.json.decode(tag)["time"]
                    yield cookie, action, parse_time_ms(time), tag.decode()
    finally:
        store.close()


def _alerts(settings: Settings, columns: Columns) -> pl.DataFrame:
    """Return each alert once, however often it was written."""
    from footfall.streams.source import SourceError

    decode = msgspec.json.Decoder(LoginAlert).decode
    try:
        alerts = [
            decode(record)
            for poll in polls(settings, LOGIN_ALERTS.name)
            for record in records(poll)
        ]
    except SourceError as error:
        raise TableError(str(error)) from None
    except msgspec.MsgspecError as error:
        raise TableError(f"topic {LOGIN_ALERTS.name} has a record that is none: {error}") from None
    once = {
        (
            alert.user_id,
            parse_time_ms(alert.time),
            alert.failures,
            tuple(map(parse_time_ms, alert.times)),
        )
        for alert in alerts
    }
    return _frame([(*row[:3], list(row[3])) for row in once], columns)


def _accounts(settings: Settings) -> pl.DataFrame:
    """Return the numbers of records that the flows' workers report."""
    rows = [
        (status.flow, part.topic, part.read, part.dead)
        for status in read_statuses(settings.footfall_home)
        for part in status.partitions
    ]
    frame = pl.DataFrame(rows, schema=_ACCOUNTS, orient="row")
    summed = frame.group_by("flow", "topic").agg(pl.col("read", "dead").sum())
    return summed.with_columns(pl.when(pl.col("flow") != SPLIT).then("dead").alias("dead"))


def _split(settings: Settings) -> pl.DataFrame:
    """Count the readable events in the topic of each kind."""
    from footfall.flows._shop_events import EVENTS
    from footfall.sinks.open import open_topics
    from footfall.sinks.split import target_of

    topics = open_topics(settings)
    try:
        names = topics.topics()
    finally:
        topics.close()
    prefix = target_of(SHOP_EVENTS.name, "")
    counts = {
        name.removeprefix(prefix): sum(
            len(EVENTS.decode(SPLIT, poll).frame) for poll in polls(settings, name)
        )
        for name in names
        if name.startswith(prefix)
    }
    return _frame([row for row in counts.items() if row[1]], TABLES[_SPLIT_TRUTH])


def _frame(rows: list[Any], columns: Columns) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(columns), orient="row")
