"""Durable writes of what comes in over HTTP. A record is acknowledged once it cannot be lost.

Embedded topics are written by one group commit: requests queue, one committer takes all that
wait, writes them by one call per topic in a worker thread, and then answers all of them.

Delivery      at least once: a request that was answered with an error may still be stored
Back pressure a full queue refuses at once (BusyError), and nothing grows without a limit

Kafka has its own batching: see ``api.kafka_writing``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from footfall.sinks import Record, SinkError, TopicWriter

RECORDS_WAITING_MAX = 20_000
BYTES_WAITING_MAX = 64 * 1_048_576
COMMIT_EVERY_S = 0.01
"""Least time between the starts of commits. A lone request does not wait; under load a request
waits half of it, and many share the cost of a commit (ten files and their syncs)."""
CLOSE_WITHIN_S = 1.0

log = logging.getLogger("footfall.api")


class BusyError(Exception):
    """Too much waits to be written: the client should come again in a second."""


class NotStoredError(Exception):
    """The topic could not be written; nothing was acknowledged. The message says why."""


class RecordTooLargeError(Exception):
    """The topic can never hold a record; ``place`` says which of the records it is, from 0."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place = place


class Writing(Protocol):
    """Stores records durably, without blocking the event loop."""

    async def write(self, topic: str, records: Sequence[Record]) -> None:
        """Return when all are durable. Raises BusyError, NotStoredError, RecordTooLargeError."""

    async def check(self) -> None:
        """Return if a write would work now. Raises NotStoredError saying why not."""

    async def close(self) -> None:
        """Write what waits, then release everything. Never raises."""

    @property
    def records_waiting(self) -> int:
        """Number of records taken and not durable yet."""


@dataclass(slots=True)
class _Waiting:
    topic: str
    records: Sequence[Record]
    done: asyncio.Future[None]


class GroupCommit:
    """Writing for embedded topics. Make it inside the event loop that serves.

    ``probe`` tries whether the folder can be written and raises OSError or SinkError.
    """

    def __init__(
        self,
        topics: TopicWriter,
        probe: Callable[[], None],
        *,
        records_waiting_max: int = RECORDS_WAITING_MAX,
        bytes_waiting_max: int = BYTES_WAITING_MAX,
        commit_every_s: float = COMMIT_EVERY_S,
    ) -> None:
        self._topics = topics
        self._probe = probe
        self._records_max = records_waiting_max
        self._bytes_max = bytes_waiting_max
        self._every_s = commit_every_s
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Waiting] = []
        self._records = 0
        self._bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        # One thread: commits follow one another, so records of a topic keep their order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._committer = asyncio.create_task(self._run(), name="group-commit")

    @property
    def records_waiting(self) -> int:
        return self._records

    async def write(self, topic: str, records: Sequence[Record]) -> None:
        if self._closing:
            raise NotStoredError("the server is stopping")
        size = sum(len(value) for _, value in records)
        # A single large request must be able to pass an empty queue.
        if self._queue and (
            self._records + len(records) > self._records_max
            or self._bytes + size > self._bytes_max
        ):
            raise BusyError
        waiting = _Waiting(topic, records, self._loop.create_future())
        self._queue.append(waiting)
        self._records += len(records)
        self._bytes += size
        self._wake.set()
        await waiting.done

    async def check(self) -> None:
        try:
            await asyncio.to_thread(self._probe)
        except (OSError, SinkError) as error:
            raise NotStoredError(str(error)) from None

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        _, late = await asyncio.wait([self._committer], timeout=CLOSE_WITHIN_S)
        if late:
            log.error("a write to the topics hangs: %d records unacknowledged", self._records)
            self._committer.cancel()
        self._thread.shutdown(wait=not late, cancel_futures=True)
        self._topics.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                started = self._loop.time()
                await self._commit()
                spare_s = started + self._every_s - self._loop.time()
                if spare_s > 0 and not self._closing:
                    await asyncio.sleep(spare_s)
            if self._closing:
                return

    async def _commit(self) -> None:
        batch, self._queue = self._queue, []
        by_topic: dict[str, list[_Waiting]] = {}
        for waiting in batch:
            by_topic.setdefault(waiting.topic, []).append(waiting)
        failures = await self._loop.run_in_executor(self._thread, self._write_all, by_topic)
        for waiting in batch:
            self._records -= len(waiting.records)
            self._bytes -= sum(len(value) for _, value in waiting.records)
            if waiting.done.done():
                continue  # the client is gone
            failure = failures.get(waiting.topic)
            if failure is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(NotStoredError(failure))

    def _write_all(self, by_topic: dict[str, list[_Waiting]]) -> dict[str, str]:
        """Write all topics; return the reason for each that failed. Runs in the commit thread."""
        failures = {}
        for topic, group in by_topic.items():
            records = [record for waiting in group for record in waiting.records]
            try:
                self._topics.write(topic, records)
            except (OSError, SinkError) as error:
                failures[topic] = str(error)
                log.error("%d records for %s not stored: %s", len(records), topic, error)
            except Exception as error:
                # Whatever it was, waiting clients must hear that nothing was acknowledged.
                failures[topic] = f"{type(error).__name__}: {error}"
                log.exception("%d records for %s not stored", len(records), topic)
        return failures
