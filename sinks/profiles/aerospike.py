"""Profiles in Aerospike: one record a cookie, in it an ordered map of VIEWs and one of BUYs.

Delivery    one operate a cookie and put adds its tags and trims its maps: atomic, and putting
            again changes nothing; no tag is read to be written back
Durability  as AEROSPIKE_COMMIT_LEVEL asks: in all replicas, or in the master alone
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import aerospike
import polars as pl
from aerospike import exception
from aerospike_helpers.batch.records import BatchRecord, BatchRecords, Write
from aerospike_helpers.operations import map_operations

from schemas.profiles import NUM_TAGS_TO_KEEP_DEFAULT, SET_NAME
from sinks import SinkError, SinkRefusedError, SinkUnavailableError
from sinks.profiles.frames import checked, newest
from sinks.retry import Backoff, call_with_retry

BIN_NAME_MAX = 15
"""Characters; Aerospike's limit."""
SUFFIXES = ("_v", "_b")
"""Of the bins of VIEWs and of BUYs."""
COOKIES_PER_CALL = 500
COMMIT_LEVELS = {
    "ALL": aerospike.POLICY_COMMIT_LEVEL_ALL,
    "MASTER": aerospike.POLICY_COMMIT_LEVEL_MASTER,
}
GENERATION_POLICIES = {
    "NONE": aerospike.POLICY_GEN_IGNORE,
    "EQ": aerospike.POLICY_GEN_EQ,
    "GT": aerospike.POLICY_GEN_GT,
}

_OK, _TOO_BIG, _BATCH_FAILED = 0, 13, -16
_AGAIN = {
    -15: "no response",
    -14: "too many errors",
    -12: "tried too often",
    -10: "connection lost",
    -8: "node not usable",
    -7: "no more connections",
    -1: "client error",
    3: "written by another at the same time",
    7: "cluster is changing",
    8: "server is full",
    9: "timeout",
    11: "partition is not available",
    14: "record is busy",
    18: "device is overloaded",
    152: "batch queues are full",
}
_KEY = struct.Struct(">QIQ")
_INT64_MAX = 2**63 - 1

Tags = dict[bytes, bytes]
"""Tags by ``tag_key``."""


@dataclass(slots=True)
class CookieTags:
    """The new tags of one cookie."""

    cookie: str
    views: Tags = field(default_factory=dict)
    buys: Tags = field(default_factory=dict)


