"""Ends a child of ``footfall demo`` when its parent ends, even by ``kill -9``.

There are two ways. Linux kills the child by PR_SET_PDEATHSIG, whatever it is doing; elsewhere,
and where the parent was gone before that call, a thread sees the end of standard input, whose
other end the parent alone holds. It uses SIGKILL, since all state of a worker is safe at any
moment and the next start must find ports and folders free.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """End with the parent from now on. Call it early; standard input must be the parent's pipe."""
    _die_with_parent()
    threading.Thread(target=_end_with_input, name="parent-watch", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Become another program that ends with its parent: ``-m footfall.cli.tied PATH ...``."""
    _die_with_parent()
    parent = select.poll()
    parent.register(0, select.POLLHUP)
    # Where the parent was gone before that call, nobody holds the other end of its pipe.
    if not parent.poll(0):
        os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
