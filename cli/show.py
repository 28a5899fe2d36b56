"""Shows a demo while it runs: redrawn on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from api.snapshot import Flow
from api.workers import WorkerMeter, read_statuses
from cli.demo_house import House
from cli.errors import say
from cli.live import RUNNING, FlowLine, Picture, plain_line, terminal_view
from cli.supervise import Child, last_line

if TYPE_CHECKING:
    from rich.live import Live

MEASURE_EVERY_S = 1.0
PLAIN_EVERY_S = 5.0
MESSAGES_MAX = 100
WAITING, DONE = "waiting", "done"
_IDLE = (DONE, WAITING)


class Show:
    """What the user sees of a demo. A context: a terminal is its own while it is open."""

    def __init__(self, *, plain_every_s: float = PLAIN_EVERY_S) -> None:
        self.page = ""
        self._messages: list[str] = []
        self._meter = WorkerMeter()
        self._plain_every_s = plain_every_s
        self._begun_s = time.monotonic()
        self._measure_s = 0.0
        self._show_s = 0.0 if sys.stdout.isatty() else self._begun_s + plain_every_s
        self._screen: Live | None = None

    def __enter__(self) -> Show:
        if sys.stdout.isatty():
            from rich.live import Live

            self._screen = Live(auto_refresh=False)
            self._screen.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.stop()

    def tell(self, text: str) -> None:
        """Something happened that the user should know."""
        self._messages.append(text)
        del self._messages[:-MESSAGES_MAX]
        if self._screen is None:
            say(text)

    def tick(self, house: House) -> None:
        """Measure and draw where it is time to."""
        now_s = time.monotonic()
        if now_s >= self._measure_s:
            self._measure_s = now_s + MEASURE_EVERY_S
            self._meter.observe(read_statuses(house.home.path), time.time_ns() // 1_000_000)
        if now_s < self._show_s:
            return
        picture = self._picture(house, now_s)
        if self._screen is not None:
            self._show_s = now_s + MEASURE_EVERY_S
            self._screen.update(terminal_view(picture), refresh=True)
        else:
            self._show_s = now_s + self._plain_every_s
            print(plain_line(picture), flush=True)

    def _picture(self, house: House, now_s: float) -> Picture:
        flows = {flow.flow: flow for flow in self._meter.flows()}
        lines = [
            FlowLine(name, _state(house.workers.get(name, ()), flows.get(name)), flows.get(name))
            for name in house.flows
        ]
        notes = {child.name: last_line(child.log) for child in house.generators}
        if self._screen is None:
            # One line has no room for flows that do nothing: they are only counted.
            idle = Counter(line.state for line in lines if line.state in _IDLE)
            lines = [line for line in lines if line.state not in _IDLE]
            told = ", ".join(f"{idle[state]} {state}" for state in _IDLE if idle[state])
            notes = ({"flows": told} if told else {}) | notes
        return Picture(
            page=self.page,
            elapsed_s=now_s - self._begun_s,
            flows=lines,
            generators=notes,
            messages=self._messages,
        )


def _state(children: Sequence[Child], flow: Flow | None) -> str:
    """Of a flow: what the process does that is least far."""
    if not children:
        return WAITING
    if all(child.done for child in children):
        return DONE
    left = [child for child in children if not child.done]
    if any(child.pid is None for child in left):
        return "ended, to start again"
    said = {worker.pid for worker in flow.workers} if flow is not None else set()
    if any(child.pid not in said for child in left):
        return "starting"
    return RUNNING
