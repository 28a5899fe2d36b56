"""``footfall query``: SQL to the embedded or real databases."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

from footfall.cli.databases import Rows, ask_clickhouse, ask_store
from footfall.cli.errors import FailureError, UsageError
from footfall.cli.table import print_table
from footfall.schemas.settings import read_settings

STORE_TABLES = ("events", "events_by_partition")


def add_commands(commands: Any) -> None:
    """Add ``query`` to the command line."""
    query = commands.add_parser(
        "query",
        help="SQL to the databases",
        description="Ask ClickHouse (minute_buckets, ...) or the store's database (events, ...), "
        "embedded or real. The embedded ClickHouse is started for the query where it does not "
        "run.",
    )
    query.add_argument(
        "--db", choices=("clickhouse", "store"), default="clickhouse", help="(clickhouse)"
    )
    query.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="(table)"
    )
    query.add_argument("sql", metavar="SQL", help="such as 'SELECT count() FROM minute_buckets'")
    query.set_defaults(handler=run_query)


def run_query(args: argparse.Namespace) -> int:
    """Ask, and print the answer."""
    from footfall.sinks import SinkRefusedError

    sql = args.sql.strip().rstrip(";")
    if not sql:
        raise UsageError("query: the SQL is empty")
    try:
        columns, rows = _ask(args.db, sql)
    except SinkRefusedError as error:
        elsewhere = hint(args.db, sql)
        reason = str(error).removesuffix("; run `footfall init`") if elsewhere else str(error)
        raise FailureError(f"{reason}{elsewhere}") from None
    if columns:
        {"table": print_table, "json": print_json, "csv": print_csv}[args.format](columns, rows)
    return 0


def _ask(db: str, sql: str) -> Rows:
    if db == "store":
        return ask_store(read_settings(os.environ), sql)
    from footfall.cli.servers import clickhouse_for_a_while

    with clickhouse_for_a_while(os.environ, make=False) as settings:
        return ask_clickhouse(settings, sql)


def print_json(
    columns: Sequence[str], rows: Sequence[Sequence[object]], out: IO[str] | None = None
) -> None:
    """Print an array of objects, one per line."""
    target = out if out is not None else sys.stdout
    objects = [
        json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows
    ]
    print("[" + ",\n ".join(objects) + "]", file=target)


def print_csv(
    columns: Sequence[str], rows: Sequence[Sequence[object]], out: IO[str] | None = None
) -> None:
    """Print a header and one line per row; NULL is empty."""
    writer = csv.writer(out if out is not None else sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def hint(db: str, sql: str) -> str:
    """Return a hint where a table that one database does not know is in the other, else ""."""
    named = set(re.findall(r"\b(?:from|join)\s+`?\"?(\w+)", sql, re.IGNORECASE))
    there = sorted(named & set(STORE_TABLES))
    if db == "clickhouse" and there:
        return f"; {there[0]} is a table of the store: footfall query --db store"
    if db == "store" and named - set(STORE_TABLES):
        return "; tables of ClickHouse are asked with --db clickhouse"
    return ""
