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

from tests.clickhouse_support import ENDLESS, ROOT, refusal, serving


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
        [sys.executable, "-m", "infra.embedded_clickhouse", "--folder", str(tmp_path / "data")],
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
