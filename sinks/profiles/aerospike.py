"""Profiles in Aerospike: one record per cookie, with an ordered map of VIEWs and one of BUYs.

Delivery    one operate per cookie and put adds its tags and trims its maps: atomic, and putting
            again changes nothing; no tag is read to be written back
Durability  as AEROSPIKE_COMMIT_LEVEL asks: in all replicas, or only in the master
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import aerospike
import polars as pl
from aerospike_helpers.batch.records import BatchRecord
from aerospike_helpers.operations import map_operations

from footfall.schemas.addresses import Host, shown_host
from footfall.schemas.profiles import NUM_TAGS_TO_KEEP_DEFAULT, SET_NAME
from footfall.sinks import _aerospike_answers
from footfall.sinks._aerospike import BIN_NAME_MAX, AerospikeServer, Connect
from footfall.sinks._aerospike_answers import RecordKey, Remedies
from footfall.sinks._aerospike_batches import Operate
from footfall.sinks._aerospike_recent import KEEP_S
from footfall.sinks.profiles.frames import checked, newest

SUFFIXES = ("_v", "_b")
"""Suffixes of the bins of VIEWs and of BUYs."""
REMEDIES = Remedies(
    too_big="lower NUM_TAGS_TO_KEEP",
    other_kind="set AEROSPIKE_PROFILES_BIN or AEROSPIKE_PROFILES_NAMESPACE to another name",
)

_TIME, _PLACE = struct.Struct(">Q"), struct.Struct(">IQ")
_INT64_MAX = 2**63 - 1
_ORDERED = {"map_order": aerospike.MAP_KEY_ORDERED}

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
        keep_s: float = KEEP_S,
        others: Sequence[Host] = (),
        connect: Connect = aerospike.client,
    ) -> None:
        """Take the server's address; the first use connects.

        ``timeout_ms`` bounds each attempt to connect, read or write a batch. What was written may
        be lost with a node for ``keep_s``. ``others`` are nodes that are asked for the cluster
        where the first does not answer.
        """
        self._server = AerospikeServer(
            host,
            port,
            about=f"profiles in Aerospike at {shown_host((host, port))}, namespace {namespace}",
            of="cookies",
            batches=lambda tags: [self._operates(tags)],
            remedies=REMEDIES,
            commit_level=commit_level,
            generation_policy=generation_policy,
            max_parallel_writes=max_parallel_writes,
            give_up_after_s=give_up_after_s,
            timeout_ms=timeout_ms,
            others=others,
            keep_s=keep_s,
            connect=connect,
        )
        self._namespace = namespace
        self._set = set_name
        self._bins = bin_names(bin_name)
        self._keep = keep

    def put(self, tags: pl.DataFrame) -> None:
        """Add tags; see ProfileStore."""
        self._server.write(self._kept(tags))

    def recent(self) -> list[pl.DataFrame]:
        """Return the tags that may still be lost; see ProfileStore."""
        return self._server.recent()

    def restore(self, tags: pl.DataFrame) -> None:
        """Put an earlier process's recent tags soon; see ProfileStore."""
        self._server.restore(self._kept(tags))

    def settle(self) -> None:
        """Wait until no tag can be lost any more; see ProfileStore."""
        self._server.settle()

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Return (views, buys) of a cookie; see ProfileStore."""
        lists = [
            map_operations.map_get_by_key_range(
                name,
                time_key(from_ms),
                time_key(to_ms),
                aerospike.MAP_RETURN_KEY_VALUE,
            )
            for name in self._bins
        ]
        try:
            key = self._record_key(cookie)
        except UnicodeEncodeError:
            # The text has half of a surrogate pair, which no cookie that was sent can have.
            return [], []
        found = self._server.operate(key, lists)
        if found is None:
            return [], []
        views, buys = (newest_of(found.get(name), limit) for name in self._bins)
        return views, buys

    def close(self) -> None:
        """Release the connection; see ProfileStore."""
        self._server.close()

    def _kept(self, tags: pl.DataFrame) -> pl.DataFrame:
        return newest(checked(tags), self._keep)

    def _operates(self, tags: pl.DataFrame) -> list[Operate]:
        return [
            Operate(
                self._record_key(tags_of.cookie),
                name_of(tags_of.cookie),
                operations(tags_of, self._bins, self._keep),
            )
            for tags_of in by_cookie(tags)
        ]

    def _record_key(self, cookie: str) -> RecordKey:
        encoded = cookie.encode()
        # In the client a text ends at a NUL, which would make two cookies one.
        return self._namespace, self._set, bytearray(encoded) if b"\0" in encoded else cookie


def bin_names(bin_name: str) -> tuple[str, str]:
    """Return the bins of VIEWs and of BUYs; a long name is cut, between characters, so that both
    fit."""
    stem = bin_name.encode()[: BIN_NAME_MAX - len(SUFFIXES[0])].decode(errors="ignore")
    return stem + SUFFIXES[0], stem + SUFFIXES[1]


def tag_key(time_ms: int, topic: str, partition: int, offset: int) -> bytes:
    """Return bytes that sort as (time, topic, partition, offset) do; times before 1970 are 0."""
    return time_key(time_ms) + topic.encode() + b"\0" + _PLACE.pack(partition, offset)


def time_key(time_ms: int) -> bytes:
    """Return the first bytes of the keys of a time, which sorts before all of them."""
    return _TIME.pack(min(max(time_ms, 0), _INT64_MAX))


def key_without_topic(key: bytes) -> bytes:
    """Return the key that a tag had before topics were part of it."""
    return key[: _TIME.size] + key[-_PLACE.size :]


def by_cookie(tags: pl.DataFrame) -> Iterator[CookieTags]:
    """Yield the tags of each cookie, from tags sorted by cookie."""
    current: CookieTags | None = None
    for cookie, action, time_ms, topic, partition, offset, tag in tags.iter_rows():
        if current is None or current.cookie != cookie:
            if current is not None:
                yield current
            current = CookieTags(cookie)
        kind = current.buys if action == "BUY" else current.views
        kind[tag_key(time_ms, topic, partition, offset)] = tag
    if current is not None:
        yield current


def operations(tags: CookieTags, bins: tuple[str, str], keep: int) -> list[dict[str, Any]]:
    """Return one record's operations: add the tags of each kind, then keep the last ``keep``.

    A tag that was written before topics were part of its key is replaced.
    """
    asked: list[dict[str, Any]] = []
    for name, items in zip(bins, (tags.views, tags.buys), strict=True):
        if items:
            asked += [
                map_operations.map_put_items(name, items, map_policy=_ORDERED),
                map_operations.map_remove_by_key_list(
                    name, [*map(key_without_topic, items)], aerospike.MAP_RETURN_NONE
                ),
                _trim(name, keep),
            ]
    return asked


@lru_cache
def _trim(name: str, keep: int) -> dict[str, Any]:
    # All but the last by key are removed. Arguments by name: other helpers order them otherwise.
    operation: dict[str, Any] = map_operations.map_remove_by_index_range(
        bin_name=name,
        index_start=-keep,
        remove_amt=keep,
        return_type=aerospike.MAP_RETURN_NONE,
        inverted=True,
    )
    return operation


def name_of(cookie: str) -> str:
    """Return the name of a profile in an error; a long cookie is cut."""
    return f"cookie {cookie[:60]!r}"


def why_not_written(record: BatchRecord, cookie: str, about: str) -> str | None:
    """Return None if it was written, or why it may be tried again. Raises SinkRefusedError."""
    return _aerospike_answers.why_not_written(record, name_of(cookie), about, REMEDIES)


def newest_of(found: object, limit: int) -> list[bytes]:
    """Return the tags of a map, newest first; ``found`` is its keys and values one after the
    other."""
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
