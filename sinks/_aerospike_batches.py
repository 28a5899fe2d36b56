"""Batches of operates on an Aerospike server, written in parallel; each result is checked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import aerospike
from aerospike import exception
from aerospike_helpers.batch.records import BatchRecords, Write

from footfall.sinks import SinkRefusedError
from footfall.sinks._aerospike_answers import (
    AGAIN,
    OK,
    RecordKey,
    Remedies,
    TryAgainError,
    call_error,
    read_records,
    sink_error,
    text_of,
    why_not_written,
)

RECORDS_PER_CALL = 500
GENERATION_MAX = 65_535
"""Highest generation of a record, which has 16 bits: after it comes 1."""
COMMIT_LEVELS = {
    "ALL": aerospike.POLICY_COMMIT_LEVEL_ALL,
    "MASTER": aerospike.POLICY_COMMIT_LEVEL_MASTER,
}
GENERATION_POLICIES = {
    "NONE": aerospike.POLICY_GEN_IGNORE,
    "EQ": aerospike.POLICY_GEN_EQ,
    "GT": aerospike.POLICY_GEN_GT,
}


@dataclass(frozen=True, slots=True)
class Operate:
    """Operations on one record, all of them or none; a batch holds a record once."""

    key: RecordKey
    name: str
    """Name of the record, for errors."""
    operations: list[dict[str, Any]]


@dataclass(slots=True)
class _Outcome:
    """Operates of one call that were not written."""

    again: list[Operate] = field(default_factory=list)
    """Operates to be tried again."""
    reasons: list[str] = field(default_factory=list)
    """Reasons of those."""
    refused: list[str] = field(default_factory=list)
    """Lines for errors, one for each that never can be written."""


class BatchWriter:
    """A writer of batches with a given client. May be shared by threads."""

    def __init__(
        self,
        *,
        about: str,
        of: str,
        remedies: Remedies,
        commit_level: str,
        generation_policy: str,
        max_parallel_writes: int,
    ) -> None:
        """Take ``about``, which begins each error, and ``of``, the plural noun for records in
        them."""
        self._about = about
        self._of = of
        self._remedies = remedies
        self.policy = {
            "commit_level": COMMIT_LEVELS[commit_level],
            "gen": GENERATION_POLICIES[generation_policy],
        }
        self._pool = ThreadPoolExecutor(max_parallel_writes, thread_name_prefix="aerospike")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, client: Any, waiting: list[Operate]) -> None:
        """Write all of a batch. What was not written stays in it, and TryAgainError is raised."""
        calls = [
            waiting[start : start + RECORDS_PER_CALL]
            for start in range(0, len(waiting), RECORDS_PER_CALL)
        ]
        outcomes = list(self._pool.map(lambda call: self._write(client, call), calls))
        refused = [reason for outcome in outcomes for reason in outcome.refused]
        if refused:
            others = f"; {len(refused) - 1} more {self._of} are refused" if refused[1:] else ""
            raise SinkRefusedError(f"{refused[0]}{others}")
        waiting[:] = [operate for outcome in outcomes for operate in outcome.again]
        if waiting:
            reasons = dict.fromkeys(why for outcome in outcomes for why in outcome.reasons)
            raise TryAgainError(f"{len(waiting)} {self._of} not written: {', '.join(reasons)}")

    def _write(self, client: Any, call: Sequence[Operate]) -> _Outcome:
        """Write a few records at once. Raises SinkRefusedError where the call as a whole is
        refused."""
        try:
            expected = self._expected(client, call)
            records = BatchRecords(
                [
                    Write(operate.key, operate.operations, meta=meta, policy=policy)
                    for operate, (meta, policy) in zip(call, expected, strict=True)
                ]
            )
            client.batch_write(records)
        except exception.AerospikeError as error:
            if error.code in AGAIN:
                return _Outcome(again=list(call), reasons=[text_of(error)])
            raise sink_error(error, self._about) from error
        except TryAgainError as error:
            return _Outcome(again=list(call), reasons=[str(error)])
        outcome, lost = _Outcome(), call_error(records)
        for operate, record in zip(call, records.batch_records, strict=True):
            if record.result == OK and lost is not None:
                outcome.again.append(operate)
                outcome.reasons.append(lost)
                continue
            # Whatever the call says, each record that failed has its own result.
            try:
                reason = why_not_written(record, operate.name, self._about, self._remedies)
            except SinkRefusedError as error:
                outcome.refused.append(str(error))
                continue
            if reason is not None:
                outcome.again.append(operate)
                outcome.reasons.append(reason)
        return outcome

    def _expected(
        self, client: Any, call: Sequence[Operate]
    ) -> list[tuple[dict[str, int] | None, dict[str, Any]]]:
        """Return for each write (the generation that it expects, if any; the policy)."""
        policy = self.policy
        if policy["gen"] == aerospike.POLICY_GEN_IGNORE:
            return [(None, policy)] * len(call)
        found = read_records(client, [operate.key for operate in call], [])
        generations = [record.record[1]["gen"] if record.result == OK else 0 for record in found]
        if policy["gen"] == aerospike.POLICY_GEN_EQ:
            return [({"gen": generation}, policy) for generation in generations]
        # GT needs a generation that is higher, and there is none above the highest.
        equal = policy | {"gen": aerospike.POLICY_GEN_EQ}
        return [
            ({"gen": generation + 1}, policy)
            if generation < GENERATION_MAX
            else ({"gen": generation}, equal)
            for generation in generations
        ]
