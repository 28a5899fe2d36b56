"""``login_alerts`` on a real Kafka, as its Faust workers run."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer

from footfall.flows._alerts_topics import Others
from footfall.generator.shop_sessions import Alerts
from footfall.operations.flow_facts import FlowFacts
from footfall.operations.observer import Look, Observer
from footfall.schemas import metrics
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.settings import read_settings
from footfall.schemas.status import WorkerStatus, status_folder, status_path
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS, LOGIN_ALERTS
from footfall.streams.run import Run, WorkerError
from tests.cli_support import Running, footfall, free_port, one_line, running
from tests.kafka_support import Server
from tests.metrics_support import expected, get, names_and_labels, scrape, targets, total
from tests.runner_support import wait_until

pytest.importorskip("faust", reason="faust-streaming is not installed")
from faust.tables.recovery import Recovery

from footfall.flows._alerts_worker import run_on_kafka

FLOW = "login_alerts"
PARTITIONS = 3
ALERT_WITHIN_S = 10.0
"""Longest wait for an alert of a worker that runs; on a calm machine it takes 0.1 s."""
BASE_MS = 1_569_888_000_000  # 2019-10-01T00:00:00Z


def failure(user: str, time_ms: int, status: str = "Invalid") -> tuple[bytes, bytes]:
    """Return key and value of a record of platform_logs."""
    common = {"time": iso_ms(time_ms), "userId": user, "requestId": "r", "serverName": "Login"}
    record = {"action": "LoginRep", "commonData": common, "data": {"status": status}}
    return user.encode(), msgspec.json.encode(record)


@dataclass
class Shop:
    """A topic of logs, a home, and what the workers of both have written."""

    kafka: Server
    home: Path
    topic: str = ""
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.topic = self.kafka.topic("logs", PARTITIONS)
        for catalogued in (LOGIN_ALERTS, DEAD_LETTERS, LATE_EVENTS):
            self.kafka.create_topic(catalogued.name, catalogued.partitions)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "TOPICS_URL": self.kafka.url,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_GROUP": f"group-{self.topic}",
            "LOGIN_ALERTS_PORT": str(self.port),
        }

    @property
    def changelog(self) -> str:
        return f"group-{self.topic}-{FLOW}-users-changelog"

    def user(self, name: object) -> str:
        """Return an id that no other test has: all write to the same topic of alerts."""
        return f"{self.topic}-{name}"

    def send(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Return when all are acknowledged."""
        listed = list(records)
        self.kafka.produce(
            self.topic,
            [value for _, value in listed],
            keys=[key for key, _ in listed],
            partitioner="murmur2_random",
        )

    def alerts(self) -> list[LoginAlert]:
        """Return the alerts of our users, as they are in the topic."""
        found = [
            msgspec.json.decode(record.value or b"", type=LoginAlert)
            for record in self.kafka.consume_all(LOGIN_ALERTS.name)
            if (record.value or b"").startswith(f'{{"user_id":"{self.topic}-'.encode())
        ]
        assert all(len(alert.times) == alert.failures for alert in found)
        return found

    def raised(self) -> set[tuple[str, int]]:
        """Return what a reader knows the alerts by, each once."""
        return {(alert.user_id, parse_time_ms(alert.time)) for alert in self.alerts()}

    def dead(self) -> set[tuple[int, int, str]]:
        """Return (partition, offset, code) of the dead letters of our topic."""
        letters = [json.loads(r.value or b"") for r in self.kafka.consume_all(DEAD_LETTERS.name)]
        return {
            (letter["partition"], letter["offset"], letter["code"])
            for letter in letters
            if letter["topic"] == self.topic
        }

    def counts(self) -> tuple[int, ...]:
        """Return (read, used, filtered, late, dead) over all partitions."""
        at: dict[int, tuple[int, ...]] = {}
        for path in status_folder(self.home).glob(f"{FLOW}.*.json"):
            status = msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
            for one in status.partitions:
                counts = (one.read, one.used, one.filtered, one.late, one.dead)
                at[one.partition] = max(at.get(one.partition, counts), counts)
        return tuple(map(sum, zip(*at.values(), strict=True)))

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the answer of a worker: (status, body)."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=30
            ) as found:
                return found.status, found.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def wait_for(self, worker: Running, user: str, within_s: float = 60.0) -> None:
        """Wait until an alert of the user is in the topic."""
        worker.wait_until(
            lambda: any(alert.user_id == user for alert in self.alerts()), "alerted", within_s
        )


