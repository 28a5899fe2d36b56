"""Minute buckets in Aerospike: one record per (group, span of minutes) with one bin per minute.

Record      key: the group, the first minute of its span and the span's number of minutes
Bin         an ordered map: "topic/partition" -> {version: [count, sum_price]}; these add up
Delivery    one operate per record and write adds its versions and keeps the highest of each
            partition: atomic, writing again changes nothing, and the order of writes does not
            matter, so that a late write of an older version does not win
Durability  as AEROSPIKE_COMMIT_LEVEL asks: in all replicas, or only in the master
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import aerospike
import polars as pl
from aerospike_helpers import cdt_ctx
from aerospike_helpers.operations import map_operations

from footfall.schemas.addresses import Host, shown_host
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.topics import PARTITION, TOPIC
from footfall.sinks import SinkRefusedError
from footfall.sinks._aerospike import AerospikeServer, Connect
from footfall.sinks._aerospike_answers import RecordKey, Remedies
from footfall.sinks._aerospike_batches import Operate
from footfall.sinks._aerospike_recent import KEEP_S
from footfall.sinks._clickhouse_rows import RowsError, rows_for

SET_NAME = "minute_buckets"
MINUTES_READ_MAX = 31 * 1440
"""Most minutes of one ``get``: it reads no more records than that."""
OPERATIONS_MAX = 4_000
"""Most operations of one operate; an even number. The protocol counts them in 16 bits."""
REMEDIES = Remedies(
    too_big="lower AEROSPIKE_BUCKETS_PER_KEY",
    other_kind="set AEROSPIKE_AGGREGATES_NAMESPACE to another namespace",
)

_GROUP = ("action", "origin", "brand_id", "category_id")
_ROW = ("bucket", *_GROUP, TOPIC, PARTITION)
"""Columns that identify a row."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
_ORDERED = {"map_order": aerospike.MAP_KEY_ORDERED}

Sums = dict[str, list[int]]
"""Sums of one minute by "topic/partition": [version, count, sum_price]."""


class Group(NamedTuple):
    """The group that a bucket counts."""

    action: str
    origin: str
    brand_id: str
    category_id: str


@dataclass(frozen=True, slots=True)
class BucketSum:
    """A bucket, summed over its partitions."""

    bucket: datetime
    """Start of its minute, in UTC."""
    count: int
    sum_price: int


@dataclass(slots=True)
class SpanRows:
    """The rows of one record."""

    group: Group
    start_minute: int
    """First minute of the span, counted from 1970."""
    bins: dict[str, Sums] = field(default_factory=dict)


