"""Looks at ClickHouse, the store's database and the profiles; changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footfall.cli.doctor import findings as found_of
from footfall.cli.doctor import tables as tables_of
from footfall.cli.doctor.findings import Finding, fail, ok
from footfall.cli.doctor.tables import NamespaceFacts
from footfall.schemas.addresses import AEROSPIKE_NAME, aerospike_hosts, shown_host, unresolved
from footfall.schemas.database_addresses import clickhouse_address, postgres_address
from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from footfall.sinks import SinkError

AEROSPIKE_WITHIN_MS = 4_000
AEROSPIKE_SECURITY = range(51, 84)
"""Error codes of Aerospike that are about users and their rights."""


def look_at_clickhouse(settings: Settings, *, is_set: bool) -> list[Finding]:
    """Check reachability, version, clock, tables and parts. ``is_set``: a server was named."""
    from footfall.cli.home import Home, answers
    from footfall.schemas.embedded_clickhouse import running_address
    from footfall.sinks import SinkError
    from footfall.sinks.clickhouse import ClickHouseReader

    home = Home(settings.footfall_home)
    address = clickhouse_address(settings.clickhouse_url)
    where = shown_host((address.host, address.port))
    start = "start it, or mend CLICKHOUSE_URL"
    if not is_set and not answers(address.origin):
        runs_at = running_address(home.clickhouse)
        if runs_at is not None:
            return [
                fail(
                    "ClickHouse",
                    f"embedded: its process runs at {runs_at} and does not answer",
                    "is the machine busy, or the process stopped? `footfall demo` starts it again "
                    "where it has ended",
                )
            ]
        if home.clickhouse.is_dir():
            return [ok("ClickHouse", f"embedded, not running; its data is in {home.clickhouse}")]
        start = "`footfall init` makes an embedded one, or set CLICKHOUSE_URL"
        return [fail("ClickHouse", f"none answers at {where}", start)]
    reader = ClickHouseReader(settings.clickhouse_url, home=home.path)
    try:
        return _asked_clickhouse(reader, where)
    except SinkError as error:
        return [_not_told("ClickHouse", error, start)]
    finally:
        reader.close()


def _not_told(check: str, error: SinkError, otherwise: str) -> Finding:
    """Return the failure of a server that gives no answer, with its remedy or ``otherwise``."""
    return fail(check, error.what, error.remedy or otherwise)


def _asked_clickhouse(reader: Any, where: str) -> list[Finding]:
    from footfall.cli.init import described
    from footfall.schemas.tables.clickhouse import BESIDE, Table, View

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
        table.name: {**table.columns, **BESIDE} for table in described(Table)
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
    """Compare the server's clock with the middle of the question's round trip."""
    ask_ms()  # the first question may have to connect
    before_ns = time.time_ns()
    there_ms = ask_ms()
    after_ns = time.time_ns()
    here_ms = (before_ns + after_ns) // 2_000_000
    return found_of.skew(server, there_ms - here_ms, (after_ns - before_ns) // 2_000_000 + 1)


def look_at_store(settings: Settings) -> list[Finding]:
    """Check PostgreSQL or SQLite: reachability, version, clock and tables."""
    from footfall.sinks import SinkError

    path = settings.store_file
    if path is not None and not path.exists():
        return [fail("store", f"SQLite, there is no {path}", "`footfall init` makes it")]
    try:
        return _asked_store(settings.postgres_url, path)
    except SinkError as error:
        start = "start it, or mend the host and port in POSTGRES_URL"
        anew = "move the file away, and `footfall init`"
        return [_not_told("store", error, start if path is None else anew)]


def _asked_store(url: str, path: Path | None) -> list[Finding]:
    """Check a store that answers. ``path`` is that of the SQLite file, None for PostgreSQL."""
    import sqlalchemy

    from footfall.cli.init import described
    from footfall.sinks.sql import columns_of, query_rows

    ask = "SHOW server_version" if path is None else "SELECT sqlite_version()"
    ((text,),) = query_rows(url, ask)[1]
    if path is not None:
        findings = [ok("store", f"SQLite {text}, {path}")]
    else:
        at = f"PostgreSQL at {postgres_address(url).shown.rpartition('@')[2]}, version"
        version = str(text).split()[0]
        findings = [found_of.version("store", at, version, found_of.POSTGRES_OLDEST)]
        sql = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
        findings.append(_clock("PostgreSQL", lambda: int(query_rows(url, sql)[1][0][0])))
    metadatas = described(sqlalchemy.MetaData)
    tables = [table for metadata in metadatas for table in metadata.sorted_tables]
    found = columns_of(url, tables)
    wanted = {name: one for name, (one, _) in found.items()}
    standing = {name: one for name, (_, one) in found.items()}
    return findings + tables_of.columns("store tables", wanted, standing)


def look_at_profiles(settings: Settings) -> list[Finding]:
    """Check the profiles, in Aerospike or SQLite."""
    path = settings.profiles_file
    if path is None:
        return _asked_aerospike(settings)
    from footfall.sinks import SinkError
    from footfall.sinks.sql import query_rows

    if not path.exists():
        return [ok("profiles", f"SQLite, {path}: nothing was written yet")]
    try:
        query_rows(settings.profiles_url, "SELECT count(*) FROM (SELECT 1 FROM tags LIMIT 1)")
    except SinkError as error:
        return [_not_told("profiles", error, "move the file away, and run user_profiles anew")]
    return [ok("profiles", f"SQLite, {path}")]


def _asked_aerospike(settings: Settings) -> list[Finding]:
    import aerospike
    from aerospike import exception

    hosts = aerospike_hosts(settings.profiles_url)
    where = ",".join(map(shown_host, hosts))
    try:
        client = aerospike.client({"hosts": list(hosts), "connect_timeout": AEROSPIKE_WITHIN_MS})
        try:
            return _told_by_aerospike(client, settings, where)
        finally:
            client.close()
    except exception.AerospikeError as error:
        said = f"Aerospike at {where}: {error.msg or type(error).__name__}"
        return [fail("profiles", said, aerospike_remedy(error.code or 0, unresolved(hosts)))]


def aerospike_remedy(code: int, names: str | None) -> str:
    """Say what to do where a client gets this code; ``names`` have no address."""
    if names:
        return f"{names} has no address: {AEROSPIKE_NAME}"
    if code in AEROSPIKE_SECURITY:
        return "it asks for a user, which cannot be used yet: let it be used without, or another"
    return "start it, or mend PROFILES_URL"


def _told_by_aerospike(client: Any, settings: Settings, where: str) -> list[Finding]:
    build = _info(client.info_random_node("build"))
    names = [name for name in _info(client.info_random_node("namespaces")).split(";") if name]
    standing = {
        name: namespace_facts(_info(client.info_random_node(f"namespace/{name}")))
        for name in names
    }
    wanted = [settings.aerospike_profiles_namespace]
    if settings.aerospike_aggregates:
        wanted.append(settings.aerospike_aggregates_namespace)
    return [
        ok("profiles", f"Aerospike at {where}, version {build}"),
        *tables_of.namespaces(wanted, standing),
    ]


def _info(answer: str) -> str:
    """Return an answer of Aerospike without the question that comes before a tab."""
    return answer.partition("\t")[2].strip() if "\t" in answer else answer.strip()


def namespace_facts(text: str) -> NamespaceFacts:
    """Return a namespace's facts from ``key=value;key=value``, as the server gives them."""
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
