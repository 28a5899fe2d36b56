"""Retries for a bounded time: a passing failure must not stop a worker, or lose rows.

This is no library's, because the clock is passed in as well as the sleep: a test of two minutes of
outage takes no time.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from footfall.sinks import SinkUnavailableError
from footfall.sinks.attempts import ATTEMPTS

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Limits of trying again, and the waits in between.

    The wait doubles from ``first_delay_s`` to ``delay_max_s``; each is cut by up to a half at
    random, so that workers that failed together do not come back together.
    """

    give_up_after_s: float = 120.0
    """Seconds, counted from the first failure; the last attempt is made when they have passed."""
    first_delay_s: float = 0.1
    delay_max_s: float = 5.0
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    """Clock in seconds that never goes back."""
    jitter: Callable[[], float] = random.random
    """Random number from 0 to 1."""

    def delay_s(self, failures: int) -> float:
        """Return the wait in seconds after so many failures in a row (at least 1)."""
        doubled = self.first_delay_s * 2.0 ** min(failures - 1, 32)
        return min(self.delay_max_s, doubled) * (1.0 - 0.5 * self.jitter())


def call_with_retry(
    attempt: Callable[[], T],
    *,
    why_again: Callable[[Exception], str | None],
    target: str,
    backoff: Backoff,
) -> T:
    """Return what ``attempt`` returns, as soon as it does.

    ``why_again`` gives the reason of an error that may pass, in a few words, or None for one that
    will not: that error is raised. ``target`` names what is called, for log lines (the first
    failure and the recovery) and for the SinkUnavailableError raised in the end.
    """
    failures = 0
    started_at = 0.0
    while True:
        try:
            result = attempt()
        except Exception as error:
            reason = why_again(error)
            ATTEMPTS.failed(target, error, is_passing=reason is not None)
            if reason is None:
                raise
            now = backoff.clock()
            failures += 1
            started_at = now if failures == 1 else started_at
            left_s = started_at + backoff.give_up_after_s - now
            if left_s <= 0:
                tried = f" (tried {failures} times in {now - started_at:.0f} s)"
                raise SinkUnavailableError(
                    f"{target}: {reason}{tried if failures > 1 else ''}"
                ) from error
            if failures == 1:
                log.warning("%s: %s; trying again for %g s", target, reason, left_s)
            backoff.sleep(min(backoff.delay_s(failures), left_s))
            ATTEMPTS.again(target)
        else:
            if failures:
                outage_s = backoff.clock() - started_at
                log.warning("%s: works again after %.1f s", target, outage_s)
            return result