class AerospikeAggregates:
    """A RowWriter of ``minute_buckets`` on a server. Connects at the first use."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        namespace: str,
        buckets_per_key: int,
        set_name: str = SET_NAME,
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
        at = shown_host((host, port))
        self._about = f"aggregates in Aerospike at {at}, namespace {namespace}"
        self._server = AerospikeServer(
            host,
            port,
            about=self._about,
            of="records",
            batches=self._operates,
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
        self._width = buckets_per_key

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the rows are durable; where a row is there twice, the higher version wins.

        The frames have the columns of ``schemas.tables.minute_buckets.ROWS``. Raises
        SinkUnavailableError after bounded retries, and SinkRefusedError; some of the rows may be
        there then.
        """
        try:
            rows = fitted(frames)
        except RowsError as error:
            raise SinkRefusedError(f"{self._about}: {error}") from None
        self._server.write(rows)

    def recent(self) -> list[pl.DataFrame]:
        """Return the rows, as ``restore`` takes them, that a node which is killed may not have
        kept."""
        return self._server.recent()

    def restore(self, rows: pl.DataFrame) -> None:
        """Write soon what was ``recent`` when an earlier process ended."""
        self._server.restore(highest(rows))

    def settle(self) -> None:
        """Return when all rows outlast the death of a node. Raises SinkError."""
        self._server.settle()

    def get(self, group: Group, from_minute: datetime, to_minute: datetime) -> list[BucketSum]:
        """Return the buckets of a group in order of time, without minutes that have no tag.

        ``from_minute`` is inclusive, ``to_minute`` exclusive; both have a time zone, and only
        buckets that start within are given. Raises SinkError.
        """
        first, end = -((_EPOCH - from_minute) // _MINUTE), -((_EPOCH - to_minute) // _MINUTE)
        if end - first > MINUTES_READ_MAX:
            raise SinkRefusedError(
                f"{self._about}: {end - first} minutes are more than can be read at once: "
                f"ask for at most {MINUTES_READ_MAX}"
            )
        starts = range(first - first % self._width, end, self._width) if first < end else ()
        records = self._server.read([self._record_key(group, start) for start in starts])
        return [
            found
            for start, bins in zip(starts, records, strict=True)
            if bins is not None
            for found in read_sums(start, bins)
            if from_minute <= found.bucket < to_minute and found.count
        ]

    def close(self) -> None:
        """Release the connection. Never raises."""
        self._server.close()

    def _operates(self, rows: pl.DataFrame) -> list[list[Operate]]:
        # A batch holds a record once: operations beyond one operate's limit come in the next
        # batch.
        batches: list[list[Operate]] = []
        for span in by_span(rows, self._width):
            key = self._record_key(span.group, span.start_minute)
            name = f"group {'|'.join(span.group)[:100]!r}"
            for number, part in enumerate(parts(operations(span))):
                if number == len(batches):
                    batches.append([])
                batches[number].append(Operate(key, name, part))
        return batches

    def _record_key(self, group: Group, start_minute: int) -> RecordKey:
        return self._namespace, self._set, record_key(group, start_minute, self._width)


def record_key(group: Group, start_minute: int, width: int) -> str:
    """Return the key of a record, unique whatever the texts hold; printable ASCII.

    The width of the span is part of it, because a minute is in another bin when that changes.
    """
    return json.dumps([*group, start_minute, width], separators=(",", ":"))


def bin_name(offset: int) -> str:
    """Return the name of a minute's bin, by its offset from the start of its span."""
    return f"b{offset:02d}"


def fitted(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows in order of the table, each once in its highest version.

    ``bucket`` becomes minutes since 1970. Raises RowsError for another shape, and for a bucket
    that does not start at a minute.
    """
    given = [rows_for(ROWS, frame) for frame in frames if frame.height]
    if not given:
        return pl.DataFrame(schema=list(ROWS.columns))
    whole = pl.Int64
    try:
        rows = pl.concat(given).with_columns(
            pl.col("bucket", PARTITION, "count", "version").cast(whole),
            pl.col(*_GROUP, TOPIC).cast(pl.String),
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise RowsError(f"a value does not fit 64 bits with a sign: {reason}") from None
    odd = rows.filter(pl.col("bucket") % 60 != 0)
    if odd.height:
        raise RowsError(f"a bucket starts at a minute, and one at second {odd['bucket'][0]}")
    return highest(rows.with_columns(pl.col("bucket") // 60))


def highest(rows: pl.DataFrame) -> pl.DataFrame:
    """Return each row in its highest version, in order of the table."""
    newest = rows.sort("version", maintain_order=True).unique(_ROW, keep="last")
    return newest.sort(*_GROUP, "bucket", TOPIC, PARTITION)


def by_span(rows: pl.DataFrame, width: int) -> Iterator[SpanRows]:
    """Yield the records of ``fitted`` rows, ``width`` minutes in each; each record once."""
    in_topic = pl.format("{}/{}", TOPIC, PARTITION)
    columns = (*_GROUP, "bucket", in_topic, "version", "count", "sum_price")
    current: SpanRows | None = None
    for *texts, minute, place, version, count, sum_price in rows.select(columns).iter_rows():
        group, offset = Group(*texts), minute % width
        start = minute - offset
        if current is None or (current.group, current.start_minute) != (group, start):
            if current is not None:
                yield current
            current = SpanRows(group, start)
        sums = current.bins.setdefault(bin_name(offset), {})
        sums[place] = [version, count, sum_price]
    if current is not None:
        yield current


def operations(span: SpanRows) -> list[dict[str, Any]]:
    """Return one record's operations: add each row's version, then keep the row's highest."""
    asked: list[dict[str, Any]] = []
    for name, sums in span.bins.items():
        for place, (version, *values) in sums.items():
            made, trim = _of_row(name, place)
            asked.append(
                map_operations.map_put(name, version, values, map_policy=_ORDERED, ctx=made)
            )
            asked.append(trim)
    return asked


@lru_cache(maxsize=4_096)
def _of_row(name: str, place: str) -> tuple[list[Any], dict[str, Any]]:
    """Return (where a row's versions are put, the operation that keeps the highest of them)."""
    made = cdt_ctx.cdt_ctx_map_key_create(place, aerospike.MAP_KEY_ORDERED)
    # Arguments by name: other helpers order them otherwise.
    trim = map_operations.map_remove_by_index_range(
        bin_name=name,
        index_start=-1,
        remove_amt=1,
        return_type=aerospike.MAP_RETURN_NONE,
        inverted=True,
        ctx=[cdt_ctx.cdt_ctx_map_key(place)],
    )
    return [made], trim


def parts(asked: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield operations that one operate can hold; what adds a row and what trims it stay
    together."""
    for start in range(0, len(asked), OPERATIONS_MAX):
        yield asked[start : start + OPERATIONS_MAX]


def read_sums(start_minute: int, bins: Mapping[str, Any]) -> list[BucketSum]:
    """Return the buckets of a record in order of time, summed over partitions; ``bins`` as
    read."""
    return [
        BucketSum(
            _EPOCH + (start_minute + offset) * _MINUTE,
            sum(count for count, _ in newest),
            sum(sum_price for _, sum_price in newest),
        )
        for offset, newest in sorted(
            (int(name[1:]), [versions[max(versions)] for versions in _standing(places)])
            for name, places in bins.items()
        )
    ]


def _standing(places: Mapping[str | int, Any]) -> list[Any]:
    """Return the rows of a minute that count.

    Rows that were written before topics were part of their key have only the partition. Such a row
    counts until a row of its partition is written again.
    """
    again = {int(place.rpartition("/")[2]) for place in places if isinstance(place, str)}
    return [versions for place, versions in places.items() if place not in again]
