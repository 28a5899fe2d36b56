"""The metrics of a worker: names as they are listed, counters that are right."""

from __future__ import annotations

import errno
import signal
import socket
from pathlib import Path

import pytest

from footfall.schemas import metrics
from footfall.schemas.status import PartitionStatus, WorkerStatus
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks.attempts import Attempts, code_of, server_of
from footfall.sinks.kafka import KafkaTopics
from footfall.sinks.topic_files import FileTopics
from footfall.streams.batch import Poll
from footfall.streams.monitor import PortTakenError, serving
from footfall.streams.progress import Counted, Progress, Spread
from footfall.streams.run import Monitoring
from footfall.streams.steps import StatelessStep
from footfall.streams.testing import DrivenStep
from tests.laws.worlds import BASE_MS, LAWS, Law
from tests.metrics_support import (
    Samples,
    expected,
    get,
    names_and_labels,
    scrape,
    targets,
    total,
)
from tests.ports_support import free_port
from tests.runner_support import fill, finish, partitions, statuses, wait_until, worker

NAME = "minute_buckets.0"


def running(home: Path) -> str:
    """Return the address of the worker's metrics, once it is ready."""
    wait_until(lambda: NAME in targets(home), "the worker serves its metrics")
    address = targets(home)[NAME]
    wait_until(lambda: get(address, "/readyz")[0] == 200, "the worker is ready")
    return address


def read_all(address: str, count: int) -> Samples:
    """Return a scrape once the worker has read so many records and has taken a snapshot since."""

    def has_read() -> bool:
        found = scrape(address)
        return (
            total(found, metrics.RECORDS_READ) == count and total(found, metrics.STATE_BYTES) > 0
        )

    wait_until(has_read, f"{count} records are counted")
    return scrape(address)


def accounted(samples: Samples) -> bool:
    """Tell whether read = used + filtered + late + dead in each partition."""
    return all(
        total(samples, metrics.RECORDS_READ, partition=one)
        == sum(
            total(samples, metric, partition=one)
            for metric in (
                metrics.RECORDS_USED,
                metrics.RECORDS_FILTERED,
                metrics.RECORDS_LATE,
                metrics.RECORDS_DEAD,
            )
        )
        for one in ("0", "1", "2")
    )


def test_a_worker_exposes_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, 0, 20_000)
    with worker(tmp_path) as process:
        address = running(tmp_path)
        lines = (tmp_path / "topics" / "user_tags").glob("?.jsonl")
        count = sum(path.read_bytes().count(b"\n") for path in lines)
        samples = read_all(address, count)
        wait_until(lambda: total(scrape(address), metrics.ROWS_WRITTEN) > 0, "rows are counted")
        listed = dict(expected(metrics.WORKER))
        found = names_and_labels(get(address, "/metrics")[1])
        # No sink of this worker has failed.
        for metric in (metrics.SINK_ERRORS, metrics.SINK_RETRIES):
            assert found.pop(metric.name) == (metric.kind, frozenset())
            del listed[metric.name]
        assert found == listed
        assert accounted(samples)
        assert total(samples, metrics.RECORDS_DEAD) > 0
        assert total(samples, metrics.RECORDS_DEAD, reason="not_json") > 0
        assert total(samples, metrics.RECORDS_LATE) > 0
        assert total(samples, metrics.NEXT_OFFSET) == count
        assert total(samples, metrics.STATE_ITEMS, kind="windows") > 0
        size = sum(path.stat().st_size for path in (tmp_path / "topics").glob("*/?.jsonl"))
        assert total(samples, metrics.READ_BYTES) == size
        assert get(address, "/healthz") == (200, "ok\n")
        assert get(address, "/other")[0] == 404
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert targets(tmp_path) == {}


def test_after_a_kill_counters_begin_at_0_and_account_for_every_record(tmp_path: Path) -> None:
    fill(tmp_path, 0, 20_000)
    with worker(tmp_path) as process:
        wait_until(lambda: any(one.read > 2_000 for one in partitions(tmp_path)), "it reads")
        address = running(tmp_path)
        before = scrape(address)
        assert accounted(before)
        process.kill()
    assert NAME in targets(tmp_path), "Prometheus sees that it is down"
    fill(tmp_path, 20_000, 5_000)
    ends = [path.read_bytes().count(b"\n") for path in (tmp_path / "topics").glob("*/?.jsonl")]
    with worker(tmp_path):
        wait_until(lambda: targets(tmp_path)[NAME] != address, "it serves again")
        again = running(tmp_path)

        def at_end() -> bool:
            return total(scrape(again), metrics.NEXT_OFFSET) == sum(ends)

        wait_until(at_end, "it has read all")
        after = scrape(again)
        # The status counts the flow's whole life, the counters this process alone.
        wait_until(lambda: sum(one.read for one in partitions(tmp_path)) == sum(ends), "told")
        assert 5_000 <= total(after, metrics.RECORDS_READ) < sum(ends)
        assert accounted(after)
        assert total(after, metrics.STARTS) == 2
        assert total(before, metrics.STARTS) == 1