@pytest.fixture
def shop(kafka: Server, tmp_path: Path) -> Shop:
    return Shop(kafka, tmp_path / "home")


def truth(failures: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return the alerts of failures in order of time."""
    alerts = Alerts()
    return {(user, time_ms) for user, time_ms in failures if alerts.failure(user, time_ms)}


def test_a_worker_answers_at_once_shows_one_users_state_and_serves_nothing_else(
    shop: Shop,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    first, second = shop.user("first"), shop.user("second/ä")
    with running(shop.home, "run", FLOW, **shop.settings) as worker:
        shop.send(failure(first, now_ms + n) for n in range(4))
        shop.wait_for(worker, first)
        shop.send(failure(second, now_ms + n) for n in range(3))
        shop.send([failure(second, now_ms + 3, status="Valid"), (b"bad", b"nope"), (b"bad", b"")])
        shop.send([failure(second, now_ms + 4)])
        shop.wait_for(worker, second, ALERT_WITHIN_S)
        times = [iso_ms(now_ms + n) for n in (0, 1, 2, 4)]
        (alert,) = [alert for alert in shop.alerts() if alert.user_id == second]
        assert alert == LoginAlert(user_id=second, time=times[-1], failures=4, times=times)
        worker.wait_until(lambda: len(shop.dead()) == 2, "put bad records aside")
        assert sorted(code for _, _, code in shop.dead()) == ["empty", "not_json"]

        status, body = shop.get(f"/{FLOW}/{urllib.request.quote(second, safe='')}")
        (state,) = json.loads(body)["states"]
        assert (status, state["in_burst"], state["failures"]) == (200, True, times)
        status, body = shop.get(f"/{FLOW}/{shop.user('nobody')}")
        assert (status, json.loads(body)["states"]) == (200, [])
        for path in ("", "table", "tables", "router", "graph", "stats", "performance", FLOW):
            assert {shop.get(f"/{path}")[0], shop.get(f"/{path}/")[0]} == {404}, path
        worker.wait_until(lambda: shop.counts() == (11, 8, 1, 0, 2), "counted")
        assert worker.process.poll() is None
        worker.process.terminate()
        assert worker.process.wait(10) == 0, worker.output()
    assert len(shop.kafka.partitions(shop.changelog)) == PARTITIONS
    assert shop.kafka.config(shop.changelog)["cleanup.policy"] == "compact"
    assert shop.kafka.lag(f"group-{shop.topic}-{FLOW}", shop.topic) == 0


def test_a_worker_tells_of_itself_as_any_other_and_is_missed_when_it_is_killed(shop: Shop) -> None:
    settings = read_settings({"FOOTFALL_HOME": str(shop.home), **shop.settings})
    observer = Observer(settings)
    shop.send(failure(shop.user("x"), BASE_MS + n) for n in range(40))
    with running(shop.home, "run", FLOW, **shop.settings | {"LOGIN_ALERTS_PORT": "0"}) as worker:
        worker.wait_until(
            lambda: f"{FLOW}.0" in targets(shop.home) and shop.counts()[:1] == (40,), "read all"
        )
        address = targets(shop.home)[f"{FLOW}.0"]
        found = scrape(address)
        assert total(found, metrics.RECORDS_READ) == total(found, metrics.RECORDS_USED) == 40
        assert total(found, metrics.ROWS_WRITTEN, table=LOGIN_ALERTS.name) == 1
        assert total(found, metrics.STATE_ITEMS, kind="users") == 1
        # A sink that has not failed has no series, and Faust keeps its state in a topic.
        listed = expected(metrics.WORKER)
        told = names_and_labels(get(address, "/metrics")[1])
        assert told.keys() == listed.keys()
        assert all(told[name] in (of, (of[0], frozenset())) for name, of in listed.items())
        flow = of_flow(observer.look(), FLOW)
        assert (flow.lag, flow.state, flow.trouble) == (0, "running", "")
        worker.process.kill()
        worker.process.wait(10)
    shop.send(failure(shop.user("x"), BASE_MS + n) for n in range(5))
    wait_until(lambda: of_flow(observer.look(), FLOW).state == "stopped", "it is missed")
    flow = of_flow(observer.look(), FLOW)
    assert (flow.lag, flow.trouble) == (5, "behind, without a worker")
    assert flow.age_s is not None and 0 < flow.age_s < 600
    # Another home knows of the flow by its consumer group alone.
    elsewhere = read_settings({"FOOTFALL_HOME": str(shop.home / "other"), **shop.settings})
    flow = of_flow(Observer(elsewhere).look(), FLOW)
    assert (flow.lag, flow.state, flow.trouble) == (5, "elsewhere", "")


def of_flow(look: Look, name: str) -> FlowFacts:
    """Return one flow of a look."""
    (found,) = [flow for flow in look.flows if flow.name == name]
    return found


@pytest.mark.slow
def test_a_worker_that_is_killed_again_and_again_loses_no_alert_and_adds_none(
    shop: Shop,
) -> None:
    settings = shop.settings | {"LOGIN_ALERTS_PORT": "0"}
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    failures: list[tuple[str, int]] = []
    time_ms = BASE_MS

    def send(count: int) -> None:
        nonlocal time_ms
        added = []
        for _ in range(count):
            time_ms += chance.choice((10, 100, 400))
            added.append((shop.user(chance.randrange(40)), time_ms))
        failures.extend(added)
        shop.send(failure(user, at_ms) for user, at_ms in added)

    for _ in range(2):
        before = len(shop.alerts())
        with running(shop.home, "run", FLOW, **settings) as worker:
            send(600)
            worker.wait_until(lambda known=before: len(shop.alerts()) > known, "alerted")
            send(600)
            worker.process.kill()
    # What ends the partition is the mark of a transaction: no record, and yet the end.
    time_ms += 60_000
    marked = [(shop.user("marked"), time_ms + n) for n in range(4)]
    failures += marked
    shop.kafka.transaction(shop.topic, [failure(*one)[1] for one in marked])
    ended = footfall(shop.home, "run", FLOW, "--once", "--workers", "2", **settings)
    assert ended.returncode == 0, ended.stderr
    assert shop.raised() == truth(failures)
    assert shop.counts() == (len(failures), len(failures), 0, 0, 0)

    # Records that retention removed are never passed over in silence.
    send(30)
    ends = shop.kafka.end_offsets(shop.topic)
    shop.kafka.delete_records(shop.topic, dict(enumerate(ends)))
    send(30)
    refused = footfall(shop.home, "run", FLOW, "--once", **settings)
    assert refused.returncode == 1
    assert "was removed by retention" in one_line(refused)
    skipping = footfall(shop.home, "run", FLOW, "--once", "--skip-removed", **settings)
    assert skipping.returncode == 0, skipping.stderr
    assert "skipped offsets" in skipping.stderr
    assert shop.counts()[0] == len(failures) - 30


@pytest.mark.slow
def test_another_topic_under_the_state_of_a_worker_is_a_clear_stop(shop: Shop) -> None:
    shop.send(failure(shop.user(n), BASE_MS + n) for n in range(30))
    assert footfall(shop.home, "run", FLOW, "--once", **shop.settings).returncode == 0
    other = {**shop.settings, "KAFKA_TOPIC": shop.kafka.topic("logs", PARTITIONS)}
    refused = footfall(shop.home, "run", FLOW, "--once", **other)
    assert refused.returncode == 1
    assert f"is of topic {shop.topic}, not {other['KAFKA_TOPIC']}" in one_line(refused)
    assert f"delete the topic {shop.changelog}" in one_line(refused)
    was_made_again = f"topic {shop.topic} was deleted and made again since {FLOW} read it"
    made_again(shop, 60)
    refused = footfall(shop.home, "run", FLOW, "--once", **shop.settings)
    assert refused.returncode == 1
    assert was_made_again in one_line(refused)

    # As it says; and while the worker runs it ends by itself.
    shop.kafka.delete_topic(shop.changelog)
    with running(shop.home, "run", FLOW, **shop.settings) as worker:
        worker.wait_until(lambda: shop.counts()[:1] == (60,), "read all")
        made_again(shop, 90)
        assert worker.process.wait(60) == 1
        assert was_made_again in worker.output()


def made_again(shop: Shop, records: int) -> None:
    """Delete the topic, and make another with the same name and some records."""
    shop.kafka.delete_topic(shop.topic)
    shop.kafka.create_topic(shop.topic, PARTITIONS)
    shop.send(failure(shop.user(n), BASE_MS + n) for n in range(records))


def test_a_run_to_the_end_ends_when_no_other_worker_has_a_partition(shop: Shop) -> None:
    settings = shop.settings | {"LOGIN_ALERTS_PORT": "0"}

    def known(worker: int) -> WorkerStatus | None:
        path = status_path(shop.home, FLOW, worker)
        return msgspec.json.decode(path.read_bytes(), type=WorkerStatus) if path.exists() else None

    def all_read(process: int, worker: int) -> bool:
        status = known(worker)
        if status is None or status.pid != process or not status.partitions:
            return False
        ends = shop.kafka.end_offsets(shop.topic)
        return all(one.next_offset == ends[one.partition] for one in status.partitions)

    shop.send(failure(shop.user(n), BASE_MS + n) for n in range(100))
    with (
        running(shop.home, "run", FLOW, "--worker", "0/2", **settings) as first,
        running(shop.home, "run", FLOW, "--worker", "1/2", **settings) as second,
    ):
        shares = [(first.process.pid, 0), (second.process.pid, 1)]
        first.wait_until(lambda: all(all_read(*share) for share in shares), "shared them")
        first.process.kill()
        shop.send(failure(shop.user(n), BASE_MS + 200 + n) for n in range(100))
        with running(shop.home, "run", FLOW, "--once", **settings) as whole:
            process = whole.process
            until_s = time.monotonic() + 60
            while process.poll() is None and not all_read(process.pid, 0):
                assert time.monotonic() < until_s, whole.output()
                time.sleep(0.05)
            # It has read what it was given, and the second worker still has the others.
            second.process.kill()
            assert process.wait(60) == 0, whole.output()
    status = known(0)
    assert status is not None and status.finished
    assert [one.partition for one in status.partitions] == list(range(PARTITIONS))
    assert sum(one.read for one in status.partitions) == 200


def test_a_worker_whose_table_is_never_restored_begins_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.send(failure(shop.user(n), BASE_MS + n) for n in range(30))
    assert footfall(shop.home, "run", FLOW, "--once", **shop.settings).returncode == 0
    shop.send(failure(shop.user(n), BASE_MS + 100 + n) for n in range(30))
    seen: set[Recovery] = set()
    need = Recovery.need_recovery

    def first_needs_more(recovery: Recovery) -> bool:
        seen.add(recovery)
        return need(recovery) or len(seen) == 1

    monkeypatch.setattr(Recovery, "need_recovery", first_needs_more)
    monkeypatch.setattr("footfall.flows._alerts_faust.RESTORED_WITHIN_S", 2.0)
    said: list[str] = []
    settings = read_settings({**shop.settings, "FOOTFALL_HOME": str(shop.home)})
    run_on_kafka(FLOW, settings, Run(once=True, say=said.append))
    assert [line.endswith(": begins anew") for line in said] == [True]
    assert shop.counts() == (60, 60, 0, 0, 0)


def test_a_worker_that_stays_and_is_not_of_the_run_is_named(kafka: Server) -> None:
    topic, group = kafka.topic("logs"), kafka.name("group")
    # Nobody is in the group yet, nor does anyone know its partitions.
    assert not Others(kafka.bootstrap, group, ["ours"], wait_s=0).are_gone()
    member = {"group_id": group, "group_instance_id": "other"}
    consumer = Consumer(kafka.client(**member, session_timeout_ms=6_000))
    consumer.subscribe([topic])
    kafka.eventually(lambda: consumer.poll(0.1) is None and bool(consumer.assignment()))
    assert Others(kafka.bootstrap, group, ["ours", "other"], wait_s=0).are_gone()
    others = Others(kafka.bootstrap, group, ["ours"], wait_s=0)
    assert not others.are_gone()
    with pytest.raises(WorkerError, match=r"other workers have .*: stop other at 127\.0\.0\.1"):
        others.are_gone()
    consumer.close()


def test_without_its_topics_a_worker_says_what_makes_them(kafka: Server, tmp_path: Path) -> None:
    settings = {"TOPICS_URL": kafka.url, "KAFKA_TOPIC": kafka.name("none")}
    ended = footfall(tmp_path / "home", "run", FLOW, "--once", **settings)
    assert ended.returncode == 1
    assert "`footfall init` makes it" in one_line(ended)
