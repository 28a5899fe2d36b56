"""Facts of flows, decided from statuses and topics' ends; also of real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from footfall.operations import looking
from footfall.operations.flow_facts import FlowFacts, flows_now
from footfall.operations.observer import Look, Observer, ObserverCollector, StartsCounter
from footfall.operations.topic_ends import file_appended_ms
from footfall.schemas import metrics
from footfall.schemas.settings import read_settings
from footfall.schemas.status import PartitionStatus, WorkerStatus, status_folder
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import ROOT, footfall, free_port, running
from tests.metrics_support import expected, get, names_and_labels, scrape, targets, total
from tests.runner_support import fill, partitions, wait_until, worker

NOW_MS = 1_000_000
RUNS, DEAD = 10, 11


def part(number: int, next_offset: int, **more: Any) -> PartitionStatus:
    given = {"topic": "t", "lag": 0, "watermark_ms": 5_000, **more}
    return PartitionStatus(
        partition=number, read=0, used=0, filtered=0, late=0, dead=0, next_offset=next_offset,
        **given,
    )  # fmt: skip


def status(*parts: PartitionStatus, age_ms: int = 500, **more: Any) -> WorkerStatus:
    given: dict[str, Any] = {
        "flow": "f", "worker": 0, "pid": RUNS, "finished": False, "workers": 1, "started_ms": 10,
        "rows_per_s": 7.0, "read_per_s": 9.0, **more,
    }  # fmt: skip
    return WorkerStatus(
        updated_ms=NOW_MS - age_ms, cpu_s=0, memory_bytes=0, rows_written=0,
        partitions=list(parts), **given,
    )  # fmt: skip


def facts_of(
    *statuses: WorkerStatus, ends: dict[str, Any] | None = None, **more: Any
) -> list[FlowFacts]:
    """Return the facts of flows; records were appended at 1,000 ms for each offset."""
    return flows_now(
        statuses,
        more.get("groups", {}),
        {"t": {0: (0, 100), 1: (0, 50)}} if ends is None else ends,
        {"f": ("t",)},
        NOW_MS,
        is_alive=lambda pid: pid == RUNS,
        appended_ms=more.get("appended_ms", lambda _topic, _part, offset: 1_000 * offset),
    )


def fact_of(*statuses: WorkerStatus, **more: Any) -> FlowFacts:
    (found,) = facts_of(*statuses, **more)
    return found


def test_a_worker_that_was_killed_has_the_lag_that_the_topic_shows() -> None:
    # Its own word was "lag 0".
    found = fact_of(status(part(0, 90), part(1, 50), pid=DEAD, age_ms=4_000))
    assert [(place.lag, place.age_s) for place in found.places] == [(10, 910.0), (0, 0.0)]
    assert (found.lag, found.age_s, found.running, found.wanted) == (10, 910.0, 0, 1)
    assert (found.state, found.trouble) == ("stopped", "behind, without a worker")
    assert found.rows_per_s == 0


def test_a_worker_that_runs_is_no_trouble_however_far_it_is_behind() -> None:
    found = fact_of(status(part(0, 0), part(1, 0)))
    assert (found.lag, found.state, found.trouble) == (150, "running", "")
    assert (found.rows_per_s, found.watermark_ms) == (7.0, 5_000)


def test_a_worker_that_runs_and_reads_nothing_of_what_waits_is_a_trouble() -> None:
    stuck = fact_of(status(part(0, 0), part(1, 0), read_per_s=0.0))
    assert (stuck.state, stuck.trouble) == ("running", "behind, and does not read")
    begun = status(part(0, 0), part(1, 0), read_per_s=0.0, started_ms=NOW_MS - 29_000)
    assert fact_of(begun).trouble == ""
    young = fact_of(
        status(part(0, 0), read_per_s=0.0), appended_ms=lambda *_place: NOW_MS - 29_000
    )
    assert young.trouble == ""


@pytest.mark.parametrize(
    ("more", "state", "trouble"),
    [
        ({"pid": DEAD, "age_ms": 2_900}, "running", ""),  # perhaps in a container
        ({"age_ms": 14_000}, "running", ""),
        ({"age_ms": 16_000}, "stopped", ""),  # a process has its id, and does not report
        ({"pid": DEAD, "age_ms": 4_000}, "stopped", ""),
        ({"finished": True, "age_ms": 10**6}, "finished", ""),
        (
            {"pid": DEAD, "age_ms": 4_000, "error": "disk full", "error_ms": 99},
            "stopped",
            "failed",
        ),
        ({"error": "disk full", "error_ms": 9}, "running", ""),  # it was started again since
    ],
)
def test_the_states_of_a_flow_at_the_end(more: dict[str, Any], state: str, trouble: str) -> None:
    found = fact_of(status(part(0, 100), part(1, 50), **more))
    assert (found.lag, found.state, found.trouble) == (0, state, trouble)
    assert found.error == ("disk full" if trouble == "failed" else "")


def test_one_of_two_workers_is_missing() -> None:
    two = (
        status(part(0, 100), workers=2),
        status(part(1, 50), worker=1, workers=2, pid=DEAD, age_ms=4_000),
    )
    found = fact_of(*two)
    assert (found.state, found.trouble) == ("degraded", "a worker is missing")
    assert (found.running, found.wanted) == (1, 2)


def test_a_file_of_an_earlier_number_of_workers_is_no_worker() -> None:
    old = status(part(1, 50), worker=1, workers=2, pid=DEAD, age_ms=90_000)
    assert fact_of(status(part(0, 100), workers=1), old).state == "running"


def test_a_partition_that_nobody_has_read_is_waiting() -> None:
    found = fact_of(status(part(0, 100)))
    assert [(one.partition, one.lag) for one in found.places] == [(0, 0), (1, 50)]
    # Killed before its first poll.
    assert fact_of(status()).lag == 150


def test_what_retention_removed_is_lost_and_no_lag() -> None:
    ends = {"t": {0: (40, 100)}}
    found = fact_of(status(part(0, 10)), ends=ends)
    assert [(one.lost, one.lag, one.age_s) for one in found.places] == [(30, 60, 960.0)]
    assert found.trouble == "lost records"


def test_a_consumer_group_tells_of_a_flow_without_a_home() -> None:
    found = fact_of(groups={"f": {("t", 0): 90, ("t", 1): 50}})
    assert (found.lag, found.age_s, found.state, found.trouble) == (10, 910.0, "elsewhere", "")
    # The status of a worker that read on after it committed is further.
    both = fact_of(status(part(0, 95), part(1, 50)), groups={"f": {("t", 0): 90}})
    assert both.lag == 5


def test_an_age_that_nobody_knows_is_not_0() -> None:
    found = fact_of(status(part(0, 90), part(1, 50)), appended_ms=lambda *_place: None)
    assert [one.age_s for one in found.places] == [None, 0.0]


def test_topics_that_do_not_answer_leave_the_workers_word() -> None:
    assert fact_of(status(part(0, 90, lag=3)), ends={}).lag == 3


def exposed(collector: ObserverCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_the_observer_exposes_what_is_listed_and_nothing_else() -> None:
    ends = {"t": {0: (0, 100)}, "dead_letters": {0: (2, 5)}, "late_events": {0: (0, 0)}}
    flows = facts_of(status(part(0, 90)), ends=ends)
    look = Look(NOW_MS, flows, ends, disk_bytes=(30, 100), starts={("f", 0): 3})
    collector = ObserverCollector(lambda: look)
    collector.looking.look_once()
    text = exposed(collector)
    assert names_and_labels(text) == expected(metrics.OBSERVER)
    assert 'footfall_lag_seconds{flow="f",partition="0",topic="t"} 910.0' in text
    assert 'footfall_letters_records{topic="dead_letters"} 3.0' in text
    assert "footfall_home_free_bytes 30.0" in text
    assert 'footfall_worker_starts_observed_total{flow="f",worker="0"} 3.0' in text


def test_starts_are_counted_from_one_look_to_the_next() -> None:
    counter = StartsCounter()

    def count(*statuses: WorkerStatus) -> list[int]:
        return list(counter.count(statuses).values())

    assert count(status(starts=7), status(worker=1)) == [0, 0]
    assert count(status(starts=7, age_ms=0), status(worker=1, pid=DEAD)) == [0, 1]
    # Three times between two looks; and a file that was removed meanwhile.
    assert count(status(starts=10, started_ms=20)) == [3, 1]
    assert count(status(starts=1, started_ms=30)) == [4, 1]
    assert count(status(starts=2, started_ms=40, finished=True)) == [5, 1]
    # By a timer, say, after it had read to the end.
    assert count(status(starts=3, started_ms=50)) == [5, 1]
    assert count(status(starts=4, started_ms=60)) == [6, 1]


def test_an_observer_that_sees_nothing_says_so_and_stays() -> None:
    def fails() -> Look:
        raise OSError("the folder went away")

    collector = ObserverCollector(fails)
    assert collector.looking.problem
    collector.looking.look_once()
    assert collector.looking.problem == "the folder went away"
    assert "footfall_observer_errors_total 1.0" in exposed(collector)


def test_the_log_tells_of_the_flows_only_while_they_are_seen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(looking, "LOG_EVERY_S", 0.0)
    caplog.set_level("INFO")
    looks = iter((Look(NOW_MS), OSError("the folder went away")))

    def look() -> Look:
        found = next(looks)
        if isinstance(found, OSError):
            raise found
        return found

    collector = ObserverCollector(look, every_s=0.0)
    collector.looking.start()
    wait_until(lambda: collector.looking.errors > 1, "no look is left")
    collector.looking.close()
    seen, broke, blind, *_ = [record.getMessage() for record in caplog.records]
    assert seen == "0 flows, 0 in trouble"
    assert broke == "cannot look at the flows: the folder went away"
    assert blind == "sees nothing of the flows: the folder went away"
    assert "0 flows" not in caplog.text.replace(seen, "", 1)


def test_topics_that_nobody_asks_for_are_not_looked_at(tmp_path: Path) -> None:
    """Each look costs by the partition, and `split_topics` alone makes 21 topics."""
    settings = read_settings({"FOOTFALL_HOME": str(tmp_path), "KAFKA_TOPIC": "tags_of_eu"})
    assert settings.topics_folder is not None
    topics = FileTopics(settings.topics_folder)
    for name in ("user_tags", "dead_letters", "tags_of_eu", "shop_events.PageVisit", "read_by_f"):
        topics.create(name, 1)
    topics.close()
    folder = status_folder(tmp_path)
    folder.mkdir()
    reads = status(part(0, 0, topic="read_by_f"))
    (folder / "f.0.json").write_bytes(msgspec.json.encode(reads))
    look = Observer(settings).look()
    assert look.ends.keys() == {"user_tags", "dead_letters", "tags_of_eu", "read_by_f"}


def test_when_a_record_of_an_embedded_topic_was_appended(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    topics.create("t", 1)
    for _ in range(2):
        topics.write_each([("t", 0, [b"{}"] * 3)])
    topics.close()
    times = [file_appended_ms(tmp_path, "t", 0, offset) for offset in range(7)]
    assert times[0] is not None and times[0] == times[2] and times[3] == times[5]
    assert times[6] is None
    with (tmp_path / "t" / "0.jsonl").open("ab") as file:
        file.write(b"{}\n")
    assert file_appended_ms(tmp_path, "t", 0, 6) is None, "by hand, at no time that is known"


def test_a_killed_worker_shows_its_lag_in_observe_and_status(tmp_path: Path) -> None:
    environ = {"FOOTFALL_HOME": str(tmp_path)}
    fill(tmp_path, 0, 5_000)
    with worker(tmp_path) as process:
        wait_until(lambda: sum(one.next_offset for one in partitions(tmp_path)) > 4_900, "read")
        process.kill()
    fill(tmp_path, 5_000, 1_000)
    flow = Observer(read_settings(environ)).look().flows[0]
    assert flow.lag >= 990
    observer = subprocess.Popen(
        [sys.executable, "-m", "footfall.cli.main", "observe"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, **environ},
    )
    try:
        wait_until(lambda: "observe" in targets(tmp_path), "the observer serves")
        address = targets(tmp_path)["observe"]
        wait_until(
            lambda: (
                total(scrape(address), metrics.LAG_RECORDS, flow="minute_buckets") == flow.lag
                and total(scrape(address), metrics.WORKERS) == 0
            ),
            "the lag of the dead worker and its absence",
        )
        found = scrape(address)
        assert total(found, metrics.WORKERS_WANTED, flow="minute_buckets") == 1
        assert total(found, metrics.LAG_SECONDS, flow="minute_buckets") > 0
        observer.send_signal(signal.SIGTERM)
        assert observer.wait(20) == 0
    finally:
        observer.kill()
        observer.wait()
    assert "observe" not in targets(tmp_path)
    api = ("api", "--observe", "--port", str(free_port()))
    with running(tmp_path, *api) as served:
        served.wait_until(lambda: "api" in targets(tmp_path), "tells Prometheus where it is")
        served.wait_for_text("listening on")
        address = targets(tmp_path)["api"]
        served.wait_until(
            lambda: total(scrape(address), metrics.LAG_RECORDS) == flow.lag, "tells of the lag"
        )
        found = names_and_labels(get(address, "/metrics")[1])
        assert found.keys() == {
            one.name for one in (*metrics.API, *metrics.OBSERVER, *metrics.STORES, *metrics.SHOP)
        }
        assert served.end(signal.SIGTERM) == 0
    assert "api" not in targets(tmp_path)
    told = footfall(tmp_path, "status", "--json")
    assert told.returncode == 1
    (shown,) = json.loads(told.stdout)
    assert shown["lag_records"] == flow.lag
    assert shown["trouble"] == "behind, without a worker"
    assert shown["lag_seconds"] > 0
    line = footfall(tmp_path, "status")
    assert line.returncode == 1
    assert "behind, without a worker" in line.stdout
