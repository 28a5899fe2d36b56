"""Child processes of a command: started apart, watched, started again, ended without a trace.

Each child is a ``footfall --tied ...`` in a session of its own, so that Ctrl-C in the terminal
reaches the supervisor alone, which then ends them in order. Must be used from the thread that
lives longest: Linux ties a child to the thread that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import footfall
from footfall.cli.errors import FailureError
from footfall.streams.process import bound_log

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0
STEADY_S = 30.0
"""Seconds of running after which earlier deaths of a child are forgotten."""
QUICK_DEATHS_MAX = 5
LOG_BYTES_MAX = 10_000_000
LOG_TAIL_BYTES = 8_192
TERM_WAIT_S = 8.5
"""A little more than a worker takes at most (streams.process.STOP_WITHIN_S)."""
LAST_WAIT_S = 1.0
_POLL_S = 0.02

PROJECT = Path(__file__).resolve().parent.parent
"""The folder of the rooms."""
_INSTALLED_IN = str(Path(footfall.__path__[0]).absolute().parent)
"""The folder of the package: children must find the same one, installed or not."""


@dataclass(slots=True)
class Child:
    """One process of a command, through all its starts."""

    name: str
    arguments: tuple[str, ...]
    service: bool
    """A service must not end by itself; a task ends when its work is done."""
    last: bool
    """True where it ends after the others, which write to it."""
    program: bool
    """True for a program that is not a footfall command: the others go on without it."""
    log: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    start_again_s: float | None = None
    quick_deaths: int = 0
    restarts: int = 0
    done: bool = False

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self.process.pid if self.process is not None else None


@dataclass(slots=True)
class Supervisor:
    """Starts children, keeps services alive, ends all of them."""

    logs: Path
    environ: Mapping[str, str]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    children: dict[str, Child] = field(default_factory=dict)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        service: bool,
        last: bool = False,
        program: bool = False,
    ) -> Child:
        """Start ``footfall <arguments>``; its output goes to ``<logs>/<name>.log``.

        For a ``program`` the first argument is its path.
        """
        path = os.pathsep.join(filter(None, (_INSTALLED_IN, self.environ.get("PYTHONPATH"))))
        child = Child(
            name=name,
            arguments=tuple(arguments),
            service=service,
            last=last,
            program=program,
            log=self.logs / f"{name}.log",
            environ={**self.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        self.children[name] = child
        self._launch(child)
        return child

    def poll(self) -> None:
        """Notice deaths, start services again when their back-off is over, bound the logs.

        Raises FailureError where a task failed, or a service dies again and again.
        """
        now_s = self.clock()
        for child in self.children.values():
            if child.process is not None:
                code = child.process.poll()
                if code is not None:
                    self._ended(child, code, now_s)
                else:
                    bound_log(child.log, LOG_BYTES_MAX)
            elif child.start_again_s is not None and now_s >= child.start_again_s:
                self._launch(child)

    def stop(self) -> list[str]:
        """End every child within 10 seconds: by SIGTERM first, by SIGKILL if that does not help.

        Returns the names of those that ran and did not end well.
        """
        children = self.children.values()
        return [
            *self._stop([child for child in children if not child.last], TERM_WAIT_S),
            *self._stop([child for child in children if child.last], LAST_WAIT_S),
        ]

    def stop_one(self, name: str) -> None:
        """End one child and forget it."""
        self._stop([self.children.pop(name)], TERM_WAIT_S)

    def _launch(self, child: Child) -> None:
        module = ("footfall.cli.tied",) if child.program else ("footfall.cli.main", "--tied")
        command = [sys.executable, "-P", "-m", *module, *child.arguments]
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=child.environ,
                start_new_session=True,
            )
        child.started_s = self.clock()
        child.start_again_s = None

    def _ended(self, child: Child, code: int, now_s: float) -> None:
        process, child.process = child.process, None
        assert process is not None
        _close(process)
        if not child.service and code == 0:
            child.done = True
            return
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = last_line(child.log)
        if not child.service and code > 0:
            raise FailureError(f"{child.name} failed: {why or how}")
        if now_s - child.started_s >= STEADY_S:
            child.quick_deaths = 0
        child.quick_deaths += 1
        if child.quick_deaths >= QUICK_DEATHS_MAX:
            given_up = (
                f"{child.name} ended {child.quick_deaths} times in a row ({how}); its last line "
                f"in {child.log}: {why or '(nothing)'}"
            )
            if not child.program:
                raise FailureError(given_up)
            self.say(f"{given_up}; it is left out")
            return
        wait_s = min(BACKOFF_FIRST_S * 2 ** (child.quick_deaths - 1), BACKOFF_MAX_S)
        child.restarts += 1
        child.start_again_s = now_s + wait_s
        said = f": {why}" if why and code > 0 else ""
        self.say(f"{child.name} ended ({how}){said}; starting it again in {wait_s:g} s")

    def _stop(self, children: Sequence[Child], wait_s: float) -> list[str]:
        running = [(child.name, child.process) for child in children if child.process is not None]
        for child in children:
            child.process, child.start_again_s = None, None
        for _, process in running:
            _signal(process, signal.SIGTERM)
        until_s = time.monotonic() + wait_s
        while any(process.poll() is None for _, process in running) and time.monotonic() < until_s:
            time.sleep(_POLL_S)
        for _, process in running:
            if process.poll() is None:
                _signal(process, signal.SIGKILL)
            process.wait()
            _close(process)
        # A child that is still starting has no handler yet, and is killed by SIGTERM itself.
        well = (0, -signal.SIGTERM)
        return [name for name, process in running if process.returncode not in well]


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, shortened; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return text.removeprefix("footfall: ")[:300]


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the child's whole group; only for a child not known to have ended."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # Nothing is left of the group (macOS says "not permitted" of one that is only a zombie).
        return


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
