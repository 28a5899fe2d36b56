"""Looks at something from time to time, in a thread of its own, so that a scrape never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from footfall.schemas.status import LOG_EVERY_S

log = logging.getLogger(__name__)

ENDED_WITHIN_S = 1.0

T = TypeVar("T")


def problem_of(error: BaseException) -> str:
    """Return why a look failed, on one line."""
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


class Looking(Generic[T]):
    """Keeps what was found last."""

    def __init__(
        self,
        name: str,
        look: Callable[[], T],
        every_s: float,
        tell: Callable[[T], None] | None = None,
    ) -> None:
        """``tell`` logs what was found, each LOG_EVERY_S; without it nothing is logged.

        While looks fail it is not called: why they fail is logged instead.
        """
        self._name = name
        self._look = look
        self._every_s = every_s
        self._tell = tell
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name=name, daemon=True)
        self.errors = 0
        self.last: T | None = None
        self.problem = "nothing was looked at yet"
        """Reason why the last look failed; "" if it did not."""

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """End it; a look under way is left behind."""
        self._done.set()
        self._thread.join(ENDED_WITHIN_S)

    def look_once(self) -> None:
        """Look, and keep what is found."""
        problem = ""
        try:
            self.last = self._look()
        except Exception as error:
            # Whatever a server does, the observer stays, and says that it sees nothing.
            self.errors += 1
            problem = problem_of(error)
        if self._tell is not None and problem != self.problem:
            if problem:
                log.error("cannot look at the %s: %s", self._name, problem)
            elif self.errors:
                log.info("can look at the %s again", self._name)
        self.problem = problem

    def _keep_looking(self) -> None:
        tell_at_s = time.monotonic() + LOG_EVERY_S
        while True:
            self.look_once()
            if self._tell is not None and time.monotonic() >= tell_at_s:
                tell_at_s += LOG_EVERY_S
                if self.problem:
                    log.error("sees nothing of the %s: %s", self._name, self.problem)
                elif self.last is not None:
                    self._tell(self.last)
            if self._done.wait(self._every_s):
                return
