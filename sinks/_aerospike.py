"""Shared parts of sinks on an Aerospike server: the connection, batches of operates, retries.

What a node has acknowledged and not flushed yet is lost when it is killed: see
``_aerospike_recent``. While that may be, a thread looks at the nodes, so that lost writes are made
again even where nothing else is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

import aerospike
import polars as pl
from aerospike import exception
from aerospike_helpers.batch.records import BatchRecord

from footfall.schemas.addresses import AEROSPIKE_NAME, Host, unresolved
from footfall.sinks import SinkError, SinkRefusedError, SinkUnavailableError
from footfall.sinks._aerospike_answers import (
    AGAIN,
    NOT_FOUND,
    OK,
    RecordKey,
    Remedies,
    TryAgainError,
    ages_s,
    read_records,
    sink_error,
    text_of,
    why_again,
)
from footfall.sinks._aerospike_batches import RECORDS_PER_CALL, BatchWriter, Operate
from footfall.sinks._aerospike_recent import KEEP_S, RecentWrites
from footfall.sinks.retry import Backoff, call_with_retry

log = logging.getLogger(__name__)

BIN_NAME_MAX = 15
"""Most bytes of a bin's name; Aerospike's limit."""
LOOK_EVERY_S = 1.0

Connect = Callable[[dict[str, Any]], Any]
"""Function that makes a client from a configuration."""
Batches = Callable[[pl.DataFrame], list[list[Operate]]]
"""Function that makes the operates of rows, the same each time; a record is once in a batch."""


class AerospikeServer:
    """A server, connected to at the first use; may be shared by threads."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        about: str,
        of: str,
        batches: Batches,
        remedies: Remedies,
        commit_level: str,
        generation_policy: str,
        max_parallel_writes: int,
        give_up_after_s: float,
        timeout_ms: int,
        keep_s: float = KEEP_S,
        others: Sequence[Host] = (),
        connect: Connect = aerospike.client,
    ) -> None:
        """Take the server's address, and what its errors say; nothing is connected yet.

        ``about`` begins each error, and ``of`` is the plural noun for records in them. ``others``
        are nodes that are asked for the cluster where the first does not answer. ``timeout_ms``
        bounds each attempt to connect, read or write a batch. What was written may be lost with a
        node for ``keep_s``.
        """
        self._hosts = [(host, port), *others]
        self._about = about
        self._of = of
        self._batches = batches
        self._writer = BatchWriter(
            about=about,
            of=of,
            remedies=remedies,
            commit_level=commit_level,
            generation_policy=generation_policy,
            max_parallel_writes=max_parallel_writes,
        )
        self._timeout_ms = timeout_ms
        self._closed = Event()
        self._backoff = Backoff(give_up_after_s=give_up_after_s, sleep=self._closed.wait)
        self._connect = connect
        self._lock = Lock()
        """Lock of the client."""
        self._client: Any = None
        self._turn = Lock()
        """Lock of writes: what is recent, and what nodes did meanwhile, must be known together."""
        self._recent = RecentWrites[pl.DataFrame](keep_s=keep_s)
        self._looker: Thread | None = None

    def write(self, rows: pl.DataFrame) -> None:
        """Return when all rows are acknowledged.

        What was written in the seconds before a node ended is written again once it is back.
        Raises SinkUnavailableError after bounded retries, and SinkRefusedError.
        """
        waiting = self._batches(rows)
        if not any(waiting):
            return
        self._wait(self._recent.room_in_s)
        size_bytes = int(rows.estimated_size())

        def attempt(client: Any) -> None:
            try:
                self._write_what_was_lost(client)
                while waiting:
                    self._writer.write(client, waiting[0])
                    del waiting[0]
            except TryAgainError:
                self._recent.failed(rows, size_bytes)
                raise
            self._recent.acknowledged(rows, size_bytes)

        self._keep_looking()
        self._patiently(attempt)

    def restore(self, rows: pl.DataFrame) -> None:
        """Write soon what an earlier process wrote last: a node may have lost it meanwhile."""
        with self._turn:
            self._recent.restored(rows, int(rows.estimated_size()))
        self._keep_looking()

    def recent(self) -> list[pl.DataFrame]:
        """Return the rows that a node which is killed now may not have kept."""
        with self._turn:
            return self._recent.all()

    def settle(self) -> None:
        """Return when all that was written outlasts the death of a node. Raises SinkError."""
        self._wait(self._recent.settled_in_s)

    def operate(self, key: RecordKey, operations: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the bins that reading operations give; None without a record. Raises
        SinkError."""
        try:
            _, _, found = self._connected().operate(key, operations)
        except exception.RecordNotFound:
            return None
        except exception.AerospikeError as error:
            raise sink_error(error, self._about) from error
        except TryAgainError as error:
            raise SinkUnavailableError(f"{self._about}: {error}") from error
        assert isinstance(found, dict)
        return found

    def read(self, keys: Sequence[RecordKey]) -> list[dict[str, Any] | None]:
        """Return the bins of each record, None for a missing one. Raises SinkError."""
        bins: list[dict[str, Any] | None] = []
        try:
            client = self._connected()
            for start in range(0, len(keys), RECORDS_PER_CALL):
                found = read_records(client, keys[start : start + RECORDS_PER_CALL])
                bins += [self._bins(record) for record in found]
        except exception.AerospikeError as error:
            raise sink_error(error, self._about) from error
        except TryAgainError as error:
            raise SinkUnavailableError(f"{self._about}: {error}") from error
        return bins

    def close(self) -> None:
        """Release the connection. Never raises."""
        self._closed.set()
        if self._looker is not None:
            self._looker.join()
        self._writer.close()
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _patiently(self, attempt: Callable[[Any], None]) -> None:
        """Call ``attempt`` with a client, in turn with others, and again while that may help."""

        call_with_retry(
            lambda: self._in_turn(attempt),
            why_again=why_again,
            target=self._about,
            backoff=self._backoff,
        )

    def _in_turn(self, attempt: Callable[[Any], None]) -> None:
        with self._turn:
            attempt(self._connected())

    def _wait(self, left_s: Callable[[], float | None]) -> None:
        """Wait that long, and until the nodes are known to have been up meanwhile."""
        while True:
            with self._turn:
                wait_s = left_s()
            if wait_s is None:
                return
            self._closed.wait(wait_s)
            self._patiently(self._ask_nodes)

    def _keep_looking(self) -> None:
        """Start a thread that looks at the nodes, also while nothing is written."""
        if self._looker is None:
            self._looker = Thread(target=self._look, name="aerospike looks", daemon=True)
            self._looker.start()

    def _look(self) -> None:
        while not self._closed.wait(LOOK_EVERY_S):
            # Lasting errors are raised to those who write, or who wait until all has settled.
            with suppress(SinkError, TryAgainError):
                if self._recent.in_doubt():
                    self._in_turn(self._write_what_was_lost)

    def _connected(self) -> Any:
        with self._lock:
            if self._closed.is_set():
                raise SinkUnavailableError(f"{self._about}: closed")
            if self._client is None:
                wait = {"total_timeout": self._timeout_ms, "socket_timeout": self._timeout_ms}
                config = {
                    "hosts": self._hosts,
                    "connect_timeout": self._timeout_ms,
                    # A misspelt policy is an error, and not a default.
                    "validate_keys": True,
                    "policies": {
                        "batch_write": self._writer.policy,
                        "operate": wait,
                        "read": wait,
                        "batch": wait,
                        "batch_parent_write": wait,
                    },
                }
                try:
                    self._client = self._connect(config)
                except exception.AerospikeError as error:
                    if names := unresolved(self._hosts):
                        raise SinkRefusedError(
                            f"{self._about}: {names} has no address", AEROSPIKE_NAME
                        ) from None
                    if error.code in AGAIN:
                        raise TryAgainError(f"cannot connect ({text_of(error)})") from error
                    raise sink_error(error, self._about) from error
            return self._client

    def _write_what_was_lost(self, client: Any) -> None:
        """Write lost rows again where a node may have restarted."""
        if self._recent.in_doubt():
            self._ask_nodes(client)

    def _ask_nodes(self, client: Any) -> None:
        """Ask the nodes' ages, and write the recent rows again where one has restarted."""
        lost = self._recent.lost(ages_s(client))
        if not lost:
            self._recent.kept()
            return
        for rows in lost:
            for batch in self._batches(rows):
                self._writer.write(client, batch)
        if not self._recent.was_restored:
            log.warning(
                "%s: a node has started anew, and the %s of the seconds before were written "
                "again; what it held in memory alone is gone: `footfall replay` brings it back",
                self._about,
                self._of,
            )
        self._recent.made_again()

    def _bins(self, record: BatchRecord) -> dict[str, Any] | None:
        code = record.result
        if code == NOT_FOUND:
            return None
        if code == OK:
            bins = record.record[2]
            assert isinstance(bins, dict)
            return bins
        if code in AGAIN:
            raise SinkUnavailableError(f"{self._about}: not read: {AGAIN[code]}, code {code}")
        raise SinkRefusedError(f"{self._about}: not read: code {code}")
