"""The embedded ClickHouse of a home is asked by our own commands, curl and a BI tool."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from footfall.api.clickhouse import ClickHouse
from footfall.cli.doctor.command import examine
from footfall.cli.doctor.findings import Finding
from footfall.schemas.database_addresses import ClickHouseAddress
from footfall.schemas.embedded_clickhouse import own_headers, running_address
from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.sinks import SinkRefusedError
from footfall.sinks.clickhouse import ClickHouseReader, create_tables, query_rows
from tests.cli_support import footfall, free_port, running
from tests.clickhouse_support import request, serving

PASSWORD = "p-ss_w0rd"


def recorded(home: Path, url: str) -> IO[str]:
    """Leave what a server of this home leaves; it runs until the file is closed."""
    folder = home / "clickhouse"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text(f"{PASSWORD}\n")
    address = (folder / "address").open("w")
    address.write(f"{url}\n")
    address.flush()
    fcntl.flock(address, fcntl.LOCK_EX)
    return address


def password_in(headers: dict[str, str]) -> str:
    return base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()


def headers_at(home: Path | None, host: str, port: int) -> dict[str, str]:
    return own_headers(home, ClickHouseAddress("http", host, port))


def test_the_password_goes_to_the_recorded_address_alone(tmp_path: Path) -> None:
    with recorded(tmp_path, "http://127.0.0.1:8123"):
        assert running_address(tmp_path / "clickhouse") == "http://127.0.0.1:8123"
        assert password_in(headers_at(tmp_path, "127.0.0.1", 8123)) == f"default:{PASSWORD}"
        for host, port in (
            *(("127.0.0.1", 8124), ("127.0.0.1", 443), ("localhost", 8123)),
            *(("clickhouse.example", 8123), ("127.0.0.1.example", 8123), ("", 0)),
        ):
            assert headers_at(tmp_path, host, port) == {}
        assert headers_at(None, "127.0.0.1", 8123) == {}
        assert headers_at(tmp_path / "other", "127.0.0.1", 8123) == {}
        (tmp_path / "clickhouse" / "password").write_text("renewed\n")
        assert password_in(headers_at(tmp_path, "127.0.0.1", 8123)) == "default:renewed"
    # Whatever listens there now, it is not our server.
    assert running_address(tmp_path / "clickhouse") is None
    assert headers_at(tmp_path, "127.0.0.1", 8123) == {}


@contextmanager
def stranger() -> Iterator[tuple[int, list[str]]]:
    """Yield a server that writes down all that it is told, and says that it is a ClickHouse."""
    told: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append(f"{self.path} {self.headers} {body!r}")
            self.send_response(404)
            self.send_header("X-ClickHouse-Exception-Code", "60")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, told
        server.shutdown()


def test_another_server_never_learns_it(tmp_path: Path) -> None:
    async def ask_as_the_api(url: str) -> None:
        clickhouse = ClickHouse(url, tmp_path)
        with pytest.raises(SinkRefusedError):
            await clickhouse.rows("SELECT 1")
        await clickhouse.close()

    with stranger() as (port, told), recorded(tmp_path, f"http://127.0.0.1:{port}") as running_one:
        url = f"http://127.0.0.1:{port}"

        def ask() -> str:
            told.clear()
            with pytest.raises(SinkRefusedError):
                query_rows(url, "SELECT 1", home=tmp_path)
            asyncio.run(ask_as_the_api(url))
            assert len(told) >= 2
            return "".join(told)

        kept = base64.b64encode(f"default:{PASSWORD}".encode()).decode()
        assert ask().count(kept) == len(told)
        running_one.close()
        heard = ask()
        assert kept not in heard
        assert PASSWORD not in heard
        # A user in the URL is that of another server, wherever it listens.
        with recorded(tmp_path, url):
            url = f"http://bob:his@127.0.0.1:{port}"
            assert kept not in ask()


def test_a_reader_goes_on_when_the_password_is_renewed(tmp_path: Path) -> None:
    folder, port = tmp_path / "clickhouse", free_port()
    reader = ClickHouseReader(f"http://127.0.0.1:{port}", home=tmp_path)
    for options in ([], ["--new-password"], ["--new-password"]):
        with serving(folder, *options, port=port):
            assert reader.rows("SELECT currentDatabase()")[1] == [["footfall"]]
    reader.close()


def test_a_home_is_all_that_our_commands_need_and_curl_has_its_line(tmp_path: Path) -> None:
    home, port = tmp_path / "a home", free_port()
    url = f"http://127.0.0.1:{port}"
    with running(home, "clickhouse", "--port", str(port)) as server:
        server.wait_for_text("curl")
        password = (home / "clickhouse" / "password").read_text().strip()
        # What the environment names is this very server.
        assert footfall(home, "init", CLICKHOUSE_URL=url).returncode == 0
        asked = footfall(home, "query", "--format", "json", "SELECT 1 AS x")
        assert (asked.returncode, json.loads(asked.stdout)) == (0, [{"x": 1}])
        elsewhere = footfall(tmp_path / "other", "query", "SELECT 1", CLICKHOUSE_URL=url)
        assert elsewhere.returncode == 1
        assert "clickhouse/password of its FOOTFALL_HOME" in elsewhere.stderr
        line = server.output().splitlines()[-1]
        assert password not in server.output()
        said = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, timeout=60, check=True
        )
        assert "minute_buckets\n" in said.stdout
    with running(home, "clickhouse", "--port", str(port), "--new-password") as server:
        server.wait_for_text("curl")
        wrong = {"X-ClickHouse-Key": password}
        assert request(url, "GET", "/?query=SELECT+1", None, wrong).status == 403
        assert footfall(home, "query", "SELECT 1").returncode == 0
        again = footfall(home, "clickhouse", "--port", str(free_port()), "--new-password")
        assert "in use by another embedded ClickHouse" in again.stderr
        assert footfall(home, "query", "SELECT 1").returncode == 0
        assert (home / "run" / "clickhouse.json").stat().st_mode & 0o077 == 0


def test_a_bi_tool_reflects_tables_and_views_and_reads_them(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        create_tables(server.url, [ROWS, VIEW])
        server.rows(
            f"INSERT INTO {ROWS.name} (* EXCEPT (is_deleted, appended_ms))"
            " SELECT toDateTime(number, 'UTC'), 'VIEW', 'o', 'b', 'c', 'tags', 0, number,"
            " 2 * number, 4 FROM numbers(1, 3)"
        )
        address = urlsplit(server.url)
        engine = sqlalchemy.create_engine(f"clickhousedb://{address.netloc}/footfall")
        found = sqlalchemy.inspect(engine)
        assert "footfall" in found.get_schema_names()
        assert found.get_table_names() == [VIEW.name, ROWS.name]
        assert found.get_view_names() == [VIEW.name]
        assert found.has_table(ROWS.name) and not found.has_table("nope")
        names = [column["name"] for column in found.get_columns(VIEW.name)]
        assert names[:2] == ["bucket", "action"]
        metadata = sqlalchemy.MetaData()
        metadata.reflect(engine, views=True)
        assert set(metadata.tables) == {ROWS.name, VIEW.name}
        view = metadata.tables[VIEW.name]
        with engine.connect() as connection:
            asked = sqlalchemy.select(
                view.c.action, sqlalchemy.func.sum(view.c["count"]).label("views")
            ).where(view.c.origin == "o").group_by(view.c.action).limit(10)  # fmt: skip
            assert connection.execute(asked).all() == [("VIEW", 6)]
            bound = sqlalchemy.text("SELECT max(sum_price) FROM minute_buckets WHERE action = :a")
            assert connection.execute(bound, {"a": "VIEW"}).scalar() == 6
            with pytest.raises(sqlalchemy.exc.DatabaseError, match="Not run by the embedded"):
                connection.execute(sqlalchemy.text("SELECT file('/etc/passwd')"))
        engine.dispose()


def test_one_that_runs_and_does_not_answer_is_told_by_doctor(tmp_path: Path) -> None:
    def of_doctor() -> Finding:
        found = examine({"FOOTFALL_HOME": str(tmp_path)}, within_s=30)
        return next(one for one in found if one.check == "ClickHouse")

    with recorded(tmp_path, "http://127.0.0.1:1"):
        told = of_doctor()
        assert told.level == "fail"
        assert told.found.endswith("runs at http://127.0.0.1:1 and does not answer")
    told = of_doctor()
    assert told.level == "ok" and "not running" in told.found
