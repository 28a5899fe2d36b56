"""Signals that end a server in the foreground, also one that a shell has started with ``&``.

Such a shell lets its programs ignore SIGINT; both functions here handle it again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def waiting_for_the_end() -> Callable[[], object]:
    """Return a function that waits for SIGTERM or SIGINT, which are caught from now on.

    The kernel may hand a signal to a thread of an engine, which wakes no waiting lock of the main
    thread; Python writes to the pipe in any case.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    return lambda: os.read(woken, 1)


def interrupt_once() -> None:
    """Raise KeyboardInterrupt at the first SIGTERM or SIGINT, whatever is under way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)
