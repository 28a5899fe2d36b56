"""Runs calls in threads, a bounded number at once, and ends a call whose client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect

from footfall.infra._clickhouse_errors import Code, failure

T = TypeVar("T")

WAITING_MAX = 64
WAIT_S = 10.0
CANCEL_AGAIN_S = 0.2
"""Time between cancels: a call may be cancelled a moment before the engine knows of it."""


class Turns:
    """Lets calls run or wait. Use it inside one event loop."""

    def __init__(
        self,
        executor: Executor,
        at_once: int,
        waiting_max: int = WAITING_MAX,
        wait_s: float = WAIT_S,
    ) -> None:
        self._executor = executor
        self._at_once = at_once
        self._waiting_max = waiting_max
        self._wait_s = wait_s
        self._free = asyncio.Semaphore(at_once)
        self._waiting = 0

    async def run(
        self,
        work: Callable[[], T],
        *,
        gone: Coroutine[Any, Any, None],
        cancel: Callable[[], object],
    ) -> T:
        """Return what the work returns, or raise what it raises.

        ``gone`` ends when the client leaves: then ``cancel`` is called until the work has ended,
        and ClientDisconnect is raised. Raises EngineError where too many calls run and wait.
        """
        leaving: asyncio.Future[Any] = asyncio.create_task(gone)
        try:
            await self._turn(leaving)
            try:
                running: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(
                    self._executor, work
                )
                await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
                while not running.done():
                    await asyncio.to_thread(cancel)
                    await asyncio.wait({running}, timeout=CANCEL_AGAIN_S)
            finally:
                self._free.release()
            if leaving.done():
                running.exception()
                raise ClientDisconnect
            return cast("T", running.result())
        finally:
            leaving.cancel()

    async def _turn(self, leaving: asyncio.Future[Any]) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        if self._waiting >= self._waiting_max:
            raise self._too_many(f"{self._waiting} wait")
        acquiring: asyncio.Future[Any] = asyncio.create_task(self._free.acquire())
        self._waiting += 1
        try:
            await asyncio.wait(
                {acquiring, leaving}, timeout=self._wait_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self._waiting -= 1
        if acquiring.done():
            return
        acquiring.cancel()
        if leaving.done():
            raise ClientDisconnect
        raise self._too_many(f"none of them ended within {self._wait_s:g} s")

    def _too_many(self, why: str) -> Exception:
        return failure(
            Code.TOO_MANY_SIMULTANEOUS_QUERIES,
            f"Too many simultaneous queries: {self._at_once} run, and {why}; try again",
        )
