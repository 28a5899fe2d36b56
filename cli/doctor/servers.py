"""Looks at ClickHouse, the store's database and the profiles; changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.doctor import findings as found_of
from cli.doctor import tables as tables_of
from cli.doctor.findings import Finding, fail, ok
from cli.doctor.tables import NamespaceFacts
from schemas.settings import Settings

AEROSPIKE_WITHIN_MS = 4_000


def look_at_clickhouse(settings: Settings, *, is_set: bool) -> list[Finding]:
    """Reachability, version, clock, tables and parts. ``is_set``: the user named a server."""
    from cli.home import Home, answers
    from sinks.clickhouse import ClickHouseReader

    home = Home(settings.footfall_home)
    url = settings.clickhouse_url
    parts = urlsplit(url)
    port = parts.port or (8443 if parts.scheme == "https" else 8123)
    host = parts.hostname or ""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not answers(f"{parts.scheme}://{where}"):
        if not is_set and home.clickhouse.is_dir():
            return [ok("ClickHouse", f"embedded, not running; its data is in {home.clickhouse}")]
        remedy = (
            "start it, or mend CLICKHOUSE_URL"
            if is_set
            else "`footfall init` makes an embedded one, or set CLICKHOUSE_URL"
        )
        return [fail("ClickHouse", f"none answers at {where}", remedy)]
    reader = ClickHouseReader(url, home=home.path)
    try:
        return _asked_clickhouse(reader, where)
    finally:
        reader.close()


def _asked_clickhouse(reader: Any, where: str) -> list[Finding]:
    from cli.init import described
    from schemas.tables.clickhouse import DELETED, Table, View

    ((text,),) = reader.rows("SELECT version()")[1]
    findings = [
        found_of.version(
            "ClickHouse", f"at {where}, version", str(text), found_of.CLICKHOUSE_OLDEST
        )
    ]
    findings.append(
        _clock(
            "ClickHouse",
            lambda: int(reader.rows("SELECT toUnixTimestamp64Milli(now64(3))")[1][0][0]),
        )
    )
    wanted: dict[str, Mapping[str, str]] = {
        table.name: {**table.columns, DELETED: "UInt8"} for table in described(Table)
    }
    wanted |= {view.name: {} for view in described(View)}
    standing: dict[str, dict[str, str]] = {}
    for table, column, kind in reader.rows(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase()"
    )[1]:
        standing.setdefault(table, {})[column] = kind
    findings += tables_of.columns("ClickHouse tables", wanted, standing)
    _, rows = reader.rows(
        "SELECT table, partition_id, count() FROM system.parts "
        "WHERE active AND database = currentDatabase() GROUP BY ALL"
    )
    ours = {(table, part): int(count) for table, part, count in rows if table in wanted}
    findings.append(tables_of.parts(ours))
    _, rows = reader.rows(
        "SELECT table, reason, count() FROM system.detached_parts "
        "WHERE database = currentDatabase() GROUP BY ALL"
    )
    return findings + tables_of.detached({(table, why): int(n) for table, why, n in rows})


def _clock(server: str, ask_ms: Any) -> Finding:
    """The server's clock against the middle of the question's way there and back."""
    ask_ms()  # the first question may have to connect
    before_ns = time.time_ns()
    there_ms = ask_ms()
    after_ns = time.time_ns()
    here_ms = (before_ns + after_ns) // 2_000_000
    return found_of.skew(server, there_ms - here_ms, (after_ns - before_ns) // 2_000_000 + 1)


def look_at_store(settings: Settings) -> list[Finding]:
    """PostgreSQL or SQLite: reachability, version, clock and tables."""
    import sqlalchemy

    from cli.init import described
    from sinks import SinkError
    from sinks.sql import query_rows

    url = settings.postgres_url
    embedded = url.startswith("sqlite:")
    path = Path(url.removeprefix("sqlite:///"))
    if embedded and not path.exists():
        return [fail("store", f"SQLite, there is no {path}", "`footfall init` makes it")]
    try:
        ((text,),) = query_rows(
            url, "SELECT sqlite_version()" if embedded else "SHOW server_version"
        )[1]
    except SinkError as error:
        remedy = (
            "move the file away, and `footfall init`"
            if embedded
            else "start it, or mend POSTGRES_URL (address, database, user and password)"
        )
        return [fail("store", str(error), remedy)]
    server = urlsplit(url)
    if embedded:
        findings = [ok("store", f"SQLite {text}, {path}")]
    else:
        at = f"PostgreSQL at {server.hostname}:{server.port or 5432}, version"
        version = str(text).split()[0]
        findings = [found_of.version("store", at, version, found_of.POSTGRES_OLDEST)]
        sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
        findings.append(_clock("PostgreSQL", lambda: int(query_rows(url, sql)[1][0][0])))
    wanted = {
        table.name: {column.name: "" for column in table.columns}
        for metadata in described(sqlalchemy.MetaData)
        for table in metadata.sorted_tables
    }
    if embedded:
        sql = (
            "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
            "WHERE m.type = 'table'"
        )
    else:
        sql = (
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema()"
        )
    standing: dict[str, dict[str, str]] = {}
    for table, column in query_rows(url, sql)[1]:
        standing.setdefault(table, {})[column] = ""
    return findings + tables_of.columns("store tables", wanted, standing)


def look_at_profiles(settings: Settings) -> list[Finding]:
    """Aerospike or SQLite."""
    url = settings.profiles_url
    if not url.startswith("sqlite:"):
        return _asked_aerospike(settings)
    from sinks import SinkError
    from sinks.sql import query_rows

    path = Path(url.removeprefix("sqlite:///"))
    if not path.exists():
        return [ok("profiles", f"SQLite, {path}: nothing was written yet")]
    try:
        query_rows(url, "SELECT count(*) FROM (SELECT 1 FROM tags LIMIT 1)")
    except SinkError as error:
        return [fail("profiles", str(error), "move the file away, and run user_profiles anew")]
    return [ok("profiles", f"SQLite, {path}")]


def _asked_aerospike(settings: Settings) -> list[Finding]:
    import aerospike
    from aerospike import exception

    server = urlsplit(settings.profiles_url)
    where = f"{server.hostname}:{server.port or 3000}"
    try:
        client = aerospike.client(
            {
                "hosts": [(server.hostname, server.port or 3000)],
                "connect_timeout": AEROSPIKE_WITHIN_MS,
            }
        )
    except exception.AerospikeError as error:
        return [
            fail(
                "profiles",
                f"Aerospike at {where}: {error.msg or type(error).__name__}",
                "start it, or mend PROFILES_URL",
            )
        ]
    try:
        build = _info(client.info_random_node("build"))
        names = [name for name in _info(client.info_random_node("namespaces")).split(";") if name]
        standing = {
            name: namespace_facts(_info(client.info_random_node(f"namespace/{name}")))
            for name in names
        }
    finally:
        client.close()
    wanted = [settings.aerospike_profiles_namespace]
    if settings.aerospike_aggregates:
        wanted.append(settings.aerospike_aggregates_namespace)
    return [
        ok("profiles", f"Aerospike at {where}, version {build}"),
        *tables_of.namespaces(wanted, standing),
    ]


def _info(answer: str) -> str:
    """Without the question, which stands before a tab."""
    return answer.partition("\t")[2].strip() if "\t" in answer else answer.strip()


def namespace_facts(text: str) -> NamespaceFacts:
    """From ``key=value;key=value`` as the server gives it."""
    values = dict(pair.partition("=")[::2] for pair in text.split(";"))

    def seconds(name: str) -> int:
        given = values.get(name, "0")
        unit_s = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}.get(given[-1:].lower())
        number = given[:-1] if unit_s else given
        return int(number) * (unit_s or 1) if number.isdigit() else 0

    stop = values.get("stop_writes", values.get("stop-writes", "false"))
    flush_ms = values.get("storage-engine.flush-max-ms", "0")
    return NamespaceFacts(
        seconds("default-ttl"),
        seconds("nsup-period"),
        stop == "true",
        int(flush_ms) if flush_ms.isdigit() else 0,
    )
