"""A value that is asked for again from time to time, and never makes its reader wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from footfall.sinks import SinkError

COST_SHARE_MAX = 0.1
"""The largest share of time that a question is under way: a slow one is asked less often."""

T = TypeVar("T")

log = logging.getLogger("footfall.api")


class Refreshed(Generic[T]):
    """The last answer to a question, and why there is no newer one."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        first: T,
        every_s: float,
        clock: Callable[[], float],
        *,
        cost_share_max: float = COST_SHARE_MAX,
    ) -> None:
        self.value = first
        self.problem: str | None = None
        self.is_answered = False
        """True once the value is an answer; before, it is the first value that was given."""
        self._cost_share_max = cost_share_max
        self._ask = ask
        self._every_s = every_s
        self._clock = clock
        self._due_s = clock()
        self._asking: asyncio.Task[None] | None = None

    def refresh(self) -> asyncio.Task[None] | None:
        """Ask again if it is due. Return the task of the question under way, if there is one."""
        if self._asking is not None and self._asking.done():
            self._asking = None
        if self._asking is None and self._clock() >= self._due_s:
            self._asking = asyncio.create_task(self._run())
        return self._asking

    async def _run(self) -> None:
        started_s = self._clock()
        try:
            self.value = await self._ask()
            self.problem = None
            self.is_answered = True
        except (SinkError, OSError) as error:
            self.problem = str(error).split("\n")[0][:300]
        except Exception as error:
            log.exception("the live page could not be refreshed")
            self.problem = f"{type(error).__name__}: {error}"[:300]
        ended_s = self._clock()
        rest_s = (ended_s - started_s) * (1 / self._cost_share_max - 1)
        self._due_s = ended_s + max(self._every_s, rest_s)
