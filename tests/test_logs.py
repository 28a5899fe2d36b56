"""Logs of long-lived processes: one shape, no secret, no payload, and where things went wrong."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from footfall.flows import store_metrics
from footfall.infra.logs import JsonLines, PlainLines, footfall_version, log_start, shown_settings
from footfall.schemas.settings import read_settings
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.sinks.open import open_topics
from footfall.streams import process as streams_process
from footfall.streams.batch import Batch, Poll
from footfall.streams.log_lines import Since, log_begin, log_failure, note_offsets, offsets_text
from footfall.streams.process import native_messages_in
from footfall.streams.progress import Counted, Counts, Progress
from footfall.streams.testing import run_flow
from tests.cli_support import environment, footfall, one_line, running
from tests.runner_support import wait_until

PAYLOAD = "sold-for-love"
ROW = {
    "event_time": "2019-10-01 00:00:00 UTC",
    "event_type": "purchase",
    "product_id": 1,
    "category_id": 2,
    "price": 35.79,
    "user_id": 3,
}
FLOW = "login_alerts"
STEP = {
    "action": "LoginReq",
    "commonData": {
        "time": "2022-03-22T12:15:00Z", "userId": 3, "requestId": "a1", "serverName": "Login"
    },
    "data": {"said": PAYLOAD},
}  # fmt: skip


def lines_of(text: str) -> list[dict[str, Any]]:
    """Return the lines of a log, without what is said to the person who runs the command."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def messages(text: str) -> list[str]:
    return [line["message"] for line in lines_of(text)]


def test_a_line_has_its_process_and_what_it_was_given() -> None:
    formatter = JsonLines({"process": "f/1", "flow": "f"})
    record = logging.makeLogRecord(
        {"name": "streams.x", "levelno": 30, "levelname": "WARNING", "msg": "%s is\nlate",
         "args": ("it",), "created": 0.25, "topic": "t", "offset": 7}
    )  # fmt: skip
    text = formatter.format(record)
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "1970-01-01T00:00:00.250Z", "level": "warning", "logger": "streams.x",
        "process": "f/1", "flow": "f", "message": "it is\nlate", "topic": "t", "offset": 7,
    }  # fmt: skip
    plain = PlainLines("f/1").format(record)
    assert plain.startswith("1970-01-01T00:00:00.250Z WARNING f/1: it is")


def test_no_secret_is_among_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2"
    settings = read_settings(
        {
            "TOPICS_URL": "kafka://broker:9092",
            "CLICKHOUSE_URL": f"https://bob:{secret}@ch:8443/d",
            "POSTGRES_URL": f"postgresql://bob:{secret}@pg/d",
            "KAFKA_GROUP": "eu",
        }
    )
    assert secret not in json.dumps(shown_settings(settings))
    with caplog.at_level(logging.INFO):
        log_start(logging.getLogger("footfall.cli"), settings, read_settings({}))
    (said,) = caplog.messages
    assert f"started: footfall {footfall_version()}, process {os.getpid()}; " in said
    for part in ("topics_url=kafka://...", "clickhouse_url=https://...", "kafka_group=eu"):
        assert part in said
    assert "frontend_port" not in said, "those that are as always are not told in words"
    assert secret not in said


def test_offsets_are_told_by_topic(caplog: pytest.LogCaptureFixture) -> None:
    offsets = {("b", 1): 44, ("b", 0): 12, ("a", 0): 7}
    assert offsets_text(offsets) == "a 0:7, b 0:12 1:44"
    with caplog.at_level(logging.INFO):
        log_begin(offsets, {("b", 2): 0})
    assert caplog.messages == ["resumed at a 0:7, b 0:12 1:44", "begins at b 2:0"]
    assert vars(caplog.records[0])["offsets"] == {"a/0": 7, "b/0": 12, "b/1": 44}


def test_a_line_tells_what_was_read_since_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    progress, now_s = Progress(), 100.0
    poll = Poll("t", 0, 0, b"", 0, 5, 0)

    def read(count: int) -> None:
        progress.update(Counts(read=count).status(poll, 0), Counted(read=count, used=count))

    read(1_000)
    since = Since(progress, 30, lambda: now_s)
    with caplog.at_level(logging.INFO):
        now_s = 129.0
        since.tick()
        assert caplog.messages == []
        read(3_000)
        progress.wrote("rows", 12)
        now_s = 130.0
        since.tick()
        now_s = 160.0
        since.tick()
    assert caplog.messages == [
        "read 3,000 records in 30 s (100.0/s): 3,000 used, 0 filtered, 0 late, 0 dead; wrote 12 "
        "rows; 5 left to read",
        "read 0 records in 30 s (0.0/s): 0 used, 0 filtered, 0 late, 0 dead; wrote 0 rows; 5 left "
        "to read",
    ]


