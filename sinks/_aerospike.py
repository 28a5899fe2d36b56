"""What sinks on an Aerospike server share: the connection, batches of operates, trying again.

A batch call raises nothing when single records fail, so each record's own result is looked at.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import aerospike
from aerospike import exception
from aerospike_helpers.batch.records import BatchRecord, BatchRecords, Write

from schemas.addresses import AEROSPIKE_NAME, Host, unresolved
from sinks import SinkError, SinkRefusedError, SinkUnavailableError
from sinks._aerospike_recent import RecentWrites
from sinks.retry import Backoff, call_with_retry

log = logging.getLogger(__name__)

BIN_NAME_MAX = 15
"""Characters; Aerospike's limit."""
RECORDS_PER_CALL = 500
COMMIT_LEVELS = {
    "ALL": aerospike.POLICY_COMMIT_LEVEL_ALL,
    "MASTER": aerospike.POLICY_COMMIT_LEVEL_MASTER,
}
GENERATION_POLICIES = {
    "NONE": aerospike.POLICY_GEN_IGNORE,
    "EQ": aerospike.POLICY_GEN_EQ,
    "GT": aerospike.POLICY_GEN_GT,
}

OK, NOT_FOUND = 0, 2
_TOO_BIG, _BATCH_FAILED = 13, -16
_REFUSED = {
    12: "a bin holds something of another kind, as another program or version writes it: "
    "empty the set, or name another namespace",
    22: "forbidden by the namespace's configuration",
}
_AGAIN = {
    -15: "no response",
    -14: "too many errors",
    -12: "tried too often",
    -10: "connection lost",
    -8: "node not usable",
    -7: "no more connections",
    -1: "client error",
    1: "server error, or no node is left",
    3: "written by another at the same time",
    7: "cluster is changing",
    8: "server is full",
    9: "timeout",
    11: "partition is not available",
    14: "record is busy",
    18: "device is overloaded",
    152: "batch queues are full",
}

RecordKey = tuple[str, str, str | bytearray]
"""(namespace, set, key)"""
Connect = Callable[[dict[str, Any]], Any]
"""A client of the configuration that it is given."""


@dataclass(frozen=True, slots=True)
class Operate:
    """What one record is asked, all of it or nothing; a batch holds a record once."""

    key: RecordKey
    name: str
    """Of the record, for errors."""
    operations: list[dict[str, Any]]


Batches = Callable[[], list[list[Operate]]]
"""Makes the operates of a write, the same each time; a record is once in a batch."""


@dataclass(slots=True)
class _Outcome:
    """Of one call, what was not written."""

    again: list[Operate] = field(default_factory=list)
    """To be tried again."""
    reasons: list[str] = field(default_factory=list)
    """Of those."""
    refused: list[str] = field(default_factory=list)
    """A line for each that never will be."""