def test_a_run_to_the_end_leaves_no_target_and_tells_its_starts(tmp_path: Path) -> None:
    fill(tmp_path, 0, 2_000)
    finish(tmp_path)
    finish(tmp_path)
    assert targets(tmp_path) == {}
    (status,) = statuses(tmp_path)
    assert status.starts == 2
    assert status.error == ""


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    fill(tmp_path, 0, 100)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with worker(tmp_path, "--once", f"--metrics-port={port}") as process:
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"METRICS_PORT: cannot serve /metrics on 127.0.0.1:{port} (Address already" in errors
    (status,) = statuses(tmp_path)
    assert str(port) in status.error


def test_a_port_that_is_given_counts_up_by_worker() -> None:
    assert [Monitoring(port=9_100).port_of(index) for index in (0, 2)] == [9_100, 9_102]
    assert Monitoring().port_of(3) == 0


def test_ready_says_why_not() -> None:
    why = "starting"
    with serving("127.0.0.1", 0, [], why_not_ready=lambda: why) as port:
        assert get(f"127.0.0.1:{port}", "/readyz") == (503, "starting\n")
        why = ""
        assert get(f"127.0.0.1:{port}", "/readyz") == (200, "ok\n")
        with pytest.raises(PortTakenError, match=str(port)), serving("127.0.0.1", port, []):
            pass


def test_a_spread_counts_into_buckets_as_prometheus_does() -> None:
    spread = Spread((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        spread.add(value)
    assert spread.buckets() == [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)]
    assert spread.total == pytest.approx(7.65)


def test_what_is_read_is_of_one_moment() -> None:
    progress = Progress()
    status = PartitionStatus("t", 0, 0, 0, 0, 0, 0, 0, 0, -1)
    progress.update(status, Counted(read=3, used=2, dead=1, size_bytes=30))
    found = progress.counted()
    progress.update(status, Counted(read=2, used=2, size_bytes=20))
    assert (found["t", 0].read, found["t", 0].size_bytes) == (3, 30)
    assert progress.counted()["t", 0].read == 5


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_what_each_flow_holds_is_told_by_kinds_that_are_listed(law: Law) -> None:
    reading = law.reading()
    step = DrivenStep(reading.step)
    lines = b"".join(law.event(BASE_MS + 500 * number, number) + b"\n" for number in range(100))
    poll = Poll(law.topic, 0, 0, lines, 100, 0, BASE_MS, agreeing=1)
    step.on_batch(reading.records.decode(law.flow, poll))
    step.snapshot()
    held = step.step.holds
    assert held.keys() <= set(metrics.HELD_KINDS)
    if not isinstance(step.step, StatelessStep):
        assert sum(held.values()) > 0


def test_codes_and_servers_are_bounded() -> None:
    attempts = Attempts()
    attempts.failed(
        "ClickHouse at http://h:1, table t", ConnectionError("refused"), is_passing=True
    )
    attempts.again("ClickHouse at http://h:1, table t")
    attempts.failed("postgresql://h/db", ValueError("column"), is_passing=False)
    failed, again = attempts.read()
    assert failed == {("clickhouse", "connection"): 1, ("postgresql", "refused"): 1}
    assert again == {"clickhouse": 1}
    assert code_of(TimeoutError("read timed out")) == "timeout"
    assert code_of(ValueError("too many parts")) == "server"
    assert server_of("/home/shop/profiles.sqlite") == "sqlite"
    assert {code for _, code in failed} <= {*metrics.SINK_CODES}


def test_a_status_of_before_is_still_read() -> None:
    assert WorkerStatus("f", 0, 1, 2, 0.0, 0, 0, False, []).starts == 1


def test_writes_to_topics_that_fail_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts()
    monkeypatch.setattr("footfall.sinks.topic_files.ATTEMPTS", attempts)
    monkeypatch.setattr("footfall.sinks.kafka.ATTEMPTS", attempts)
    files = FileTopics(tmp_path)
    files.write("user_tags", [(b"k", b"{}")])
    assert attempts.read() == ({}, {})
    with pytest.raises(SinkRefusedError):
        files.write("nobody_knows", [(b"k", b"{}")])
    with pytest.raises(SinkRefusedError):
        files.write_each([("user_tags", 99, [b"{}"])])
    monkeypatch.setattr("footfall.sinks.topic_files.PartitionFile.append", fail_on_a_full_disk)
    with pytest.raises(SinkUnavailableError):
        files.write("user_tags", [(b"k", b"{}")])
    failed, again = attempts.read()
    assert (failed, again) == ({("files", "refused"): 2, ("files", "server"): 1}, {})

    kafka = KafkaTopics(f"127.0.0.1:{free_port()}", give_up_after_s=1.5)
    with pytest.raises(SinkUnavailableError):
        kafka.write("user_tags", [(b"k", b"{}")])
    kafka.close()
    failed, again = attempts.read()
    of_kafka = {code: number for (server, code), number in failed.items() if server == "kafka"}
    assert of_kafka["connection"] >= 1, "what the client tried by itself"
    assert sum(of_kafka.values()) == again["kafka"] + 1, "the last one was not made again"


def fail_on_a_full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
