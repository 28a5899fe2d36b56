"""Shows a demo while it runs: redrawn on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from msgspec.structs import replace

from footfall.api.snapshot import Flow
from footfall.api.workers import WorkerMeter
from footfall.cli.demo_house import House
from footfall.cli.errors import say
from footfall.cli.live import DONE, RUNNING, WAITING, FlowLine, Picture, plain_line, terminal_view
from footfall.cli.supervise import Child, last_line
from footfall.cli.terminal import moves_cursor
from footfall.operations.looking import Looking
from footfall.operations.observer import Look, Observer

if TYPE_CHECKING:
    from rich.live import Live

MEASURE_EVERY_S = 1.0
LOOK_EVERY_S = 3.0
"""Seconds between looks at the topics. Workers' statuses are read each second."""
PLAIN_EVERY_S = 5.0
MESSAGES_MAX = 100
_IDLE = (DONE, WAITING)


class Show:
    """The view that a user has of a demo. As a context it owns the terminal while it is open."""

    def __init__(self, *, is_live: bool = True, plain_every_s: float = PLAIN_EVERY_S) -> None:
        """Show a demo. Unless ``is_live``, flows that wait for their turn are no trouble."""
        self.page = ""
        self._is_live = is_live
        self._messages: list[str] = []
        self._meter = WorkerMeter()
        self._plain_every_s = plain_every_s
        self._begun_s = time.monotonic()
        self._measure_s = 0.0
        self._is_screen = moves_cursor(sys.stdout)
        self._show_s = 0.0 if self._is_screen else self._begun_s + plain_every_s
        self._screen: Live | None = None
        self._flows: Observer | None = None
        self._observer: Looking[Look] | None = None

    def __enter__(self) -> Show:
        if self._is_screen:
            from rich.live import Live

            self._screen = Live(auto_refresh=False)
            self._screen.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        if self._observer is not None:
            self._observer.close()
        if self._screen is not None:
            self._screen.stop()

    def tell(self, text: str) -> None:
        """Show a message."""
        self._messages.append(text)
        del self._messages[:-MESSAGES_MAX]
        if self._screen is None:
            say(text)

    def tick(self, house: House) -> None:
        """Measure and draw when it is time to."""
        now_s = time.monotonic()
        if now_s >= self._measure_s:
            self._measure_s = now_s + MEASURE_EVERY_S
            self._measure(house)
        if now_s < self._show_s:
            return
        picture = self._picture(house, now_s)
        if self._screen is not None:
            self._show_s = now_s + MEASURE_EVERY_S
            size = self._screen.console.size
            self._screen.update(terminal_view(picture, size.width, size.height), refresh=True)
        else:
            self._show_s = now_s + self._plain_every_s
            print(plain_line(picture), flush=True)

    def _measure(self, house: House) -> None:
        """Look at the flows as the live page does, without waiting for a server that hangs."""
        if self._flows is None or self._observer is None:
            self._flows = Observer(house.settings, asks_groups=False)
            self._observer = Looking("flows", self._flows.look, LOOK_EVERY_S)
            self._observer.start()
        before = self._observer.last if not self._observer.problem else None
        self._meter.observe(self._flows.look_again(before or Look(0)))

    def _picture(self, house: House, now_s: float) -> Picture:
        flows = {flow.flow: flow for flow in self._meter.flows()}
        if not self._is_live:
            flows = {name: replace(flow, trouble="") for name, flow in flows.items()}
        lines = [
            FlowLine(name, _state(house.workers.get(name, ()), flows.get(name)), flows.get(name))
            for name in house.flows
        ]
        notes = {child.name: last_line(child.log) for child in house.generators}
        if self._screen is None:
            # One line has no room for idle flows: they are only counted.
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
            troubles=self._meter.troubles() if self._is_live else (),
        )


def _state(children: Sequence[Child], flow: Flow | None) -> str:
    """Return the state of a flow: that of its process that is least far."""
    if not children:
        return WAITING
    if all(child.done for child in children):
        return DONE
    left = [child for child in children if not child.done]
    if any(child.pid is None for child in left):
        return "restarting"
    said = {worker.pid for worker in flow.workers} if flow is not None else set()
    if any(child.pid not in said for child in left):
        return "starting"
    return RUNNING
