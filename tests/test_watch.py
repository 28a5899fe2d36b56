"""``footfall watch``: real Prometheus and Alertmanager on a home, and nothing left of them."""

from __future__ import annotations

import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from footfall.cli.notices import Notices, receiving
from footfall.cli.supervise import QUICK_DEATHS_MAX, Supervisor
from tests.cli_support import environment, footfall, free_port, one_line, processes_of, running
from tests.prometheus_support import faster_config, program
from tests.runner_support import wait_until


def alert(status: str, name: str = "FlowBehind", fingerprint: str = "f1") -> dict[str, Any]:
    return {
        "status": status, "fingerprint": fingerprint,
        "labels": {"alertname": name, "severity": "warning"},
        "annotations": {"summary": "f is behind", "description": "By 2 m.", "runbook": "R.md"},
    }  # fmt: skip


def test_an_alert_is_said_when_it_begins_and_when_it_ends() -> None:
    said: list[str] = []
    notices = Notices(said.append)
    notices.take({"alerts": [alert("firing")]})
    # The group again, with another one.
    notices.take({"alerts": [alert("firing"), alert("firing", "DeadLetters", "f2")]})
    notices.take({"alerts": [alert("resolved"), alert("firing", "DeadLetters", "f2")]})
    notices.take({"alerts": [alert("resolved")]})
    assert said == [
        "alert FlowBehind fires (warning): f is behind: By 2 m. See R.md",
        "alert DeadLetters fires (warning): f is behind: By 2 m. See R.md",
        "alert FlowBehind has ended: f is behind",
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"alerts": [{}]}'])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    port = free_port()
    with receiving(lambda _line: None, port), pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/alerts", body, timeout=10)
    assert refused.value.code == 400


def test_an_alert_begins_and_ends_as_lines_and_nothing_is_left(tmp_path: Path) -> None:
    for name in ("prometheus", "promtool", "amtool"):
        program(name)
    home, config = tmp_path / "home", tmp_path / "infra"
    faster_config(config, 10)
    home.mkdir()
    with running(home, "watch", "--config", str(config)) as watch:
        watch.wait_for_text("Prometheus: http://127.0.0.1:")
        # Nobody observes yet.
        watch.wait_for_text("alert ObserverGone fires (critical): Nobody watches the flows", 180)
        again = footfall(home, "watch")
        assert again.returncode == 2
        assert "already running on" in one_line(again)
        assert "Prometheus: http://" in one_line(again)
        anew = footfall(home, "demo", "--fresh", "--once", "--tags", "10")
        assert anew.returncode == 2
        assert one_line(anew).endswith("`footfall watch` runs on this home: stop it first")
        with running(home, "observe") as observe:
            observe.wait_for_text("observing every flow")
            watch.wait_for_text("alert ObserverGone has ended", 180)
        assert watch.end() == 0
    assert processes_of(home) == {}
    assert {path.name for path in home.iterdir()} >= {"prometheus", "alertmanager"}
    with running(home, "watch", "--config", str(config)) as watch:
        watch.wait_for_text("Prometheus: http://127.0.0.1:")
        wait_until(lambda: len(processes_of(home)) == 3, "both run")
        watch.process.send_signal(signal.SIGKILL)
        watch.process.wait()
        wait_until(lambda: processes_of(home) == {}, "they end with it")


def test_where_they_are_not_installed_a_line_says_how_to_get_them(tmp_path: Path) -> None:
    missing = footfall(tmp_path / "home", "watch", PATH="/nowhere")
    assert missing.returncode == 2
    assert "apt-get install --no-install-recommends prometheus" in one_line(missing)


def test_a_configuration_that_is_none_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    wrong = footfall(home, "watch", "--config", str(tmp_path / "none"))
    assert wrong.returncode == 2
    assert f"--config {tmp_path / 'none'}: cannot read" in one_line(wrong)
    assert processes_of(home) == {}


def test_a_program_that_ends_again_and_again_is_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    now_s = 0.0
    supervisor = Supervisor(tmp_path, environment(tmp_path), said.append, clock=lambda: now_s)
    child = supervisor.start("it", ("/bin/false",), service=True, program=True)
    for _ in range(QUICK_DEATHS_MAX):
        assert child.process is not None
        child.process.wait(60)
        supervisor.poll()
        now_s += 20
        supervisor.poll()
    assert child.process is None
    assert said[-1].endswith("(nothing); it is left out")
