"""The signals that end a server in the foreground, also one that a shell has started with ``&``.

Such a shell has its programs ignore SIGINT, which both of these take up again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def waiting_for_the_end() -> Callable[[], object]:
    """From now on SIGTERM and SIGINT end the wait that is returned.

    The kernel may hand a signal to a thread of an engine, which wakes no waiting lock of the
    main thread: Python then writes to the pipe all the same.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    return lambda: os.read(woken, 1)


def interrupt_once() -> None:
    """From now on the first SIGTERM or SIGINT raises KeyboardInterrupt, whatever is under way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)
