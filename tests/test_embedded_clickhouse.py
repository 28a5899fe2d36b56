"""The embedded ClickHouse server: requests in, answers out, as from a ClickHouse server."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import lz4.frame
import polars as pl
import pyarrow as pa
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.clickhouse_support import Server, request, serving

NOW = datetime(2022, 3, 22, 12, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("embedded") / "data") as running:
        yield running


@pytest.fixture
def table(server: Server) -> Iterator[str]:
    server.rows("CREATE TABLE t (a Int64, s LowCardinality(String)) ENGINE = MergeTree ORDER BY a")
    yield "t"
    server.rows("DROP TABLE t SYNC")


def client_of(server: Server, **options: Any) -> Any:
    return clickhouse_connect.get_client(dsn=server.url, **options)


# Requests by hand


def test_it_says_where_it_listens(server: Server) -> None:
    assert server.line.startswith(f"embedded ClickHouse listens on {server.address} (data in /")


@pytest.mark.parametrize("path", ["/", "/ping"])
def test_it_says_that_it_is_well(server: Server, path: str) -> None:
    reply = request(server.address, "GET", path, None, {})
    assert (reply.status, reply.body) == (200, b"Ok.\n")


def test_a_query_stands_in_the_url_in_the_body_or_in_both(server: Server) -> None:
    assert server.ask("SELECT 1", method="GET").body == b"1\n"
    assert server.ask("SELECT 1").body == b"1\n"
    assert server.ask("", b"SELECT 1;\n").body == b"1\n"
    assert server.ask("SELECT 1,", b"2").body == b"1\t2\n"


def test_an_answer_says_what_it_is(server: Server) -> None:
    reply = server.ask("SELECT number FROM numbers(3) FORMAT JSONCompact", query_id="mine-1")
    assert json.loads(reply.body)["data"] == [[0], [1], [2]]
    assert reply.headers["x-clickhouse-format"] == "JSONCompact"
    assert reply.headers["x-clickhouse-query-id"] == "mine-1"
    assert reply.headers["x-clickhouse-timezone"] == "UTC"
    assert reply.headers["content-type"].startswith("application/json")
    summary = json.loads(reply.headers["x-clickhouse-summary"])
    assert (summary["read_rows"], summary["result_rows"]) == ("3", "3")


def test_the_default_format_is_chosen_by_parameter_or_header(server: Server) -> None:
    assert server.ask("SELECT 1 AS x", default_format="JSONEachRow").body == b'{"x":1}\n'
    chosen = server.ask("SELECT 1 AS x", headers={"X-ClickHouse-Format": "CSVWithNames"})
    assert (chosen.body, chosen.headers["x-clickhouse-format"]) == (b'"x"\n1\n', "CSVWithNames")
    assert server.ask("SELECT 1 AS x FORMAT CSV", default_format="JSON").body == b"1\n"


def test_a_database_is_chosen_by_parameter_or_header(server: Server) -> None:
    asked = "SELECT currentDatabase()"
    assert server.ask(asked).body == b"footfall\n"
    assert server.ask(asked, database="system").body == b"system\n"
    assert server.ask(asked, headers={"X-ClickHouse-Database": "system"}).body == b"system\n"


def test_parameters_are_bound_escaped_as_in_tsv(server: Server) -> None:
    sql = (
        "SELECT {s:String} = 'a\\'b\\\\c\\td', {l:Array(String)}[2], {d:DateTime('UTC')}, {n:Int8}"
    )
    reply = server.ask(
        sql, param_s="a'b\\\\c\\td", param_l="['x','y\\'z']", param_d=f"{NOW:%F %T}", param_n="-4"
    )
    assert reply.body == b"1\ty\\'z\t2022-03-22 12:15:00\t-4\n"


def test_a_setting_holds_for_one_call_alone(server: Server) -> None:
    asked = "SELECT getSetting('max_block_size')"
    default = server.ask(asked).body
    assert server.ask(asked, max_block_size="77").body == b"77\n"
    assert server.ask(asked).body == default


def test_http_only_parameters_are_no_settings(server: Server) -> None:
    reply = server.ask(
        "SELECT 1", wait_end_of_query="1", user="default", log_comment="x", buffer_size="1",
        send_progress_in_http_headers="1", http_headers_progress_interval_ms="10000", quota_key="",
    )  # fmt: skip
    assert (reply.status, reply.body) == (200, b"1\n")


ERRORS = [
    ("SELECT * FROM nope", 404, 60, "UNKNOWN_TABLE"),
    ("SELECT nope", 404, 47, "UNKNOWN_IDENTIFIER"),
    ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
    ("", 400, 62, "SYNTAX_ERROR"),
    ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
    ("SELECT toUInt8('x')", 400, 6, "CANNOT_PARSE_TEXT"),
    ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ("SELECT {x:String}", 500, 456, "UNKNOWN_QUERY_PARAMETER"),
    ("SELECT 1 FORMAT Nope", 501, 48, "NOT_IMPLEMENTED"),
    ("INSERT INTO nope FORMAT CSV 1", 404, 60, "UNKNOWN_TABLE"),
    ("SYSTEM /* now */ SHUTDOWN", 501, 48, "NOT_IMPLEMENTED"),
    ("SELECT 1 INTO OUTFILE 'x'", 501, 48, "NOT_IMPLEMENTED"),
]


@pytest.mark.parametrize(("sql", "status", "code", "name"), ERRORS)
def test_an_error_has_status_code_and_reason(
    server: Server, sql: str, status: int, code: int, name: str
) -> None:
    reply = server.ask("", sql.encode())
    assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (status, str(code))
    text = reply.body.decode()
    assert text.startswith(f"Code: {code}. DB::Exception: ")
    assert f"({name})" in text
    assert text.count("Code: ") == 1


def test_an_unknown_setting_is_an_error_of_that_call(server: Server) -> None:
    reply = server.ask("SELECT 1", nosuch="1", max_threads="1")
    assert (reply.status, b"Unknown setting 'nosuch'" in reply.body) == (404, True)
    assert server.ask("SELECT 1", **{"a b": "1"}).status == 404


def test_get_changes_nothing(server: Server, table: str) -> None:
    for sql in ("DROP TABLE t", "INSERT INTO t VALUES (1, 'x')", "KILL QUERY WHERE 1"):
        reply = server.ask(sql, method="GET")
        assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (500, "164")
    assert server.rows("SELECT count() FROM t") == ["0"]


def test_an_unknown_path_or_way_of_asking_is_said(server: Server) -> None:
    assert server.ask("SELECT 1", path="/nope").status == 404
    assert server.ask("SELECT 1", compress="1").status == 501
    assert server.ask("SELECT 1", b"", headers={"Content-Encoding": "rot13"}).status == 400
    assert server.ask("SELECT 1", b"no gzip", headers={"Content-Encoding": "gzip"}).status == 400


def test_a_header_is_not_made_from_what_is_sent(server: Server) -> None:
    reply = server.ask("SELECT 1", query_id="x\r\nSet-Cookie: y")
    assert "set-cookie" not in reply.headers
    assert len(reply.headers["x-clickhouse-query-id"]) == 36


def test_a_connection_is_kept_and_takes_chunked_bodies(server: Server, table: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=30)
    for part in range(3):
        lines = (f"{part},{n}\n".encode() for n in range(3))
        target = "/?query=INSERT+INTO+t+FORMAT+CSV"
        connection.request("POST", target, lines, server.user, encode_chunked=True)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        if part == 0:
            kept = connection.sock
        assert connection.sock is kept
    connection.close()
    assert server.rows("SELECT a, s FROM t ORDER BY a, s LIMIT 2") == ["0\t0", "0\t1"]


def test_the_engine_cannot_be_ended_by_a_query_that_asks_too_much(server: Server) -> None:
    reply = server.ask(
        "SELECT number FROM numbers(1000000000) GROUP BY number"
        " SETTINGS max_bytes_ratio_before_external_group_by = 0",
        max_memory_usage="100000000",
    )
    assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (500, "241")
    reply = server.ask("SELECT number FROM numbers(1000000)", max_result_bytes="100000")
    assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (500, "396")
    assert server.rows("SELECT 1") == ["1"]


# Inserts

FORMATS = ["Native", "Arrow", "ArrowStream", "Parquet", "JSONEachRow", "CSV", "TabSeparated",
           "RowBinary", "Values", "JSONCompactEachRow", "CSVWithNames"]  # fmt: skip


@pytest.mark.parametrize("data_format", FORMATS)
def test_an_insert_takes_its_data_in_the_url_s_format_or_the_body_s(
    server: Server, table: str, data_format: str
) -> None:
    source = "SELECT number::Int64 AS a, 'é' || char(10) || 'x' AS s FROM numbers(5)"
    data = server.ask(source, default_format=data_format).body
    sql = f"INSERT INTO t (a, s) FORMAT {data_format}"
    for reply in (server.ask(sql, data), server.ask("", sql.encode() + b"\n" + data)):
        assert (reply.status, reply.body) == (200, b"")
        assert json.loads(reply.headers["x-clickhouse-summary"])["written_rows"] == "5"
        assert "x-clickhouse-format" not in reply.headers
    assert server.rows("SELECT count(), sum(a), any(s) FROM t") == ["10\t20\té\\nx"]


COMPRESSED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "lz4": lz4.frame.compress,
    "br": lambda data: pa.Codec("brotli").compress(data, asbytes=True),
}


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_bodies_come_and_go_compressed(server: Server, table: str, encoding: str) -> None:
    lines = b"".join(b"%d,x\n" % number for number in range(150_000))
    half = len(lines) // 2
    # A client compresses block by block: its body is several streams, one after the other.
    several = encoding not in ("deflate", "br")
    parts = [lines[:half], lines[half:]] if several else [lines]
    body = b"".join(COMPRESSED[encoding](part) for part in parts)
    sent = server.ask("INSERT INTO t FORMAT CSV", body, headers={"Content-Encoding": encoding})
    assert (sent.status, sent.body) == (200, b"")
    asked = {"headers": {"Accept-Encoding": encoding}, "enable_http_compression": "1"}
    got = server.ask("SELECT a, s FROM t ORDER BY a FORMAT CSV", **asked)  # type: ignore[arg-type]
    assert got.headers["content-encoding"] == encoding
    assert len(got.body) < 0.6 * len(lines)
    plain = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "zstd": zstd.decompress,
        "lz4": lz4.frame.decompress,
        "br": lambda data: pa.CompressedInputStream(pa.BufferReader(data), "brotli").read(),
    }[encoding](got.body)
    assert plain == lines.replace(b",x", b',"x"')


def test_bad_data_inserts_nothing_and_says_where(server: Server, table: str) -> None:
    reply = server.ask("INSERT INTO t FORMAT CSV", b"1,x\nbad,y\n")
    assert (reply.status, b"at row 2" in reply.body) == (400, True)
    cut = server.ask("SELECT 1::Int64 AS a, 'x' AS s FORMAT Native").body[:-1]
    assert server.ask("INSERT INTO t FORMAT Native", cut).status == 500
    assert server.rows("SELECT count() FROM t") == ["0"]


def test_an_insert_that_cannot_be_written_is_an_error(server: Server) -> None:
    server.rows(
        "CREATE TABLE narrow (a Int64, CONSTRAINT small CHECK a < 1000) ENGINE = MergeTree"
        " PARTITION BY a ORDER BY a"
    )
    wrong = server.ask("INSERT INTO narrow FORMAT CSV", b"1\n5000\n")
    assert (wrong.status, wrong.headers["x-clickhouse-exception-code"]) == (500, "469")
    assert b"in file" not in wrong.body
    many = server.ask("INSERT INTO narrow FORMAT CSV", b"".join(b"%d\n" % n for n in range(200)))
    assert (many.status, many.headers["x-clickhouse-exception-code"]) == (500, "252")
    sql = b"INSERT INTO narrow SETTINGS max_partitions_per_insert_block = 0 FORMAT CSV\n1\n2\n"
    assert server.ask("", sql).status == 200
    assert server.rows("SELECT a FROM narrow ORDER BY a") == ["1", "2"]
    server.rows("DROP TABLE narrow SYNC")


def test_a_body_that_is_not_sent_whole_inserts_nothing(server: Server, table: str) -> None:
    parts = urlsplit(server.address)
    with socket.create_connection((parts.hostname, parts.port), 30) as half:
        head = "POST /?query=INSERT+INTO+t+FORMAT+CSV HTTP/1.1\r\nContent-Length: 99\r\n"
        sent = {"Host": urlsplit(server.address).netloc, **server.user}
        head += "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        half.sendall(f"{head}\r\n1,x\n2,y\n".encode())
    assert server.rows("SELECT count() FROM t") == ["0"]


def test_values_are_literals(server: Server, table: str) -> None:
    assert server.ask("INSERT INTO t VALUES (7, 'it\\'s'), (-8, NULL);").status == 200
    reply = server.ask("INSERT INTO t VALUES (1 + 1, upper('x'))")
    assert (reply.status, b"Interpreting expressions is disabled" in reply.body) == (500, True)
    asked = "INSERT INTO t SELECT {a:Int64} + 1, {s:String}"
    assert server.ask(asked, param_a="7", param_s="x\\ty").status == 200
    assert server.rows("SELECT * FROM t ORDER BY a") == ["-8\t", "7\tit\\'s", "8\tx\\ty"]


def test_values_longer_than_a_statement_may_be(server: Server, table: str) -> None:
    values = ",".join(f"({number},'{'x' * 50}')" for number in range(10_000))
    assert server.ask("", f"INSERT INTO t VALUES {values};".encode()).status == 200
    assert server.rows("SELECT count(), uniqExact(a) FROM t") == ["10000\t10000"]


def test_many_small_inserts_do_not_pile_up(server: Server, table: str) -> None:
    for number in range(120):
        assert server.ask("INSERT INTO t FORMAT CSV", b"%d,x\n" % number).status == 200
    parts = "SELECT count() FROM system.parts WHERE active AND table = 't'"
    deadline = time.monotonic() + 60
    while (left := int(server.rows(parts)[0])) > 30 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left <= 30
    assert server.rows("SELECT count() FROM t") == ["120"]


# Sessions


def test_no_session_is_kept(server: Server) -> None:
    for sql in ("SET max_block_size = 9", "USE system", "CREATE TEMPORARY TABLE mine (a Int8)"):
        reply = server.ask(sql, session_id="one")
        assert reply.status in (403, 501), (sql, reply.body)
    # A session that had "SET readonly = 1" would answer no client that comes with settings.
    for _ in range(2):
        asked = "SELECT getSetting('max_threads')"
        reply = server.ask(asked, session_id="one", session_check="1", max_threads="7")
        assert reply.body == b"7\n"


# clickhouse-connect


@pytest.mark.parametrize("compress", [False, True, "gzip", "zstd", "lz4"])
def test_clickhouse_connect_writes_and_reads(server: Server, compress: bool | str) -> None:
    client = client_of(server, compress=compress)
    client.command(
        "CREATE OR REPLACE TABLE every (a Int64, s LowCardinality(String), d DateTime('UTC'),"
        " f Nullable(Float64), l Array(UInt8)) ENGINE = MergeTree ORDER BY a"
    )
    names = ["a", "s", "d", "f", "l"]
    rows = [[1, "x", NOW, None, [1, 2]], [2, "y'\\\t\n", NOW, 2.5, []]]
    assert client.insert("every", rows, column_names=names).written_rows == 2
    frame = pl.DataFrame({"a": [3], "s": ["arrow"], "d": [NOW], "f": [0.5]})
    assert client.insert_arrow("every", frame.to_arrow()).written_rows == 1
    assert client.insert_df("every", frame.with_columns(a=4).to_pandas()).written_rows == 1
    assert client.raw_insert("every", ["a", "s"], b"5,raw\n", fmt="CSV").written_rows == 1
    query = client.query("SELECT * EXCEPT d, toUnixTimestamp(d) FROM every ORDER BY a LIMIT 2")
    assert query.result_rows == [
        (1, "x", None, [1, 2], int(NOW.timestamp())),
        (2, "y'\\\t\n", 2.5, [], int(NOW.timestamp())),
    ]
    assert client.query_arrow("SELECT a FROM every ORDER BY a")["a"].to_pylist() == [1, 2, 3, 4, 5]
    assert list(client.query_df("SELECT s FROM every ORDER BY a")["s"])[2:] == ["arrow"] * 2 + [
        "raw"
    ]
    many = pl.DataFrame({"a": pl.int_range(60_000, eager=True)})
    assert client.insert_arrow("every", many.to_arrow()).written_rows == 60_000
    with client.query_rows_stream("SELECT a FROM every") as stream:
        assert sum(1 for _ in stream) == 60_005
    assert client.command("SELECT count() FROM every") == 60_005
    assert client.command("SELECT a FROM every WHERE 0") == ""
    assert client.raw_query("SELECT 1 AS x", fmt="JSONEachRow") == b'{"x":1}\n'
    assert client.ping()
    client.command("DROP TABLE every")
    client.close()


def test_clickhouse_connect_binds_and_sets(server: Server) -> None:
    client = client_of(server)
    values = {"s": "a'b\\c\td\n", "l": ["p'q", "r\\s"], "d": NOW, "n": -4}
    found = client.query(
        "SELECT {s:String}, {l:Array(String)}, toUnixTimestamp({d:DateTime('UTC')}), {n:Int8}",
        parameters=values,
    )
    assert found.result_rows == [(values["s"], values["l"], int(NOW.timestamp()), -4)]
    # Parameters too long for a URL come as a multipart form.
    long = "é\r\n--x" * 20_000
    assert client.query("SELECT {s:String}", parameters={"s": long}).result_rows == [(long,)]
    asked = "SELECT getSetting('max_block_size')"
    assert client.query(asked, settings={"max_block_size": 77}).result_rows == [(77,)]
    assert client.query(asked).result_rows != [(77,)]
    assert client.query("SELECT 1 AS one LIMIT 0").column_names == ("one",)


@pytest.mark.parametrize(("sql", "code"), [("SELECT * FROM nope", 60), ("SELECT throwIf(1)", 395)])
def test_clickhouse_connect_raises_the_server_s_errors(
    server: Server, sql: str, code: int
) -> None:
    with pytest.raises(DatabaseError, match=f"Code: {code}") as raised:
        client_of(server).query(sql)
    assert raised.value.code == code


def test_many_clients_in_threads_and_processes(server: Server, table: str) -> None:
    program = (
        "import sys, clickhouse_connect\n"
        "c = clickhouse_connect.get_client(dsn=sys.argv[1])\n"
        "for n in range(5):\n"
        "    c.insert('t', [[n, 'process']] * 50, column_names=['a', 's'])\n"
        "    assert c.command('SELECT count() FROM t') > 0\n"
    )
    command = [sys.executable, "-c", program, server.url]
    others = [subprocess.Popen(command) for _ in range(2)]

    def work(_: int) -> None:
        client = client_of(server)
        for number in range(5):
            client.insert("t", [[number, "thread"]] * 50, column_names=["a", "s"])
            assert client.command("SELECT count() FROM t") > 0
            with pytest.raises(DatabaseError):
                client.query("SELECT * FROM nope")

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(work, range(6))) == [None] * 6
    assert [other.wait(60) for other in others] == [0, 0]
    found = server.rows("SELECT s, count() FROM t GROUP BY s ORDER BY s")
    assert found == ["process\t500", "thread\t1500"]
