"""The embedded ClickHouse as a process: its starts that fail, its ends, and what is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from footfall.schemas import metrics
from tests.cli_support import free_port, running
from tests.clickhouse_support import ENDLESS, ROOT, refusal, request, serving
from tests.metrics_support import expected, get, names_and_labels, scrape, targets, total
from tests.runner_support import wait_until


def test_a_kill_loses_no_acknowledged_insert(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    with serving(tmp_path / "data") as first:
        first.rows("CREATE TABLE k (n Int64, s String) ENGINE = MergeTree ORDER BY n")
        first.rows("CREATE DATABASE other")

        def insert(worker: int) -> None:
            for number in range(worker, 10**9, 4):
                body = b"".join(b"%d,%d\n" % (number, row) for row in range(1_000))
                try:
                    reply = first.ask("INSERT INTO k FORMAT CSV", body)
                except OSError:
                    return
                assert reply.status == 200
                acknowledged.append(number)

        threads = [threading.Thread(target=insert, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 40:
            time.sleep(0.01)
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join(30)
    with serving(tmp_path / "data") as second:
        lines = second.rows("SELECT n, count(), uniqExact(s) FROM k GROUP BY n")
        found = {int(line.split("\t")[0]): line.split("\t")[1:] for line in lines}
        assert set(acknowledged) <= set(found)
        assert all(counts == ["1000", "1000"] for counts in found.values())
        assert second.ask("SELECT currentDatabase()", database="other").body == b"other\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_in_the_middle_of_a_query(tmp_path: Path, number: int) -> None:
    with serving(tmp_path / "data") as running, ThreadPoolExecutor(1) as other:
        asked = other.submit(running.ask, ENDLESS)
        while running.rows("SELECT count() FROM system.processes") == ["1"]:
            time.sleep(0.01)
        assert running.stop(number) == 0
        assert asked.result().headers["x-clickhouse-exception-code"] == "394"
        assert running.process.stderr is not None
        assert running.process.stderr.read() == ""


def test_a_folder_in_use_is_refused_until_its_owner_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as owner:
        code, error = refusal(tmp_path / "data")
        assert (code, error.count("\n")) == (2, 1)
        assert f"the folder {tmp_path / 'data'} is in use" in error
        owner.stop(signal.SIGKILL)
        with serving(tmp_path / "data") as heir:
            assert heir.rows("SELECT 1") == ["1"]


def test_a_taken_port_is_refused_and_nothing_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = refusal(tmp_path / "data", port=taken.getsockname()[1])
    assert (code, error.count("\n")) == (2, 1)
    assert "taken by another process" in error
    assert "--port" in error
    assert not (tmp_path / "data" / "engine").exists()


def test_what_cannot_be_a_folder_or_a_port_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/footfall")):
        code, error = refusal(folder)
        assert (code, error.count("\n")) == (2, 1)
        assert str(folder) in error
    for port in (-1, 70_000):
        code, error = refusal(tmp_path / "data", port=port)
        assert (code, f"{port} is not within 0 to 65535" in error) == (2, True)


def test_a_missing_engine_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "chdb.py").write_text("raise ImportError('No module named chdb')")
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "footfall.infra.embedded_clickhouse",
            "--folder",
            str(tmp_path / "data"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.endswith("not installed: pip install footfall[embedded]\n")


def test_the_memory_limit_is_the_one_given(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--memory-mb", "700") as running:
        asked = "SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'"
        assert running.rows(asked) == ["700000000"]


def test_it_tells_prometheus_of_queries_by_how_they_end(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    with running(home, "clickhouse", "--port", str(port)) as server:
        server.wait_for_text("ClickHouse at http://127.0.0.1")
        wait_until(lambda: "clickhouse" in targets(home), "its target is written")
        address = targets(home)["clickhouse"]
        key = (home / "clickhouse" / "password").read_text().strip()

        def ask(sql: str, password: str = key) -> int:
            headers = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": password}
            url = f"http://127.0.0.1:{port}"
            return request(url, "POST", "/", sql.encode(), headers).status

        assert names_and_labels(get(address, "/metrics")[1]) == expected(metrics.CLICKHOUSE)
        assert ask("CREATE TABLE t (n Int32) ENGINE = MergeTree ORDER BY n") == 200
        assert ask("INSERT INTO t SELECT number FROM numbers(7)") == 200
        assert ask("INSERT INTO t VALUES (1), (2)") == 200
        assert ask("SELECT nothing FROM t") == 404
        assert ask("SELECT 1", "wrong") == 403
        found = scrape(address)
        outcomes = {
            outcome: total(found, metrics.CLICKHOUSE_QUERIES, outcome=outcome)
            for outcome in metrics.QUERY_OUTCOMES
        }
        assert outcomes == {"ok": 3, "failed": 1, "refused": 1, "gone": 0}
        assert total(found, metrics.CLICKHOUSE_ROWS_INSERTED) == 9
        count = f"{metrics.CLICKHOUSE_QUERY_SECONDS.name}_count"
        assert found[count, frozenset()] == 4, "what was refused took no time"
        assert server.end(signal.SIGTERM) == 0
    assert targets(home) == {}
