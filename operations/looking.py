"""Looks at something from time to time, in a thread of its own, so that a scrape never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

ENDED_WITHIN_S = 1.0

T = TypeVar("T")


class Looking(Generic[T]):
    """Keeps what was found last."""

    def __init__(self, name: str, look: Callable[[], T], every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name=name, daemon=True)
        self.errors = 0
        self.last: T | None = None
        self.problem = "nothing was looked at yet"
        """Why the last look failed; "" where it did not."""

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """End it; a look under way is left behind."""
        self._done.set()
        self._thread.join(ENDED_WITHIN_S)

    def look_once(self) -> None:
        """Look, and keep what is found."""
        try:
            self.last = self._look()
            self.problem = ""
        except Exception as error:
            # Whatever a server does, the observer stays, and says that it sees nothing.
            self.errors += 1
            self.problem = str(error).strip().split("\n")[0][:300] or type(error).__name__

    def _keep_looking(self) -> None:
        while True:
            self.look_once()
            if self._done.wait(self._every_s):
                return
