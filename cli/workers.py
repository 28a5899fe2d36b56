"""``footfall run FLOW --workers N``: the processes of one flow, kept running, ended together."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from footfall.cli.errors import FailureError, say
from footfall.cli.home import Home
from footfall.cli.stop import Stop
from footfall.cli.supervise import Supervisor
from footfall.schemas.settings import read_settings

POLL_S = 0.1
_READ_BYTES = 65_536


def run_workers(
    flow: str, count: int, environ: Mapping[str, str], *, once: bool, skip_removed: bool
) -> int:
    """Run so many processes until a signal or, with ``once``, until all have read to the end.

    Returns the exit code. Raises FailureError where a process ends again and again (with
    ``once``, where it fails); the others are ended first.
    """
    home = Home(read_settings(environ).footfall_home)
    home.make()
    home.logs.mkdir(exist_ok=True)
    options = [*(["--once"] if once else []), *(["--skip-removed"] if skip_removed else [])]
    stop = Stop()
    said: deque[str] = deque(maxlen=count)

    def tell(text: str) -> None:
        said.append(text)
        say(text)

    def tell_added() -> None:
        for tail in tails:
            for line in tail.added():
                # The supervisor has already told the last line of a process that has ended.
                if line.startswith("{"):
                    # A JSON line names its process itself.
                    print(line, file=sys.stderr, flush=True)
                elif not any(line in text for text in said):
                    say(f"{tail.name}: {line}")

    if sys.stderr.isatty():
        # The processes write to files, so they do not see that this is a terminal.
        environ = {"LOG_FORMAT": "PLAIN", **environ}
    supervisor = Supervisor(home.logs, environ, say=tell)
    tails: list[Tail] = []
    with stop.on_signals():
        try:
            for index in range(count):
                name = f"{flow}.{index}"
                tails.append(Tail(name, home.logs / f"{name}.log"))
                share = ("--worker", f"{index}/{count}")
                supervisor.start(name, ("run", flow, *share, *options), service=not once)
            say(f"{flow} runs as {count} processes; what they say is also in {home.logs}")
            while not stop.asked and not all(c.done for c in supervisor.children.values()):
                supervisor.poll()
                tell_added()
                time.sleep(POLL_S)
        finally:
            wrong = supervisor.stop()
            tell_added()
    if wrong:
        raise FailureError(
            f"{', '.join(wrong)} did not end well; what was not written is read again at the "
            "next start"
        )
    return 0


class Tail:
    """The lines that a process adds to its log from now on."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self._log = log
        self._position = log.stat().st_size if log.exists() else 0

    def added(self) -> list[str]:
        """Return whole lines added since the last call; very many take several calls."""
        try:
            with self._log.open("rb") as file:
                if self._log.stat().st_size < self._position:
                    self._position = 0  # It was cut because it had grown long.
                file.seek(self._position)
                added = file.read(_READ_BYTES)
        except OSError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._position += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        return [text for line in lines if (text := line.removeprefix("footfall: ").strip())]