@pytest.mark.parametrize("broken", ["decode", "step"])
def test_an_error_tells_at_which_records(
    broken: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Batch:
        raise ZeroDivisionError("oops")

    target = {
        "decode": "footfall.streams.decode.Records.decode",
        "step": "footfall.streams.steps.WindowStep.on_batch",
    }[broken]
    monkeypatch.setattr(target, fail)
    with pytest.raises(Exception) as raised:
        run_flow(store_metrics.FLOW.dataflow, [ROW] * 3)
    error: BaseException = raised.value
    while error.__cause__ is not None:
        error = error.__cause__
    note_offsets(error, Progress())
    log_failure(error)
    assert caplog.messages == ["failed: oops (at memory/0, offsets 0 to 2)"]
    fields = vars(caplog.records[0])
    assert (fields["topic"], fields["partition"], fields["offset"]) == ("memory", 0, 0)


def test_an_error_of_no_poll_tells_how_far_was_read(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    progress.update(Counts().status(Poll("t", 1, 41, b"\n", 1, 0, 0), 0))
    error = OSError("no room")
    note_offsets(error, progress)
    log_failure(error)
    assert caplog.messages == ["failed: no room (had read to t 1:42)"]


def test_native_messages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_process, "NATIVE_BYTES_MAX", 10_000)
    path = tmp_path / "logs" / "f.native.log"
    with native_messages_in(path, 0.01):
        for number in range(3):
            os.write(2, b"%d" % number * 20_000)
            wait_until(lambda: path.stat().st_size == 0, "the log is cut")
        os.write(2, b"last")
    assert path.read_bytes() == b"last"
    assert path.with_suffix(".log.1").read_bytes() == b"2" * 20_000
    with native_messages_in(path):
        pass
    assert path.read_bytes() == b"last"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    settings = read_settings({"FOOTFALL_HOME": str(home)})
    writer = open_topics(settings)
    writer.write(PLATFORM_LOGS.name, [(b"3", json.dumps(STEP).encode())] * 5)
    writer.close()
    return home


def test_a_worker_logs_its_life_and_no_payload(home: Path) -> None:
    first = footfall(home, "run", FLOW, "--once")
    assert first.returncode == 0, first.stderr
    started, begins, stopped = messages(first.stderr)
    assert started.startswith(f"started: footfall {footfall_version()}, process ")
    assert begins.startswith("begins at platform_logs 0:0 1:0")
    assert stopped.startswith("stopped: all there was is read; read to platform_logs ")
    assert all(line["flow"] == FLOW for line in lines_of(first.stderr))
    again = footfall(home, "run", FLOW, "--once", LOG_FORMAT="plain")
    assert lines_of(again.stderr) == []
    assert "INFO login_alerts/0: start 2 of this worker\n" in again.stderr
    assert "INFO login_alerts/0: resumed at platform_logs " in again.stderr
    assert ":5" in again.stderr
    quiet = footfall(home, "run", FLOW, "--once", LOG_LEVEL="error")
    assert quiet.stderr == ""
    for result in (first, again):
        assert result.stdout == ""
        assert PAYLOAD not in result.stderr


def test_a_worker_that_fails_logs_why_and_says_it(home: Path) -> None:
    assert footfall(home, "run", FLOW, "--once").returncode == 0
    shutil.rmtree(home / "topics" / PLATFORM_LOGS.name)
    writer = open_topics(read_settings({"FOOTFALL_HOME": str(home)}))
    writer.write(PLATFORM_LOGS.name, [(b"3", b"{}")])
    writer.close()
    result = footfall(home, "run", FLOW, "--once")
    said = one_line(result).removeprefix("footfall: ")
    last = lines_of(result.stderr)[-1]
    assert (last["level"], last["flow"]) == ("error", FLOW)
    assert last["message"].startswith(f"failed: {said}")
    assert "platform_logs was deleted and made again" in said


def test_api_and_observer_log_their_life(tmp_path: Path) -> None:
    for command in (["api", "--port", "0"], ["observe"]):
        with running(tmp_path / "home", *command) as process:
            process.wait_for_text("http://127.0.0.1:")
            process.wait_for_text("started: footfall")
            assert process.end(signal.SIGTERM) == 0
        started, stopped = lines_of(process.output())
        assert started["process"] == command[0]
        assert started["settings"]["clickhouse_url"] == "http://..."
        assert stopped["message"] == "stopped: it was told to"


def test_on_a_terminal_lines_are_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from footfall.infra.logs import set_up_logs

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = logging.getLogger().handlers[:]
    try:
        set_up_logs(read_settings(environment(tmp_path)), "api")
        logging.getLogger("footfall.api").info("hello")
        set_up_logs(read_settings(environment(tmp_path, {"LOG_FORMAT": "json"})), "api")
        logging.getLogger("footfall.api").info("hello")
        logging.getLogger("urllib3").info("not ours")
    finally:
        logging.getLogger().handlers[:] = before
    plain, as_json = terminal.getvalue().splitlines()
    assert plain.endswith(" INFO api: hello")
    assert json.loads(as_json)["message"] == "hello"
