"""No record harms another: whatever JSON a field has, a flow uses the record or sets it aside."""

from __future__ import annotations

import os

import pytest

from footfall.streams.testing import run_flow
from tests.fuzz_support import every_value, some_values
from tests.laws.worlds import LAWS, Law, Rows, without

COUNT = int(os.environ.get("FOOTFALL_FUZZ_RECORDS", "500"))
SEED = int(os.environ.get("FOOTFALL_FUZZ_SEED", "1"))
LATER_MS = 1_680_000_000_000
"""The good records come a year after the odd ones: no window has both."""

OTHER_KINDS = {
    "platform_logs": ((b'"CatalogDbRep"', b'"LoginRep"'), (b'"Ok"', b'"Invalid"')),
    "store_events": ((b'"purchase"', b'"view"'),),
    "user_tags": ((b'"BUY"', b'"VIEW"'),),
}
"""Replacements that make the examples of a topic records of the kind that other flows use."""

every_flow = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def rows_of(law: Law, records: list[bytes]) -> tuple[Rows, int]:
    """Return the rows of a run that uses or sets aside every record, and how many were used."""
    result = run_flow(law.build, records, cuts=(97,))
    (status,) = result.partitions
    assert status.read == len(records)
    assert status.read == status.used + status.filtered + status.late + status.dead
    assert status.dead == len(result.dead)
    assert all(letter.reason for letter in result.dead)
    return law.table(result), status.used


def of_another_kind(topic: str, record: bytes) -> bytes:
    for kind, other in OTHER_KINDS.get(topic, ()):
        record = record.replace(kind, other)
    return record


@every_flow
def test_every_value_at_every_field_is_used_or_a_dead_letter(law: Law) -> None:
    records = [record for _, _, record in every_value(law.topic)]
    records += [of_another_kind(law.topic, record) for record in records]
    good = [law.event(LATER_MS, choice) for choice in range(60)]
    alone, used_alone = rows_of(law, good)
    after, used = rows_of(law, [*records, *good])
    assert used > used_alone
    found = without(after, "offset", "version")
    assert all(row in found for row in without(alone, "offset", "version"))


@every_flow
def test_odd_values_at_several_fields_are_used_or_dead_letters(law: Law) -> None:
    rows_of(law, list(some_values(law.topic, SEED, COUNT)))
