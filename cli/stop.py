"""Signals that ask a command to end, kept until it looks at them between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818 - asked for, so no error
    """A signal has asked the command to end."""


@dataclass(slots=True)
class Stop:
    """A flag that SIGINT, SIGTERM and SIGHUP set while something runs."""

    asked: bool = False

    def check(self) -> None:
        """Raise Stopped once a signal came."""
        if self.asked:
            raise Stopped

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Note the signals for this while; a second one changes nothing, as ending is bounded."""

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.asked = True

        # Under nohup a hang-up is ignored, and stays so.
        wanted = [
            number
            for number in _SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        before = {number: signal.signal(number, on_signal) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