class AerospikeProfiles:
    """A ProfileStore on a server. Connects at the first use."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        namespace: str,
        bin_name: str,
        set_name: str = SET_NAME,
        keep: int = NUM_TAGS_TO_KEEP_DEFAULT,
        commit_level: str = "ALL",
        generation_policy: str = "NONE",
        max_parallel_writes: int = 6,
        give_up_after_s: float = 120.0,
        timeout_ms: int = 2_000,
    ) -> None:
        """``timeout_ms`` bounds each attempt to connect, read or write a batch."""
        self._address = (host, port)
        self._about = f"profiles in Aerospike at {host}:{port}, namespace {namespace}"
        self._namespace = namespace
        self._set = set_name
        self._bins = bin_names(bin_name)
        self._keep = keep
        self._write_policy = {
            "commit_level": COMMIT_LEVELS[commit_level],
            "gen": GENERATION_POLICIES[generation_policy],
        }
        self._generations = generation_policy != "NONE"
        self._timeout_ms = timeout_ms
        self._backoff = Backoff(give_up_after_s=give_up_after_s)
        self._pool = ThreadPoolExecutor(max_parallel_writes, thread_name_prefix="aerospike")
        self._lock = Lock()
        self._client: Any = None

    def put(self, tags: pl.DataFrame) -> None:
        """See ProfileStore."""
        waiting = list(by_cookie(newest(checked(tags), self._keep)))

        def attempt() -> None:
            nonlocal waiting
            client = self._connected()
            calls = [
                waiting[start : start + COOKIES_PER_CALL]
                for start in range(0, len(waiting), COOKIES_PER_CALL)
            ]
            outcomes = list(self._pool.map(lambda call: self._write(client, call), calls))
            waiting = [tags for again, _ in outcomes for tags in again]
            if waiting:
                reasons = dict.fromkeys(reason for _, found in outcomes for reason in found)
                raise _TryAgainError(f"{len(waiting)} cookies not written: {', '.join(reasons)}")

        if waiting:
            call_with_retry(
                attempt, why_again=_why_again, target=self._about, backoff=self._backoff
            )

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        """See ProfileStore."""
        lists = [
            map_operations.map_get_by_key_range(
                name,
                tag_key(from_ms, 0, 0),
                tag_key(to_ms, 0, 0),
                aerospike.MAP_RETURN_KEY_VALUE,
            )
            for name in self._bins
        ]
        try:
            key = self._record_key(cookie)
        except UnicodeEncodeError:
            # Half of a surrogate pair: no cookie that was sent can have it.
            return [], []
        try:
            _, _, found = self._connected().operate(key, lists)
        except exception.RecordNotFound:
            return [], []
        except exception.AerospikeError as error:
            raise self._sink_error(error) from error
        except _TryAgainError as error:
            raise SinkUnavailableError(f"{self._about}: {error}") from error
        views, buys = (newest_of(found.get(name), limit) for name in self._bins)
        return views, buys

    def close(self) -> None:
        """See ProfileStore."""
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
                    "hosts": [self._address],
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
                    self._client = aerospike.client(config)
                except exception.AerospikeError as error:
                    if error.code in _AGAIN:
                        raise _TryAgainError(f"cannot connect ({_text(error)})") from error
                    raise self._sink_error(error) from error
            return self._client

    def _write(
        self, client: Any, call: Sequence[CookieTags]
    ) -> tuple[list[CookieTags], list[str]]:
        """Write a few cookies at once; those to try again, and why. Raises SinkRefusedError."""
        try:
            metas = self._metas(client, call)
            records = BatchRecords(
                [
                    Write(
                        self._record_key(tags.cookie),
                        operations(tags, self._bins, self._keep),
                        meta=meta,
                        policy=self._write_policy,
                    )
                    for tags, meta in zip(call, metas, strict=True)
                ]
            )
            _batch_write(client, records)
        except exception.AerospikeError as error:
            if error.code in _AGAIN:
                return list(call), [_text(error)]
            raise self._sink_error(error) from error
        again: list[CookieTags] = []
        reasons: list[str] = []
        for tags, record in zip(call, records.batch_records, strict=True):
            # Whatever the call says, each record has its own result.
            reason = why_not_written(record, tags.cookie, self._about)
            if reason is not None:
                again.append(tags)
                reasons.append(reason)
        return again, reasons

    def _metas(self, client: Any, call: Sequence[CookieTags]) -> list[dict[str, int] | None]:
        """The generation each write expects, where a policy of generations asks for one."""
        if not self._generations:
            return [None] * len(call)
        # GT wants one that is higher than the record's; without a record that is 0.
        step = int(self._write_policy["gen"] == aerospike.POLICY_GEN_GT)
        found = client.batch_read([self._record_key(tags.cookie) for tags in call], [])
        return [
            {"gen": (record.record[1]["gen"] if record.result == _OK else 0) + step}
            for record in found.batch_records
        ]

    def _record_key(self, cookie: str) -> tuple[str, str, str | bytearray]:
        encoded = cookie.encode()
        # Texts end at a NUL in the client, so that two cookies would be one.
        return self._namespace, self._set, bytearray(encoded) if b"\0" in encoded else cookie

    def _sink_error(self, error: exception.AerospikeError) -> SinkError:
        text = f"{self._about}: {_text(error)}"
        return SinkUnavailableError(text) if error.code in _AGAIN else SinkRefusedError(text)


class _TryAgainError(Exception):
    """Some was not written, or there is no connection; the message says why."""


def _batch_write(client: Any, records: BatchRecords) -> None:
    try:
        client.batch_write(records)
    except exception.AerospikeError as error:
        if error.code != _BATCH_FAILED:
            raise


def _why_again(error: Exception) -> str | None:
    return str(error) if isinstance(error, _TryAgainError) else None


def _text(error: exception.AerospikeError) -> str:
    return f"{error.msg or type(error).__name__}, code {error.code}"


def bin_names(bin_name: str) -> tuple[str, str]:
    """The bins of VIEWs and of BUYs; a long name is cut so that both fit."""
    stem = bin_name[: BIN_NAME_MAX - len(SUFFIXES[0])]
    return stem + SUFFIXES[0], stem + SUFFIXES[1]


def tag_key(time_ms: int, partition: int, offset: int) -> bytes:
    """20 bytes that sort as (time, partition, offset) do; times before 1970 are 0."""
    return _KEY.pack(min(max(time_ms, 0), _INT64_MAX), partition, offset)


def by_cookie(tags: pl.DataFrame) -> Iterator[CookieTags]:
    """The tags of each cookie, from tags sorted by cookie."""
    current: CookieTags | None = None
    for cookie, action, time_ms, partition, offset, tag in tags.iter_rows():
        if current is None or current.cookie != cookie:
            if current is not None:
                yield current
            current = CookieTags(cookie)
        kind = current.buys if action == "BUY" else current.views
        kind[tag_key(time_ms, partition, offset)] = tag
    if current is not None:
        yield current


def operations(tags: CookieTags, bins: tuple[str, str], keep: int) -> list[dict[str, Any]]:
    """What one record is asked: add the tags of each kind, then keep the last ``keep``."""
    asked: list[dict[str, Any]] = []
    for name, items in zip(bins, (tags.views, tags.buys), strict=True):
        if items:
            asked += [
                map_operations.map_put_items(
                    name, items, map_policy={"map_order": aerospike.MAP_KEY_ORDERED}
                ),
                # All but the last by key; by name, for other helpers order these otherwise.
                map_operations.map_remove_by_index_range(
                    bin_name=name,
                    index_start=-keep,
                    remove_amt=keep,
                    return_type=aerospike.MAP_RETURN_NONE,
                    inverted=True,
                ),
            ]
    return asked


def why_not_written(record: BatchRecord, cookie: str, about: str) -> str | None:
    """None where it was, why where it may be tried again. Raises SinkRefusedError."""
    code = record.result
    if code == _OK:
        return None
    if code in _AGAIN:
        return f"{_AGAIN[code]}, code {code}"
    if code == _TOO_BIG:
        raise SinkRefusedError(
            f"{about}: the profile of cookie {cookie[:60]!r} is larger than a record may be: "
            "lower NUM_TAGS_TO_KEEP, or raise the namespace's max-record-size"
        )
    reason = getattr(record, "message", None) or "refused"
    raise SinkRefusedError(f"{about}: cookie {cookie[:60]!r}: {reason}, code {code}")


def newest_of(found: object, limit: int) -> list[bytes]:
    """The tags of a map, newest first; ``found`` is its keys and values one after the other."""
    if not found:
        return []
    if isinstance(found, dict):
        pairs = list(found.items())
    else:
        assert isinstance(found, list)
        flat = found if not isinstance(found[0], tuple) else [x for pair in found for x in pair]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
    pairs.sort(key=lambda pair: bytes(pair[0]), reverse=True)
    return [bytes(tag) for _, tag in pairs[: max(limit, 0)]]