class AerospikeServer:
    """A server, connected to at the first use; may be shared by threads."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        about: str,
        too_big: str,
        commit_level: str,
        generation_policy: str,
        max_parallel_writes: int,
        give_up_after_s: float,
        timeout_ms: int,
        others: Sequence[Host] = (),
        connect: Connect = aerospike.client,
    ) -> None:
        """``about`` begins each error; ``too_big`` says what to do where a record is; ``others``
        are nodes that are asked for the cluster where the first does not answer.

        ``timeout_ms`` bounds each attempt to connect, read or write a batch.
        """
        self._hosts = [(host, port), *others]
        self._about = about
        self._too_big = too_big
        self._write_policy = {
            "commit_level": COMMIT_LEVELS[commit_level],
            "gen": GENERATION_POLICIES[generation_policy],
        }
        self._generations = generation_policy != "NONE"
        self._timeout_ms = timeout_ms
        self._backoff = Backoff(give_up_after_s=give_up_after_s)
        self._pool = ThreadPoolExecutor(max_parallel_writes, thread_name_prefix="aerospike")
        self._connect = connect
        self._lock = Lock()
        self._client: Any = None
        self._recent = RecentWrites[Batches]()

    def write(self, batches: Batches, of: str) -> None:
        """Return when all are acknowledged; ``of`` says in errors what they are.

        What was written in the seconds before a node ended is written again once it is back, by
        another call of the function. Raises SinkUnavailableError after bounded retries, and
        SinkRefusedError.
        """
        waiting = batches()

        def attempt() -> None:
            try:
                client = self._connected()
                self._write_what_was_lost(client, of)
                while waiting:
                    self._write_batch(client, waiting[0], of)
                    del waiting[0]
            except _TryAgainError:
                with self._lock:
                    self._recent.failed(batches)
                raise

        if any(waiting):
            call_with_retry(
                attempt, why_again=_why_again, target=self._about, backoff=self._backoff
            )
            with self._lock:
                self._recent.acknowledged(batches)

    def operate(self, key: RecordKey, operations: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The bins that reading operations give; None without a record. Raises SinkError."""
        try:
            _, _, found = self._connected().operate(key, operations)
        except exception.RecordNotFound:
            return None
        except exception.AerospikeError as error:
            raise self._sink_error(error) from error
        except _TryAgainError as error:
            raise SinkUnavailableError(f"{self._about}: {error}") from error
        assert isinstance(found, dict)
        return found

    def read(self, keys: Sequence[RecordKey]) -> list[dict[str, Any] | None]:
        """The bins of each record, None where there is none. Raises SinkError."""
        bins: list[dict[str, Any] | None] = []
        try:
            client = self._connected()
            for start in range(0, len(keys), RECORDS_PER_CALL):
                found = _read(client, keys[start : start + RECORDS_PER_CALL])
                bins += [self._bins(record) for record in found]
        except exception.AerospikeError as error:
            raise self._sink_error(error) from error
        except _TryAgainError as error:
            raise SinkUnavailableError(f"{self._about}: {error}") from error
        return bins

    def close(self) -> None:
        """Release the connection. Never raises."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                wait = {"total_timeout": self._timeout_ms, "socket_timeout": self._timeout_ms}
                config = {
                    "hosts": self._hosts,
                    "connect_timeout": self._timeout_ms,
                    # A misspelt policy is an error, and not a default.
                    "validate_keys": True,
                    "policies": {
                        "batch_write": self._write_policy,
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
                    if error.code in _AGAIN:
                        raise _TryAgainError(f"cannot connect ({_text(error)})") from error
                    raise self._sink_error(error) from error
            return self._client

    def _write_what_was_lost(self, client: Any, of: str) -> None:
        with self._lock:
            if not self._recent.in_doubt():
                return
        ages_s = _ages_s(client)
        with self._lock:
            lost = self._recent.lost(ages_s)
        if not lost:
            return
        for batches in lost:
            for batch in batches():
                self._write_batch(client, batch, of)
        with self._lock:
            self._recent.made_again()
        log.warning(
            "%s: a node has started anew, and the %s of the seconds before were written again; "
            "what it held in memory alone is gone: `footfall replay` brings it back",
            self._about,
            of,
        )

    def _write_batch(self, client: Any, waiting: list[Operate], of: str) -> None:
        """Write all of a batch; what was not stays in it, and raises _TryAgainError."""
        calls = [
            waiting[start : start + RECORDS_PER_CALL]
            for start in range(0, len(waiting), RECORDS_PER_CALL)
        ]
        outcomes = list(self._pool.map(lambda call: self._write(client, call), calls))
        refused = [reason for outcome in outcomes for reason in outcome.refused]
        if refused:
            others = f"; {len(refused) - 1} more {of} are refused" if refused[1:] else ""
            raise SinkRefusedError(f"{refused[0]}{others}")
        waiting[:] = [operate for outcome in outcomes for operate in outcome.again]
        if waiting:
            reasons = dict.fromkeys(why for outcome in outcomes for why in outcome.reasons)
            raise _TryAgainError(f"{len(waiting)} {of} not written: {', '.join(reasons)}")

    def _write(self, client: Any, call: Sequence[Operate]) -> _Outcome:
        """Write a few records at once. Raises SinkRefusedError where none can be."""
        try:
            metas = self._metas(client, call)
            records = BatchRecords(
                [
                    Write(
                        operate.key,
                        operate.operations,
                        meta=meta,
                        policy=self._write_policy,
                    )
                    for operate, meta in zip(call, metas, strict=True)
                ]
            )
            client.batch_write(records)
        except exception.AerospikeError as error:
            if error.code in _AGAIN:
                return _Outcome(again=list(call), reasons=[_text(error)])
            raise self._sink_error(error) from error
        except _TryAgainError as error:
            return _Outcome(again=list(call), reasons=[str(error)])
        outcome, lost = _Outcome(), _call_error(records)
        for operate, record in zip(call, records.batch_records, strict=True):
            if record.result == OK and lost is not None:
                outcome.again.append(operate)
                outcome.reasons.append(lost)
                continue
            # Whatever the call says, each record that failed has its own result.
            try:
                reason = why_not_written(record, operate.name, self._about, self._too_big)
            except SinkRefusedError as error:
                outcome.refused.append(str(error))
                continue
            if reason is not None:
                outcome.again.append(operate)
                outcome.reasons.append(reason)
        return outcome

    def _metas(self, client: Any, call: Sequence[Operate]) -> list[dict[str, int] | None]:
        """The generation each write expects, where a policy of generations asks for one."""
        if not self._generations:
            return [None] * len(call)
        # GT wants one that is higher than the record's; without a record that is 0.
        step = int(self._write_policy["gen"] == aerospike.POLICY_GEN_GT)
        found = _read(client, [operate.key for operate in call], [])
        return [
            {"gen": (record.record[1]["gen"] if record.result == OK else 0) + step}
            for record in found
        ]

    def _bins(self, record: BatchRecord) -> dict[str, Any] | None:
        code = record.result
        if code == NOT_FOUND:
            return None
        if code == OK:
            bins = record.record[2]
            assert isinstance(bins, dict)
            return bins
        if code in _AGAIN:
            raise SinkUnavailableError(f"{self._about}: not read: {_AGAIN[code]}, code {code}")
        raise SinkRefusedError(f"{self._about}: not read: code {code}")

    def _sink_error(self, error: exception.AerospikeError) -> SinkError:
        text = f"{self._about}: {_text(error)}"
        return SinkUnavailableError(text) if error.code in _AGAIN else SinkRefusedError(text)


class _TryAgainError(Exception):
    """Some was not written, or there is no connection; the message says why."""


def why_not_written(record: BatchRecord, name: str, about: str, too_big: str) -> str | None:
    """None where it was, why where it may be tried again. Raises SinkRefusedError."""
    code = record.result
    if code == OK:
        return None
    if code in _AGAIN:
        return f"{_AGAIN[code]}, code {code}"
    if code == _TOO_BIG:
        raise SinkRefusedError(
            f"{about}: the record of {name} is larger than a record may be: "
            f"{too_big}, or raise the namespace's max-record-size"
        )
    reason = _REFUSED.get(code, "refused")
    raise SinkRefusedError(f"{about}: {name}: {reason}, code {code}")


def _call_error(records: BatchRecords) -> str | None:
    """Why a call as a whole did not get through; its records then say nothing of themselves.

    Where no node is left, a client raises nothing: the result of each record that was to be
    written stays 0, which is that of success, and of reads there is no record at all.
    """
    code = records.result
    if code in (OK, _BATCH_FAILED):
        return None
    return f"{_AGAIN.get(code, 'the call failed')}, code {code}"


def _read(client: Any, keys: Sequence[RecordKey], *bins: list[str]) -> list[BatchRecord]:
    """A record for each key. Raises _TryAgainError where no node was asked."""
    found = client.batch_read(list(keys), *bins)
    if len(found.batch_records) != len(keys):
        raise _TryAgainError(_call_error(found) or "not all were read")
    records: list[BatchRecord] = found.batch_records
    return records


def _ages_s(client: Any) -> list[float]:
    """How long each node has been up. Raises _TryAgainError where one does not say."""
    try:
        answers = client.info_all("statistics").values()
    except exception.AerospikeError as error:
        raise _TryAgainError(f"no node says how long it is up ({_text(error)})") from error
    if not answers:
        raise _TryAgainError("no node is left")
    ages_s = []
    for why, answer in answers:
        found = re.search(r"\buptime=(\d+)", answer or "")
        if found is None:
            raise _TryAgainError(f"a node does not say how long it is up ({why})")
        ages_s.append(float(found[1]))
    return ages_s


def _why_again(error: Exception) -> str | None:
    return str(error) if isinstance(error, _TryAgainError) else None


def _text(error: exception.AerospikeError) -> str:
    return f"{error.msg or type(error).__name__}, code {error.code}"
