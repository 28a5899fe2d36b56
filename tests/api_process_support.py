"""The real server as a process of its own, and waiting for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.ports_support import free_port  # noqa: F401

WAIT_S = 60.0
"""Longest wait for what comes at once on a calm machine."""


def eventually(holds: Callable[[], bool], within_s: float = WAIT_S) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.005)


def project_root() -> Path:
    return Path(__file__).resolve().parent.parent


LIMITED = """
import resource, runpy
def run(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    runpy.run_module("footfall.api.server", run_name="__main__")
run"""


class Process:
    """``python -m footfall.api.server`` on embedded topics in a folder, as a user starts it."""

    def __init__(
        self,
        home: Path,
        port: int,
        *options: str,
        wait: bool = True,
        file_bytes_max: int | None = None,
        **environ: str,
    ) -> None:
        self.port = port
        # A pipe that nobody reads is full one day, and its writer waits.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        limited = ["-c", f"{LIMITED}({file_bytes_max})"]
        plain = {name: value for name, value in os.environ.items() if "_URL" not in name}
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(["-m", "footfall.api.server"] if file_bytes_max is None else limited),
                *options,
            ],
            cwd=project_root(),
            env=plain | {"FOOTFALL_HOME": str(home), "FRONTEND_PORT": str(port)} | environ,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        if wait:
            try:
                eventually(self._answers)
            except BaseException:
                self.kill()
                raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.ended()
        try:
            socket.create_connection(("127.0.0.1", self.port), WAIT_S).close()
        except OSError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return (exit code, stdout, stderr)."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str, str]:
        """Return (exit code, stdout, stderr) once it ends by itself."""
        out, _ = self.process.communicate(timeout=WAIT_S)
        self._log.seek(0)
        return self.process.returncode, out, self._log.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
