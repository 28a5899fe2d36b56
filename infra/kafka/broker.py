"""One broker process on one folder: started, killed, stopped, started again.

<folder>/server.properties   written at each start
<folder>/data/               formatted at the first start
<folder>/kafka.log           warnings, and the broker's start and end
<folder>/kafka.out           what Java itself prints
"""

from __future__ import annotations

import base64
import ctypes
import errno
import fcntl
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from footfall.infra.kafka.errors import KafkaServerError

HOST = "127.0.0.1"
PORT = 9092
HEAP_MIB_MAX = 512
START_WITHIN_S = 90.0
STOP_WITHIN_S = 20.0
FORMAT_WITHIN_S = 60
_ASK_S = 0.5
_LOGGING = Path(__file__).parent / "log4j2.properties"
_PR_SET_PDEATHSIG = 1
# Found before any fork: a child must not load libraries while other threads hold their locks.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

# Options for a fast start and little memory: a broker on a laptop is neither up long enough nor
# busy enough for the optimizing compiler and a concurrent collector to pay off.
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xms64m")

Say = Callable[[str], None]


class Broker:
    """A broker and its controller in one process, listening on loopback alone.

    ``port`` 0 takes any free one; the attribute holds the true one after ``start``, and later
    starts keep it. ``settings`` override our own in server.properties. It ends with the thread
    that called ``start``, so that nothing is left when the process is killed. Raises
    KafkaServerError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        java: str,
        jars: Path,
        port: int = PORT,
        settings: Mapping[str, str] | None = None,
        heap_mib_max: int = HEAP_MIB_MAX,
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._java = java
        self._jars = jars
        self._settings = dict(settings or {})
        self._heap_mib_max = heap_mib_max
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Return ``host:port``, as KAFKA_BOOTSTRAP_SERVERS takes it."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Return the process id, None while it does not run."""
        return self._process.pid if self._process is not None else None

    @property
    def log(self) -> Path:
        """Return the path of its log."""
        return self.folder / "kafka.log"

    def start(self, say: Say = lambda _line: None) -> None:
        """Start the broker and return when it answers. A new folder is formatted first."""
        if self._process is not None:
            return
        try:
            self._lock = _locked(self.folder)
            self.port = _free(self.port, "--port")
            self._write_properties()
            if not (self.folder / "data" / "meta.properties").exists():
                say(f"formatting {self.folder / 'data'}")
                self._format()
            say(f"starting Kafka at {self.bootstrap}")
            self._process = self._launched()
            self._wait_until_it_answers()
        except OSError as error:
            self.kill()
            raise KafkaServerError(
                f"cannot write to the folder {self.folder} ({error.strerror or error}): free the "
                "disk, or give another with --folder"
            ) from None
        except BaseException:
            self.kill()
            raise

    def died(self) -> str | None:
        """Return why it ended by itself, on one line; None while it runs or was stopped."""
        if self._process is None or self._process.poll() is None:
            return None
        return f"Kafka ended with {self._process.returncode}: {self._last_line()}"

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash does. Do nothing where it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it close its files and end; kill it where that takes too long."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop its threads (SIGSTOP): its connections stay, and nothing is answered."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Resume a paused broker."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write_properties(self) -> None:
        controller = _free(0, "")
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "inter.broker.listener.name": "PLAINTEXT",
            # Relative to the folder that Java runs in: it is a list, and a comma in a path cannot
            # be escaped.
            "log.dirs": "data",
            # `footfall init` makes the topics, with their partitions and retention.
            "auto.create.topics.enable": "false",
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A single node has nobody to hand its partitions to.
            "controlled.shutdown.enable": "false",
            # After a kill the new process is accepted once the old one's session has expired.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "log.retention.check.interval.ms": "60000",
            # Indexes are made at full size, one sparse file per segment.
            "log.index.size.max.bytes": "1048576",
            "num.io.threads": "4",
            "num.network.threads": "2",
            "log.cleaner.dedupe.buffer.size": "16777216",
            **self._settings,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{name}={_escaped(value)}\n" for name, value in lines.items()))

    def _format(self) -> None:
        command = self._command("kafka.tools.StorageTool", "format")
        command += ["--cluster-id", _cluster_id()]
        command += ["--config", "server.properties"]
        with (self.folder / "kafka.out").open("wb") as out:
            done = subprocess.run(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=FORMAT_WITHIN_S,
                check=False,
            )
        if done.returncode != 0:
            raise KafkaServerError(f"cannot format {self.folder / 'data'}: {self._last_line()}")

    def _launched(self) -> subprocess.Popen[bytes]:
        self.log.unlink(missing_ok=True)
        command = self._command("kafka.Kafka", "server.properties")
        with (self.folder / "kafka.out").open("wb") as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C reaches this process alone, which then stops the broker in order.
                start_new_session=True,
                # It makes one system call, which no lock of another thread can hold up.
                preexec_fn=_end_with_parent if _prctl is not None else None,  # noqa: PLW1509
            )

    def _command(self, entry: str, *arguments: str) -> list[str]:
        return [
            self._java,
            f"-Xmx{self._heap_mib_max}m",
            *_JAVA_OPTIONS,
            f"-Dfootfall.kafka.log={self.log.name}",
            f"-Dlog4j2.configurationFile={_LOGGING}",
            "-cp",
            str(self._jars / "*"),
            entry,
            *arguments,
        ]

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        client = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
            }
        )
        while True:
            died = self.died()
            if died is not None:
                raise KafkaServerError(died)
            with suppress(KafkaException):
                if client.list_topics(timeout=_ASK_S).brokers:
                    return
            if time.monotonic() > deadline:
                raise KafkaServerError(
                    f"Kafka at {self.bootstrap} does not answer after {START_WITHIN_S:g} s: "
                    f"{self._last_line()} (see {self.log})"
                )

    def _last_line(self) -> str:
        """Return the last line about an error, else the last line."""
        lines: list[str] = []
        for path in (self.folder / "kafka.out", self.log):
            with suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()]
        # The lines of a stack trace say less than the message above them.
        told = [line for line in lines if not line.startswith(("at ", "... "))]
        errors = [line for line in told if " ERROR " in line or " FATAL " in line]
        return next(reversed(errors or told), f"no message in {self.log}")[:400]


def _locked(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise KafkaServerError(
            f"another Kafka runs on the folder {folder}: use that one, stop it, or give another "
            "with --folder"
        ) from None
    return lock


def _free(port: int, option: str) -> int:
    """Return the port, or any free one for 0. Raises KafkaServerError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "it is taken by another process" if taken else error.strerror
            raise KafkaServerError(
                f"cannot listen on {HOST} port {port} ({reason}): give another with {option}"
            ) from None
        return int(probe.getsockname()[1])


def _cluster_id() -> str:
    """Return 22 characters that the command line does not take for an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _escaped(value: str) -> str:
    """Return a value for a properties file: Java reads a backslash as an escape."""
    return value.replace("\\", "\\\\")


def _end_with_parent() -> None:
    """Let this new process be ended when its parent ends, however that happens."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
