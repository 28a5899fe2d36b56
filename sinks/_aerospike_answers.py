"""Meanings of an Aerospike server's answers: done, to be tried again, or refused for good.

A batch call raises nothing when single records fail, so each record's own result is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aerospike import exception
from aerospike_helpers.batch.records import BatchRecord, BatchRecords

from footfall.sinks import SinkError, SinkRefusedError, SinkUnavailableError

OK, NOT_FOUND = 0, 2
AGAIN = {
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
"""Codes of failures that may pass."""

_OTHER_KIND, _TOO_BIG, _FORBIDDEN, _BATCH_FAILED = 12, 13, 22, -16

RecordKey = tuple[str, str, str | bytearray]
"""Key of a record: (namespace, set, key)."""


@dataclass(frozen=True, slots=True)
class Remedies:
    """Remedies for a user in the errors of one sink."""

    too_big: str
    """Remedy where a record exceeds the size limit."""
    other_kind: str
    """Remedy where a bin holds what another program or version wrote."""


class TryAgainError(Exception):
    """A write that is not complete, or a missing connection; the message says why."""


def why_not_written(record: BatchRecord, name: str, about: str, remedies: Remedies) -> str | None:
    """Return None if the record was written, or why it may be tried again. Raises
    SinkRefusedError."""
    code = record.result
    if code == OK:
        return None
    if code in AGAIN:
        return f"{AGAIN[code]}, code {code}"
    if code == _TOO_BIG:
        raise SinkRefusedError(
            f"{about}: the record of {name} is larger than a record may be: "
            f"{remedies.too_big}, or raise the namespace's max-record-size"
        )
    reason = {
        _OTHER_KIND: "a bin holds something of another kind, as another program or version "
        f"writes it: {remedies.other_kind}. What is deleted or truncated instead comes back when "
        "a node of the Community Edition starts again",
        _FORBIDDEN: "forbidden by the namespace's configuration",
    }.get(code, "refused")
    raise SinkRefusedError(f"{about}: {name}: {reason}, code {code}")


def call_error(records: BatchRecords) -> str | None:
    """Return why a call as a whole did not get through; its records then say nothing themselves.

    Where no node is left, a client raises nothing: the result of each record that was to be
    written stays 0, as for success, and reads give no record at all.
    """
    code = records.result
    if code in (OK, _BATCH_FAILED):
        return None
    return f"{AGAIN.get(code, 'the call failed')}, code {code}"


def read_records(client: Any, keys: Sequence[RecordKey], *bins: list[str]) -> list[BatchRecord]:
    """Return a record for each key. Raises TryAgainError where no node was asked."""
    found = client.batch_read(list(keys), *bins)
    if len(found.batch_records) != len(keys):
        raise TryAgainError(call_error(found) or "not all were read")
    records: list[BatchRecord] = found.batch_records
    return records


def ages_s(client: Any) -> list[float]:
    """Return the seconds that each node has been up. Raises TryAgainError where one does not
    say."""
    try:
        answers = client.info_all("statistics").values()
    except exception.AerospikeError as error:
        raise TryAgainError(f"no node says how long it is up ({text_of(error)})") from error
    if not answers:
        raise TryAgainError("no node is left")
    found_s = []
    for why, answer in answers:
        found = re.search(r"\buptime=(\d+)", answer or "")
        if found is None:
            raise TryAgainError(f"a node does not say how long it is up ({why})")
        found_s.append(float(found[1]))
    return found_s


def why_again(error: Exception) -> str | None:
    """Return why an attempt may be made again; None where that does not help."""
    return str(error) if isinstance(error, TryAgainError) else None


def sink_error(error: exception.AerospikeError, about: str) -> SinkError:
    """Return an error of the client as one of a sink."""
    text = f"{about}: {text_of(error)}"
    return SinkUnavailableError(text) if error.code in AGAIN else SinkRefusedError(text)


def text_of(error: exception.AerospikeError) -> str:
    """Return an error of the client in a few words."""
    return f"{error.msg or type(error).__name__}, code {error.code}"
