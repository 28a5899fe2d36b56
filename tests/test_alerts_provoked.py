"""Alerts provoked with real Prometheus and Alertmanager, on a real demo and on a single flow:
those that should fire and end, and no other. All durations of rules are shorter by FACTOR."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from footfall import flows
from footfall.flows._requests import DELAY_MS
from footfall.operations.positions import read_statuses
from footfall.schemas.status import WorkerStatus
from footfall.schemas.times import iso_ms
from footfall.schemas.topics import PLATFORM_LOGS, USER_TAGS
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import Running, free_port, processes_of, running
from tests.prometheus_support import faster_config
from tests.runner_support import wait_until
from tests.side_by_side_support import CALM
from tests.small_house_support import (
    House,
    a_worker_counts_wrongly,
    a_worker_dies_again_and_again,
    a_worker_hangs,
    appends_wait,
    clickhouse_hangs,
    clickhouse_is_gone,
    events_are_late,
    groups_have_no_end,
    limits,
    nobody_buys,
    queries_fail,
    the_clock_stands,
    the_disk_fills,
)

pytestmark = [pytest.mark.slow, getattr(pytest.mark, CALM)]

FLOWS = len(flows.catalogue())
FACTOR = 6
RATE = 100
UNDISTURBED_S = 60.0
AT_ONCE = 100
STARTS_WITHIN_S = 400.0
FIRES_WITHIN_S, ENDS_WITHIN_S = 300.0, 900.0


@dataclass
class Watch:
    """The output of the receiver of Alertmanager's messages."""

    running: Running

    def told(self) -> list[tuple[str, str]]:
        """(alert, "fires" or "has ended") but for what tells how busy this machine is."""
        found = re.findall(r"alert (\w+) (fires|has ended)", self.running.output())
        return [(name, state) for name, state in found if name != "WritesSlow"]

    @contextmanager
    def expecting(
        self, *names: str, end: Callable[[], None], may: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """A fault that raises these alerts and no other; ``end`` ends it, and so the alerts.

        ``may``: those that come or not, as a restart takes as long as ever and rules wait less.
        """
        before = len(self.told())

        def fired() -> set[str]:
            return {name for name, state in self.told()[before:] if state == "fires"}

        yield
        wait_until(lambda: fired() >= {*names}, f"{names} fire", FIRES_WITHIN_S)
        end()

        def all_ended() -> bool:
            # An alert is told once per flow.
            open_alerts = [
                1 if state == "fires" else -1
                for name, state in self.told()[before:]
                if name in names or name not in may
            ]
            return sum(open_alerts) == 0

        wait_until(all_ended, f"{names} end", ENDS_WITHIN_S)
        assert {*names} <= fired() <= {*names, *may}, self.running.output()

    def ask(self, expr: str) -> list[float]:
        """The values of a query."""
        found = re.search(r"Prometheus: (\S+)", self.running.output())
        assert found
        url = f"{found[1]}api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            result = json.loads(reply.read())["data"]["result"]
        return [float(one["value"][1]) for one in result]


def status_of(home: Path, flow: str) -> WorkerStatus:
    return next(one for one in read_statuses(home) if one.flow == flow)


def append(home: Path, topic: str, records: list[tuple[bytes, bytes]]) -> None:
    topics = FileTopics(home / "topics")
    topics.write(topic, records)
    topics.close()


Step = tuple[str, str, dict[str, str]]
"""(server, action, data)"""


def requests(home: Path, steps: list[Step], count: int, users: int) -> None:
    """Append requests that begin now, as the shop's clock has it."""
    for first in range(0, count, AT_ONCE):
        # A few at once: later ones would be late by then.
        partitions = status_of(home, "service_health").partitions
        now_ms = max(part.watermark_ms for part in partitions) + DELAY_MS + 1_000
        records = []
        for number in range(first, first + AT_ONCE):
            user = f"bad-{number % users}"
            for place, (server, action, data) in enumerate(steps):
                common = {
                    "time": iso_ms(now_ms + 20 * place), "userId": user,
                    "requestId": f"{steps[0][1]}-{number}", "serverName": server,
                }  # fmt: skip
                record = {"action": action, "commonData": common, "data": data}
                records.append((user.encode(), json.dumps(record).encode()))
        append(home, PLATFORM_LOGS.name, records)


LOGIN_FAILS = [
    ("Login", "LoginReq", {}), ("Login", "LoginDbReq", {}),
    ("Login", "LoginRep", {"status": "Invalid"}),
]  # fmt: skip
PAYMENT_FAILS = [
    ("Payment", "BuyReq", {"productId": "5"}),
    ("Payment", "PaymentProviderReq", {"provider": "payfast"}),
    ("Payment", "PaymentProviderRep", {"provider": "payfast", "status": "Overloaded"}),
    ("Payment", "BuyRep", {"status": "Overloaded", "error": "payment: Overloaded"}),
]


def nothing() -> None:
    """Some faults are over by themselves."""


@contextmanager
def watched_demo(tmp_path: Path) -> Iterator[tuple[Path, Watch]]:
    """A demo of the shop whose event time is the wall's, and what watches it; all ends well."""
    home, config = tmp_path / "home", tmp_path / "infra"
    faster_config(config, FACTOR)
    pace = ("--rate", str(RATE), "--density", str(RATE))
    with running(home, "demo", "--no-watch", *pace, "--port", str(free_port())) as demo:
        demo.wait_for_text("page: ", STARTS_WITHIN_S)

        def all_run() -> bool:
            return len({one.flow for one in read_statuses(home)}) == FLOWS

        wait_until(all_run, "every flow runs", STARTS_WITHIN_S)
        with running(home, "watch", "--config", str(config)) as run:
            run.wait_for_text("Prometheus: ")
            yield home, Watch(run)
            assert run.end() == 0
        assert demo.end() == 0
    assert processes_of(home) == {}


def test_workers_records_and_servers_that_fail_are_told_and_nothing_else(tmp_path: Path) -> None:
    with watched_demo(tmp_path) as (home, watch):
        time.sleep(UNDISTURBED_S)
        assert watch.told() == []

        stopped = status_of(home, "user_trace").pid
        # It does not run, and is not started again: as one that was killed for good.
        kill = partial(os.kill, stopped, signal.SIGKILL)
        with watch.expecting("FlowWithoutWorker", end=kill):
            os.kill(stopped, signal.SIGSTOP)

        with watch.expecting("DeadLetters", end=nothing):
            append(home, USER_TAGS.name, [(b"%d" % key, b"{bad") for key in range(400)])

        (clickhouse,) = (
            pid for pid, command in processes_of(home).items() if " clickhouse " in command
        )
        go_on = partial(os.kill, clickhouse, signal.SIGCONT)
        with watch.expecting("ServerNotAnswering", end=go_on):
            os.kill(clickhouse, signal.SIGSTOP)

        before = {one.flow: one.pid for one in read_statuses(home)}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)

        def all_run_again() -> bool:
            return all(before[one.flow] != one.pid for one in read_statuses(home))

        wait_until(all_run_again, "all workers run again", STARTS_WITHIN_S)
        told = len(watch.told())
        time.sleep(UNDISTURBED_S)
        # A restart takes as long as ever, and the rule is six times less patient.
        assert {name for name, _ in watch.told()[told:]} <= {"FlowWithoutWorker"}
        found = watch.ask("max_over_time(abs(place:footfall_records_unaccounted:diff)[1h:2s])")
        assert len(found) > 100
        assert set(found) == {0.0}
        starts = "sum(increase(footfall_worker_starts_observed_total[1h]))"
        assert watch.ask(f"{starts} >= {FLOWS}")


