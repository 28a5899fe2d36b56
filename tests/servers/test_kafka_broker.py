"""The broker itself: it keeps what it acknowledged through kill -9, and says what is wrong."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from footfall.infra import kafka
from footfall.infra.kafka import KafkaServerError
from footfall.infra.kafka.errors import MissingToolError
from footfall.infra.kafka.jars import find_jars, find_java, java_version
from tests.kafka_support import Broker, tools

ROOT = Path(__file__).resolve().parents[2]

KAFKA = [sys.executable, "-m", "footfall.infra.kafka", "--port", "0"]


def test_what_was_acknowledged_is_there_after_kill_9_on_the_same_port(own_kafka: Broker) -> None:
    topic = own_kafka.topic("kept", partitions=3)
    own_kafka.produce(topic, [b"%d" % n for n in range(300)])
    before = own_kafka.consume_all(topic)
    address = own_kafka.bootstrap
    own_kafka.restart()
    assert own_kafka.bootstrap == address
    assert own_kafka.consume_all(topic) == before
    assert len(before) == 300


def test_retention_removes_records_within_a_test(own_kafka: Broker) -> None:
    topic = own_kafka.topic("short", retention_ms="1", segment_bytes="1048576")
    own_kafka.produce(topic, [b"x"] * 10, timestamp_ms=1_000)
    own_kafka.eventually(lambda: own_kafka.first_offsets(topic) == [10])


def test_a_topic_that_nobody_made_is_not_made_by_asking(own_kafka: Broker) -> None:
    name = own_kafka.name("nobody")
    own_kafka.admin().list_topics(name, timeout=10)
    assert own_kafka.partitions(name) == []


def test_a_folder_in_use_and_a_port_that_is_taken_are_told(
    own_kafka: Broker, tmp_path: Path
) -> None:
    java, jars = tools()
    folder = own_kafka._process.folder
    with pytest.raises(KafkaServerError, match=f"another Kafka runs on the folder {folder}"):
        kafka.Broker(folder, java=java, jars=jars, port=0).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(KafkaServerError, match=rf"port {port} \(it is taken .* --port"):
            kafka.Broker(tmp_path, java=java, jars=jars, port=port).start()
    assert own_kafka.runs


def test_a_broker_that_dies_says_its_last_line(tmp_path: Path) -> None:
    java, jars = tools()
    broken = kafka.Broker(
        tmp_path, java=java, jars=jars, port=0, settings={"num.io.threads": "many"}
    )
    with pytest.raises(KafkaServerError, match=r"cannot format .*num\.io\.threads") as caught:
        broken.start()
    assert "\n" not in str(caught.value)
    broken = kafka.Broker(
        tmp_path, java=java, jars=jars, port=0, settings={"log.retention.check.interval.ms": "0"}
    )
    with pytest.raises(KafkaServerError, match=r"log\.retention\.check\.interval\.ms"):
        broken.start()
    assert broken.pid is None


def program(folder: Path, name: str, lines: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_java_that_is_missing_or_too_old_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match=r"Java is not installed.*apt-get install"):
        find_java({"PATH": str(tmp_path)})
    with pytest.raises(MissingToolError, match=f"JAVA_HOME={tmp_path}/none has no java"):
        find_java({"JAVA_HOME": f"{tmp_path}/none", "PATH": os.environ["PATH"]})
    old = program(tmp_path, "java", "echo 'openjdk version \"11.0.2\" 2019' >&2")
    with pytest.raises(MissingToolError, match=f"{old} is Java 11: Kafka needs Java 17"):
        find_java({"JAVA_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_401"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ("nothing", None),
    ],
)
def test_the_version_of_java_is_read(text: str, version: int | None) -> None:
    assert java_version(text) == version


def test_jars_are_fetched_once_and_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    nobody = {"PATH": str(tmp_path / "bin")}
    with pytest.raises(MissingToolError, match="Maven, which fetches them, is not installed"):
        find_jars(cache, nobody)
    program(tmp_path, "mvn", "echo '[ERROR] no route to host -> [Help 1]'; exit 1")
    with pytest.raises(KafkaServerError, match=r"jars \(no route to host\): is the network up"):
        find_jars(cache, nobody)
    assert list(cache.iterdir()) == []
    program(
        tmp_path,
        "mvn",
        'for word in "$@"; do case "$word" in -DoutputDirectory=*) '
        ': > "${word#*=}/kafka_2.13-0.jar";; esac; done',
    )
    said: list[str] = []
    folder = find_jars(cache, nobody, said.append)
    assert [path.name for path in folder.iterdir()] == ["kafka_2.13-0.jar"]
    assert len(said) == 2
    assert find_jars(cache, {"PATH": ""}, said.append) == folder
    assert len(said) == 2
    assert list(cache.iterdir()) == [folder]


def test_of_many_that_need_the_jars_at_once_one_fetches(tmp_path: Path) -> None:
    program(
        tmp_path,
        "mvn",
        f"echo fetch >> {tmp_path}/fetches; sleep 0.5\n"
        'for word in "$@"; do case "$word" in -DoutputDirectory=*) '
        ': > "${word#*=}/kafka_2.13-0.jar";; esac; done',
    )
    env = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(find_jars, tmp_path / "cache", env) for _ in range(4)]
        assert len({each.result(60) for each in asked}) == 1
    assert (tmp_path / "fetches").read_text() == "fetch\n"


def command(home: Path) -> subprocess.Popen[str]:
    """Start the command as a shell does in the background: SIGINT is ignored."""
    return subprocess.Popen(
        KAFKA,
        cwd=ROOT,
        env={**os.environ, "FOOTFALL_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
    )


def lines_until(process: subprocess.Popen[str], said: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if said in line:
            break
    return lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_it_is_ended_and_says_what_to_export(
    tmp_path: Path, own_kafka: Broker, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    process = command(home)
    lines = lines_until(process, "export")
    process.send_signal(number)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert rest == "stopping Kafka\n"
    assert lines[-1].startswith("export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:")
    assert (home / "kafka" / "data" / "meta.properties").exists()
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_still_starts_is_ended_at_once(
    tmp_path: Path, own_kafka: Broker, number: signal.Signals
) -> None:
    process = command(tmp_path / "home")
    lines_until(process, "formatting")
    process.send_signal(number)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert rest == "stopping Kafka\n"


def test_a_port_that_is_taken_is_told(tmp_path: Path, own_kafka: Broker) -> None:
    taken = own_kafka.bootstrap.partition(":")[2]
    environ = {**os.environ, "FOOTFALL_HOME": str(tmp_path / "home")}
    refused = subprocess.run(
        [*KAFKA[:-1], taken], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and "taken" in refused.stderr