def test_an_attack_and_payments_that_fail_are_told_and_nothing_else(tmp_path: Path) -> None:
    with (
        watched_demo(tmp_path) as (home, watch),
        watch.expecting("LoginAttack", "PaymentDegraded", end=nothing),
    ):
        requests(home, LOGIN_FAILS, 1_500, users=300)
        requests(home, PAYMENT_FAILS, 400, users=400)


FASTER = 10
Fault = Callable[[House], AbstractContextManager[None]]
AT_THE_SAME_TIME: tuple[dict[Fault, tuple[str, ...]], ...] = (
    {
        nobody_buys: ("RevenueCollapsed", "ConversionCollapsed"),
        events_are_late: ("LateEvents",),
        groups_have_no_end: ("StateGrowing",),
        the_disk_fills: ("HomeDiskNearlyFull",),
        a_worker_counts_wrongly: ("AccountingBroken",),
    },
    {a_worker_hangs: ("FlowWorkersMissing",)},
    {clickhouse_hangs: ("FlowLagGrowing",)},
    {
        clickhouse_is_gone: ("SinkFailing",),
        queries_fail: ("ApiErrorBudgetBurn",),
        appends_wait: ("ApiLatencyBudgetBurn",),
    },
    {the_clock_stands: ("WatermarkStuck",)},
    {a_worker_dies_again_and_again: ("RestartLoop",)},
)
"""Faults that do not hide one another, and the alerts of each."""


def test_faults_of_one_flow_and_its_shop_are_told_and_nothing_else(tmp_path: Path) -> None:
    home, config = tmp_path / "home", tmp_path / "infra"
    faster_config(config, FASTER, limits(tmp_path))
    with ExitStack() as stack:
        house = House(home, stack)
        run = stack.enter_context(running(home, "watch", "--config", str(config)))
        run.wait_for_text("Prometheus: ")
        watch = Watch(run)
        time.sleep(UNDISTURBED_S)
        assert watch.told() == []
        for faults in AT_THE_SAME_TIME:
            with ExitStack() as here:
                names = [name for of_fault in faults.values() for name in of_fault]
                with watch.expecting(*names, end=here.close, may=("FlowWorkersMissing",)):
                    for fault in faults:
                        here.enter_context(fault(house))
    assert processes_of(home) == {}
